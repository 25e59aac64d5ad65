"""A cloud of three hosts on this machine: any of them may die, hang or be cut off, and all of them at once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.functional.cloud import Cloud, running_cloud
from yuntai.cli.client import ApiRefusedError, UnreachableError

pytestmark = [pytest.mark.functional, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=3, racks=3) as made:
        yield made


def new_vpc(cloud: Cloud) -> str:
    """Make a VPC and wait until it is in OVN: that takes API, etcd, control, and the northbound database's leader."""

    def made() -> str | None:
        try:
            return str(cloud.api.vpc("CreateVpc", CidrBlock="10.0.0.0/8")["VpcId"])
        except (UnreachableError, ApiRefusedError) as error:
            print(f"no VPC yet: {error}")
            return None

    vpc = cloud.until(made, "a VPC is made")
    alive = next(host for host in cloud.hosts if not cloud.afflicted(host))
    # Asked of the member on a host that is well, which need not lead: what it has, most members have.
    command = ("ovn-nbctl", "--timeout=10", "--no-leader-only", "--bare", "--columns=external_ids", "list")

    def routed() -> bool:
        try:
            return vpc in cloud.inside(alive, *command, "Logical_Router")
        except subprocess.SubprocessError as error:
            print(f"no answer from OVN yet: {error}")
            return False

    cloud.until(routed, f"{vpc} is in OVN")
    return vpc


def remove_vpc(cloud: Cloud, vpc: str) -> None:
    """Delete the VPC; an account may have few of them."""
    cloud.api.vpc("DeleteVpc", VpcId=vpc)


def test_each_host_has_its_rack_and_one_chunk_server(cloud: Cloud) -> None:
    servers = cloud.api.operator("DescribeChunkServers")["ChunkServers"]["ChunkServer"]
    assert sorted((one["Host"], one["Rack"]) for one in servers) == [
        ("h1", "rack-1"), ("h2", "rack-2"), ("h3", "rack-3"),
    ]  # fmt: skip
    remove_vpc(cloud, new_vpc(cloud))


@pytest.mark.parametrize(("fault", "host"), [("kill", "h1"), ("freeze", "h1"), ("isolate", "h2")])
def test_any_member_may_fail_and_come_back(cloud: Cloud, fault: str, host: str) -> None:
    began_s = time.monotonic()
    getattr(cloud, fault)(host)
    try:
        vpc = new_vpc(cloud)
        print(f"{fault} {host}: a VPC is made {time.monotonic() - began_s:.1f} s after it")
    finally:
        cloud.repair()
        print(f"repaired {time.monotonic() - began_s:.1f} s after it")
    remove_vpc(cloud, vpc)
