"""The operator's product, and why an instance is as it is."""

from __future__ import annotations

from typing import Any

from tests.unit.api import raw_http
from tests.unit.api.fake_cloud import FakeCloud

YUNTAI = "2026-11-23"


def ask(cloud: FakeCloud, action: str, **parameters: str) -> dict[str, Any]:
    answer = raw_http.rpc(cloud.target, action, version=YUNTAI, **parameters)
    assert answer.status == 200, answer.body
    return answer.json


def test_hosts_and_chunk_servers(cloud: FakeCloud) -> None:
    host = ask(cloud, "DescribeHosts")["Hosts"]["Host"][0]
    assert (host["HostId"], host["Accelerator"], host["VcpusMax"]) == ("h1", "tcg", 4096)
    assert host["Versions"] == [{"Name": "qemu", "Version": "10.0"}]
    servers = ask(cloud, "DescribeChunkServers", PageSize="2")
    assert (servers["TotalCount"], len(servers["ChunkServers"]["ChunkServer"])) == (3, 2)
    one = ask(cloud, "DescribeChunkServers", **{"ChunkServerId.1": "cs-2"})["ChunkServers"]["ChunkServer"]
    assert [server["Rack"] for server in one] == ["rack-2"]


def test_pools_and_labels(cloud: FakeCloud) -> None:
    assert ask(cloud, "DescribeHostPools")["TotalCount"] == 0
    labelled = ask(cloud, "LabelHost", HostId="h1", **{"Label.1.Key": "room", "Label.1.Value": "2"})
    assert labelled["Labels"] == [{"Key": "room", "Value": "2"}]
    refused = raw_http.rpc(cloud.target, "RemoveHost", version=YUNTAI, HostId="h1")
    assert refused.code == (409, "IncorrectHostStatus")
    forbidden = raw_http.rpc(cloud.tenant, "DrainHost", version=YUNTAI, HostId="h1")
    assert forbidden.code == (403, "Forbidden.Operator")


def test_the_life_of_a_volume(cloud: FakeCloud) -> None:
    volume = ask(cloud, "CreateVolume", SizeGib="3")["VolumeId"]
    opened = ask(cloud, "AttachVolume", VolumeId=volume, HostId="h1")
    assert opened["Socket"].startswith("/run/yuntai/nbd/")
    refused = raw_http.rpc(cloud.target, "DeleteVolume", version=YUNTAI, VolumeId=volume)
    assert refused.code == (409, "IncorrectVolumeStatus")
    ask(cloud, "DetachVolume", VolumeId=volume, HostId="h1")
    ask(cloud, "ResizeVolume", VolumeId=volume, SizeGib="4")
    shown = ask(cloud, "DescribeVolumes", **{"VolumeId.1": volume})["Volumes"]["Volume"][0]
    assert (shown["SizeBytes"], shown["State"]) == (4 << 30, "available")
    ask(cloud, "DeleteVolume", VolumeId=volume)
    assert ask(cloud, "DescribeVolumes")["TotalCount"] == 0
    gone = raw_http.rpc(cloud.target, "ResizeVolume", version=YUNTAI, VolumeId=volume, SizeGib="5")
    assert gone.code == (404, "InvalidVolumeId.NotFound")
    nothing = raw_http.rpc(cloud.target, "CreateVolume", version=YUNTAI)
    assert nothing.code == (400, "InvalidParameter")


def test_health_and_jobs(cloud: FakeCloud) -> None:
    health = ask(cloud, "DescribeHealth")
    assert health["Healthy"] is True
    assert {check["Name"] for check in health["Checks"]} == {"hosts", "chunk servers", "volumes", "jobs"}
    made = raw_http.rpc(cloud.tenant, "CreateDisk", Size="1")
    assert made.status == 200
    jobs = ask(cloud, "DescribeJobs", Resource=made.json["DiskId"])["Jobs"]["Job"]
    assert [(job["Action"], job["Request"]) for job in jobs] == [("create_disk", made.json["RequestId"])]


def test_a_tenant_asks_why(cloud: FakeCloud) -> None:
    made = raw_http.rpc(cloud.tenant, "RunInstances", ImageId="m-debian13", InstanceType="ecs.yt1.nano").json
    instance = made["InstanceIdSets"]["InstanceIdSet"][0]
    answer = raw_http.rpc(cloud.tenant, "DescribeInstanceState", version=YUNTAI, InstanceId=instance)
    assert answer.status == 200
    assert (answer.json["InstanceId"], answer.json["Host"]) == (instance, ""), "the host is for operators only"
