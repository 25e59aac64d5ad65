"""Running guests move between hosts by libvirt and QEMU, with their memory, disk, address and connections."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from tests.functional import pinging
from tests.functional.cloud import Cloud, running_cloud
from yuntai.cli.client import ECS
from yuntai.model.compute import Instance, Migration, MigrationProgress
from yuntai.model.network import Port

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(1200)]

PORT = 5000
LISTEN = f"setsid sh -c 'tail -f /dev/null | nc -l -p {PORT} > /run/got' < /dev/null > /dev/null 2>&1 &"
TALK = (
    "setsid sh -c 'n=0; while :; do n=$((n + 1)); echo $n; sleep 0.1; done | "
    f"nc ADDRESS {PORT}' < /dev/null > /dev/null 2>&1 &"
)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=3) as made:
        yield made


def address_of(cloud: Cloud, instance_id: str) -> str:
    words = {"InstanceIds": msgspec.json.encode([instance_id]).decode()}
    (found,) = cloud.api.every(ECS, "DescribeInstances", "Instances", "Instance", **words)
    return str(found["VpcAttributes"]["PrivateIpAddress"]["IpAddress"][0])


def numbers_got(cloud: Cloud, instance_id: str) -> list[int]:
    return [int(line) for line in cloud.ssh(instance_id, "cat /run/got").split()]


def known(cloud: Cloud, host: str, instance_id: str, which: str) -> bool:
    return instance_id in cloud.inside(host, "virsh", "list", which, "--name").split()


async def test_a_guest_moves_with_its_memory_disk_address_and_connections(cloud: Cloud) -> None:
    stays, moves = cloud.run_instance("stays"), cloud.run_instance("moves")
    cloud.ssh(moves, "echo on-disk > /root/file; sync; echo in-memory > /run/memory")
    life = cloud.ssh(moves, "cat /proc/sys/kernel/random/boot_id")
    cloud.ssh(stays, LISTEN)
    cloud.ssh(moves, TALK.replace("ADDRESS", address_of(cloud, stays)))
    cloud.until(lambda: numbers_got(cloud, stays), "the connection stands")
    address = address_of(cloud, moves)
    async with cloud.store() as store:
        before = (await store.need(Instance, moves)).value
    pinging.start(cloud, stays, address)

    cloud.cli("instance", "migrate", moves, "--wait")

    async with cloud.store() as store:
        after = (await store.need(Instance, moves)).value
        port = (await store.need(Port, after.port)).value
        left = [*await store.list(Migration), *await store.list(MigrationProgress)]
    assert after.host not in ("", before.host)
    assert (after.status, after.migrating_to, port.host, port.destination) == ("Running", "", after.host, "")
    assert left == []
    assert {host for host in cloud.hosts if known(cloud, host, moves, "--state-running")} == {after.host}
    cloud.until(lambda: not known(cloud, before.host, moves, "--all"), "the former host has forgotten the guest")

    got = numbers_got(cloud, stays)
    cloud.until(lambda: len(numbers_got(cloud, stays)) > len(got) + 10, "the connection goes on")
    heard = pinging.stop(cloud, stays)
    print(f"migration: longest gap {heard.gap_ms} ms, {heard.lost} of {len(heard.answered)} pings lost")
    got = numbers_got(cloud, stays)
    assert got == list(range(1, len(got) + 1))
    assert address_of(cloud, moves) == address
    assert cloud.ssh(moves, "cat /proc/sys/kernel/random/boot_id") == life
    assert cloud.ssh(moves, "cat /root/file /run/memory").split() == ["on-disk", "in-memory"]
    # What it had not read yet comes from the disk at the new host, and what it writes now is there after a restart.
    cloud.ssh(moves, "echo 3 > /proc/sys/vm/drop_caches; md5sum /root/file; echo moved >> /root/file; sync")
    cloud.cli("instance", "reboot", moves, "--force", "--wait")
    assert cloud.ssh(moves, "cat /root/file").split() == ["on-disk", "moved"]
