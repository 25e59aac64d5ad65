"""A cloud of three hosts on this machine: any of them may die, hang or be cut off, and all of them at once."""

from __future__ import annotations

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
    remote = cloud.spec(alive).config().ovn_nb

    def routed() -> bool:
        command = ("ovn-nbctl", "--timeout=20", f"--db={remote}", "--bare", "--columns=external_ids", "list")
        return vpc in cloud.inside(alive, *command, "Logical_Router", timeout_s=40)

    cloud.until(routed, f"{vpc} is in OVN")
    return vpc


def test_each_host_has_its_rack_and_one_chunk_server(cloud: Cloud) -> None:
    servers = cloud.api.operator("DescribeChunkServers")["ChunkServers"]["ChunkServer"]
    assert sorted((one["Host"], one["Rack"]) for one in servers) == [
        ("h1", "rack-1"), ("h2", "rack-2"), ("h3", "rack-3"),
    ]  # fmt: skip
    new_vpc(cloud)
