"""Lists: paging by number and by token, filters, and that nobody sees what is another's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from tests.functional.sdk.clients import Target
from tests.unit.api import raw_http
from tests.unit.api.fake_cloud import OTHER_KEY, SECRET, FakeCloud
from yuntai.api import catalogue

COUNT = 23


@pytest.fixture(scope="module")
def full() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        made = raw_http.rpc(
            cloud.tenant,
            "RunInstances",
            ImageId="m-debian13",
            InstanceType="ecs.yt1.nano",
            Amount=str(COUNT),
            InstanceName="many-",
            UniqueSuffix="true",
            **{"Tag.1.Key": "kind", "Tag.1.Value": "many"},
        )
        assert made.status == 200, made.body
        yield cloud


@pytest.fixture(scope="module")
def stranger(full: FakeCloud) -> Target:
    return dataclasses.replace(full.tenant, access_key_id=OTHER_KEY, access_key_secret=SECRET)


def page(target: Target, action: str = "DescribeInstances", **parameters: str) -> dict[str, Any]:
    answer = raw_http.rpc(target, action, **parameters)
    assert answer.status == 200, answer.body
    return answer.json


def ids(body: dict[str, Any]) -> list[str]:
    return [one["InstanceId"] for one in body["Instances"]["Instance"]]


def test_pages_by_number(full: FakeCloud) -> None:
    seen: list[str] = []
    for number, expected in ((1, 10), (2, 10), (3, 3), (4, 0)):
        body = page(full.tenant, PageNumber=str(number), PageSize="10")
        assert (body["TotalCount"], body["PageNumber"], body["PageSize"]) == (COUNT, number, 10)
        assert len(ids(body)) == expected
        seen += ids(body)
    assert len(set(seen)) == COUNT


def test_pages_by_token(full: FakeCloud) -> None:
    seen: list[str] = []
    token = ""
    for _ in range(COUNT):
        body = page(full.tenant, MaxResults="7", NextToken=token)
        seen += ids(body)
        token = body["NextToken"]
        if not token:
            break
    assert len(seen) == len(set(seen)) == COUNT
    refused = raw_http.rpc(full.tenant, "DescribeInstances", NextToken="nonsense")
    assert refused.code == (400, "InvalidParameter")


def test_sizes_are_clamped(full: FakeCloud) -> None:
    assert page(full.tenant, PageSize="100000")["PageSize"] == 100
    assert page(full.tenant, PageSize="0", PageNumber="-1")["PageNumber"] == 1


@pytest.mark.parametrize(
    ("parameters", "count"),
    [
        ({"InstanceName": "many-00*"}, 9),
        ({"InstanceName": "many-001"}, 1),
        ({"Status": "Stopped"}, 0),
        ({"InstanceType": "ecs.yt1.nano"}, COUNT),
        ({"ImageId": "m-other"}, 0),
        ({"Tag.1.Key": "kind"}, COUNT),
        ({"Tag.1.Key": "kind", "Tag.1.Value": "few"}, 0),
        ({"InstanceIds": '["i-none"]'}, 0),
        ({"ZoneId": "cn-local-a"}, COUNT),
        ({"PublicIpAddresses": '["1.2.3.4"]'}, 0),
        ({"EipAddresses": '["1.2.3.4"]'}, 0),
        ({"InstanceChargeType": "PrePaid"}, 0),
        ({"InstanceNetworkType": "classic"}, 0),
    ],
)
def test_filters(full: FakeCloud, parameters: dict[str, str], count: int) -> None:
    assert page(full.tenant, **parameters)["TotalCount"] == count


def test_a_stranger_sees_nothing(full: FakeCloud, stranger: Target) -> None:
    mine = page(full.tenant, PageSize="1")["Instances"]["Instance"][0]
    instance, vpc = mine["InstanceId"], mine["VpcAttributes"]["VpcId"]
    for version, table in catalogue.load().items():
        for name, action in table.items():
            if action.writes or any(param.needed for param in action.params.members):
                continue
            answer = raw_http.rpc(stranger, name, version=version)
            assert answer.status == 200 or (answer.status, action.operator) == (403, True), (name, answer.body)
            text = answer.body.decode()
            assert instance not in text, name
            assert vpc not in text, name
    for name in ("DescribeInstanceAttribute", "DescribeUserData", "GetInstanceConsoleOutput", "StopInstance"):
        answer = raw_http.rpc(stranger, name, InstanceId=instance)
        assert answer.code == (404, "InvalidInstanceId.NotFound")
    assert raw_http.rpc(stranger, "DescribeVpcAttribute", version="2016-04-28", VpcId=vpc).status == 404
    assert raw_http.rpc(stranger, "DescribeInstanceState", version="2026-11-23", InstanceId=instance).status == 404
