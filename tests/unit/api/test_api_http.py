"""The listener over real HTTP: forms of a request, forms of an answer, and every refusal with code, text and status."""

from __future__ import annotations

import http.client
import json
import re
import socket
from urllib.parse import urlencode, urlsplit

import pytest

from tests.functional.sdk.clients import Target
from tests.unit.api import raw_http
from tests.unit.api.fake_cloud import OFF_KEY, SECRET, FakeCloud
from yuntai.api import server
from yuntai.api.throttle import Throttle


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_everything_in_the_query(cloud: FakeCloud, method: str) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeRegions", method)
    assert answer.status == 200
    assert answer.json["Regions"]["Region"][0]["RegionId"] == "cn-local"
    assert answer.headers["content-type"] == "application/json;charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers["x-acs-request-id"] == answer.json["RequestId"]
    assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", answer.json["RequestId"])


def test_everything_in_the_form(cloud: FakeCloud) -> None:
    assert raw_http.form(cloud.tenant, "DescribeRegions").status == 200


def test_system_parameters_in_the_query_and_the_rest_in_the_form(cloud: FakeCloud) -> None:
    names = ("Action", "Version", "AccessKeyId", "Signature", "SignatureNonce", "Timestamp", "Format")
    answer = raw_http.form(cloud.tenant, "DescribeInstances", names, InstanceIds='["i-none"]', PageSize="1")
    assert (answer.status, answer.json["TotalCount"], answer.json["PageSize"]) == (200, 0, 1)


def test_an_absolute_uri_as_sent_to_a_proxy(cloud: FakeCloud) -> None:
    target = cloud.tenant
    signed = raw_http.rpc_sign(raw_http.rpc_params(target, "DescribeRegions"), target.access_key_secret, "POST")
    uri = "http://ecs-cn-local.aliyuncs.com/?" + urlencode(signed)
    answer = raw_http.send(target, "POST", uri, {"Host": "ecs-cn-local.aliyuncs.com"})
    assert answer.status == 200
    assert answer.json["Regions"]["Region"][0]["RegionEndpoint"] == "ecs-cn-local.aliyuncs.com"


def test_acs3(cloud: FakeCloud) -> None:
    assert raw_http.acs3(cloud.tenant, "DescribeInstances", {"PageSize": "3", "Tag.1.Key": "a b*~"}).status == 200


def test_xml(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeZones", Format="xml")
    root = answer.xml
    assert (root.tag, answer.headers["content-type"]) == ("DescribeZonesResponse", "text/xml;charset=utf-8")
    assert root.findtext("Zones/Zone/ZoneId") == "cn-local-a"
    assert len(root.findall("Zones/Zone/AvailableDiskCategories/DiskCategories")) > 1
    assert root.findtext("Zones/Zone/AvailableResources/ResourcesInfo/IoOptimized") == "true"
    empty = raw_http.rpc(cloud.tenant, "DescribeDisks", Format="XML").xml
    assert empty.find("Disks") is not None, "a list without items keeps its wrapper"


def test_xml_by_accept(cloud: FakeCloud) -> None:
    target = cloud.tenant
    signed = raw_http.rpc_sign(raw_http.rpc_params(target, "DescribeRegions"), target.access_key_secret, "GET")
    answer = raw_http.send(target, "GET", "/?" + urlencode(signed), {"Accept": "application/xml"})
    assert answer.xml.tag == "DescribeRegionsResponse"


def test_an_xml_error(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeNothing", Format="XML")
    root = answer.xml
    assert (answer.status, root.tag, root.findtext("Code")) == (404, "Error", "InvalidAction.NotFound")
    assert root.findtext("RequestId") == answer.headers["x-acs-request-id"]
    assert root.findtext("HostId") == cloud.tenant.host


def test_keys_are_in_order(cloud: FakeCloud) -> None:
    body = raw_http.rpc(cloud.tenant, "DescribeImages").json
    assert list(body) == sorted(body)
    assert list(body["Images"]["Image"][0]) == sorted(body["Images"]["Image"][0])


def test_a_connection_is_kept(cloud: FakeCloud) -> None:
    target = cloud.tenant
    parts = urlsplit(target.endpoint)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    for _ in range(3):
        signed = raw_http.rpc_sign(raw_http.rpc_params(target, "DescribeRegions"), target.access_key_secret, "GET")
        connection.request("GET", "/?" + urlencode(signed))
        answer = connection.getresponse()
        assert json.loads(answer.read())["RequestId"]
        assert answer.getheader("connection", "keep-alive") == "keep-alive"
    connection.close()


def test_health_needs_no_signature(cloud: FakeCloud) -> None:
    assert raw_http.send(cloud.tenant, "GET", "/healthz").status == 200


def test_an_unknown_action(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "MakeCoffee")
    assert answer.code == (404, "InvalidAction.NotFound")
    assert "MakeCoffee" in answer.json["Message"]
    assert set(answer.json) == {"Code", "HostId", "Message", "Recommend", "RequestId"}


def test_an_unknown_version(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeRegions", version="2001-01-01")
    assert answer.code == (404, "InvalidVersion")
    assert "2014-05-26" in answer.json["Message"]


def test_a_wrong_key(cloud: FakeCloud) -> None:
    wrong = Target(cloud.tenant.endpoint, "NOBODY", "nothing", "cn-local")
    answer = raw_http.rpc(wrong, "DescribeRegions")
    assert (answer.code, answer.json["Message"]) == (
        (404, "InvalidAccessKeyId.NotFound"),
        "Specified access key is not found.",
    )


def test_a_disabled_key(cloud: FakeCloud) -> None:
    off = Target(cloud.tenant.endpoint, OFF_KEY, SECRET, "cn-local")
    assert raw_http.rpc(off, "DescribeRegions").code == (403, "InvalidAccessKeyId.Inactive")


def test_a_wrong_secret_by_rpc_shows_what_was_signed(cloud: FakeCloud) -> None:
    tenant = cloud.tenant
    wrong = Target(tenant.endpoint, tenant.access_key_id, "wrong", "cn-local")
    answer = raw_http.rpc(wrong, "DescribeRegions")
    assert answer.code == (400, "SignatureDoesNotMatch")
    message = answer.json["Message"]
    prefix = "Specified signature is not matched with our calculation. server string to sign is:GET&%2F&AccessKeyId%3D"
    assert message.startswith(prefix)
    assert "Signature%3D" not in message, "the string to sign holds no signature"


def test_a_wrong_secret_by_acs3_shows_what_was_signed(cloud: FakeCloud) -> None:
    tenant = cloud.tenant
    wrong = Target(tenant.endpoint, tenant.access_key_id, "wrong", "cn-local")
    answer = raw_http.acs3(wrong, "DescribeRegions")
    assert answer.code == (400, "SignatureDoesNotMatch")
    assert "server StringToSign is [ACS3-HMAC-SHA256\n" in answer.json["Message"]
    assert "server CanonicalRequest is [POST\n/\n" in answer.json["Message"]


def test_a_parameter_changed_on_the_way(cloud: FakeCloud) -> None:
    target = cloud.tenant
    params = raw_http.rpc_params(target, "DeleteInstance", InstanceId="i-1")
    signed = raw_http.rpc_sign(params, target.access_key_secret, "GET")
    answer = raw_http.send(target, "GET", "/?" + urlencode({**signed, "InstanceId": "i-2"}))
    assert answer.code == (400, "SignatureDoesNotMatch")


def test_a_body_changed_on_the_way(cloud: FakeCloud) -> None:
    headers = raw_http.acs3_authorize(cloud.tenant, raw_http.acs3_headers(cloud.tenant, "DescribeDisks"), {}, b"a=1")
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    assert raw_http.send(cloud.tenant, "POST", "/", headers, b"a=2").code == (400, "SignatureDoesNotMatch")


def test_the_host_is_part_of_acs3(cloud: FakeCloud) -> None:
    headers = raw_http.acs3_authorize(cloud.tenant, raw_http.acs3_headers(cloud.tenant, "DescribeRegions"), {})
    answer = raw_http.send(cloud.tenant, "POST", "/", {**headers, "host": "elsewhere.example"})
    assert answer.code == (400, "SignatureDoesNotMatch")


def test_an_action_header_that_acs3_does_not_cover(cloud: FakeCloud) -> None:
    headers = raw_http.acs3_headers(cloud.tenant, "DescribeRegions")
    hidden = headers.pop("x-acs-action")
    signed = raw_http.acs3_authorize(cloud.tenant, headers, {})
    answer = raw_http.send(cloud.tenant, "POST", "/", {**signed, "x-acs-action": hidden})
    assert answer.code == (400, "IncompleteSignature")
    assert "x-acs-action" in answer.json["Message"]


def test_an_action_header_that_rpc_does_not_cover(cloud: FakeCloud) -> None:
    params = raw_http.rpc_params(cloud.tenant, "DescribeRegions")
    del params["Action"]
    signed = raw_http.rpc_sign(params, cloud.tenant.access_key_secret, "GET")
    answer = raw_http.send(cloud.tenant, "GET", "/?" + urlencode(signed), {"x-acs-action": "DeleteInstance"})
    assert answer.code == (400, "MissingParameter")


def test_an_authorization_of_another_kind(cloud: FakeCloud) -> None:
    answer = raw_http.send(cloud.tenant, "POST", "/", {"Authorization": "AWS4-HMAC-SHA256 Credential=x"})
    assert answer.code == (400, "IncompleteSignature")


@pytest.mark.parametrize("action", ["DescribeRegions", "CreateVpc"])
def test_a_replayed_request(cloud: FakeCloud, action: str) -> None:
    target = cloud.tenant
    params = raw_http.rpc_params(target, action, "2016-04-28", CidrBlock="10.0.0.0/16")
    path = "/?" + urlencode(raw_http.rpc_sign(params, target.access_key_secret, "GET"))
    assert raw_http.send(target, "GET", path).status == 200
    answer = raw_http.send(target, "GET", path)
    assert (answer.code, answer.json["Message"]) == (
        (400, "SignatureNonceUsed"),
        "The request signature nonce has been used.",
    )


@pytest.mark.parametrize("offset_s", [-16 * 60, 16 * 60])
def test_an_old_and_a_future_time(cloud: FakeCloud, offset_s: int) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeRegions", Timestamp=raw_http.now(offset_s))
    assert answer.code == (400, "InvalidTimeStamp.Expired")


def test_a_malformed_time(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeRegions", Timestamp="yesterday")
    assert answer.code == (400, "InvalidTimeStamp.Format")


@pytest.mark.parametrize("name", ["AccessKeyId", "Signature", "SignatureNonce", "Timestamp", "Action", "Version"])
def test_a_missing_system_parameter(cloud: FakeCloud, name: str) -> None:
    target = cloud.tenant
    params = raw_http.rpc_sign(raw_http.rpc_params(target, "DescribeRegions"), target.access_key_secret, "GET")
    del params[name]
    answer = raw_http.send(target, "GET", "/?" + urlencode(params))
    text = f'The input parameter "{name}" that is mandatory for processing this request is not supplied.'
    assert (answer.code, answer.json["Message"]) == ((400, "MissingParameter"), text)


def test_a_missing_parameter(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "AttachDisk", DiskId="d-1")
    assert answer.code == (400, "MissingParameter")
    assert '"InstanceId"' in answer.json["Message"]


@pytest.mark.parametrize(
    ("action", "parameters", "named"),
    [
        ("DescribeInstances", {"PageSize": "many"}, "PageSize"),
        ("DescribeInstances", {"InstanceIds": '["i-1"'}, "InstanceIds"),
        ("DescribeInstances", {"Tag.one.Key": "a"}, "Tag"),
        ("StopInstance", {"InstanceId": "i-1", "ForceStop": "yes"}, "ForceStop"),
        ("RunInstances", {"DataDisk.1": "20"}, "DataDisk.1"),
        ("RunInstances", {"SystemDisk": "20"}, "SystemDisk"),
    ],
)
def test_a_malformed_parameter(cloud: FakeCloud, action: str, parameters: dict[str, str], named: str) -> None:
    answer = raw_http.rpc(cloud.tenant, action, **parameters)
    assert answer.code == (400, "InvalidParameter")
    assert f'"{named}"' in answer.json["Message"]


def test_a_resource_that_is_not_there(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "StartInstance", InstanceId="i-0000000000000000")
    assert answer.code == (404, "InvalidInstanceId.NotFound")
    assert raw_http.rpc(cloud.tenant, "DescribeVpcAttribute", version="2016-04-28", VpcId="vpc-no").status == 404


def test_another_region(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeInstances", RegionId="cn-mars")
    assert answer.code == (404, "InvalidRegionId.NotFound")


def test_parameters_that_nobody_knows_are_ignored(cloud: FakeCloud) -> None:
    assert raw_http.rpc(cloud.tenant, "DescribeInstances", on="RunInstances", **{"Filter.1.Key": "x"}).status == 200


def test_a_dry_run(cloud: FakeCloud) -> None:
    assert raw_http.rpc(cloud.tenant, "DescribeInstances", DryRun="true").code == (400, "DryRunOperation")
    answer = raw_http.rpc(cloud.tenant, "CreateVpc", version="2016-04-28", CidrBlock="10.0.0.0/8", DryRun="True")
    assert answer.code == (400, "DryRunOperation")


def test_a_dry_run_where_there_is_none_is_not_carried_out(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "DeleteDisk", DiskId="d-1", DryRun="true")
    assert answer.code == (400, "InvalidParameter")


def test_the_same_parameter_twice(cloud: FakeCloud) -> None:
    answer = raw_http.send(cloud.tenant, "GET", "/?Action=DescribeRegions&Action=DeleteInstance")
    assert answer.code == (400, "InvalidParameter")


def test_another_method_and_another_path(cloud: FakeCloud) -> None:
    assert raw_http.send(cloud.tenant, "PUT", "/").code == (405, "UnsupportedHTTPMethod")
    assert raw_http.send(cloud.tenant, "GET", "/instances").code == (404, "InvalidAction.NotFound")


def test_a_body_that_is_too_large(cloud: FakeCloud) -> None:
    answer = raw_http.send(cloud.tenant, "POST", "/", {}, b"x" * (server.BODY_MAX + 1))
    assert answer.code == (413, "RequestTooLarge")


def test_user_data_of_the_greatest_size_fits_into_a_query(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "RunInstances", "POST", UserData="+/" * 21000, ImageId="m-none")
    assert answer.code[0] == 400
    assert "UserData" in answer.json["Message"] or answer.json["Code"] == "MissingParameter"


def test_an_operator_s_action_by_a_tenant(cloud: FakeCloud) -> None:
    answer = raw_http.rpc(cloud.tenant, "DescribeHosts", version="2026-11-23")
    assert answer.code == (403, "Forbidden.Operator")


def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    with FakeCloud(throttle=Throttle(rate_per_s=0.1, burst=2)) as slow:
        answers = [raw_http.rpc(slow.tenant, "DescribeRegions") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].json["Code"] == "Throttling.User"
    assert 0 < int(answers[2].headers["x-acs-retry-after"]) <= 10_000


def test_a_store_that_does_not_answer_is_said_to_be_so(cloud: FakeCloud) -> None:
    cloud.loop.call_soon_threadsafe(setattr, cloud.store.memory, "available", False)
    try:
        answer = raw_http.rpc(cloud.tenant, "CreateVpc", version="2016-04-28", CidrBlock="10.0.0.0/8")
        assert answer.code == (503, "ServiceUnavailable")
        assert raw_http.rpc(cloud.tenant, "DescribeInstances").status == 200, "reads go on from memory"
    finally:
        cloud.loop.call_soon_threadsafe(setattr, cloud.store.memory, "available", True)


def test_a_fault_of_ours_shows_nothing_of_the_inside(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a path, a password")

    monkeypatch.setattr("tests.unit.api.fake_cloud.FakeVolumes.resize", broken)
    answer = raw_http.rpc(cloud.target, "ResizeVolume", version="2026-11-23", VolumeId="vol-1", SizeGib="1")
    assert answer.code == (500, "InternalError")
    assert "password" not in answer.body.decode()


def test_a_request_that_never_ends_its_head_is_dropped() -> None:
    with FakeCloud(silent_s=1.0) as cloud, socket.create_connection(("127.0.0.1", cloud.port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        try:
            left = client.recv(100)
        except ConnectionResetError:
            left = b""
        assert left == b""
        assert raw_http.rpc(cloud.tenant, "DescribeRegions").status == 200
