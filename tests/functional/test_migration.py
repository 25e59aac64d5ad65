"""Running guests move between hosts by libvirt and QEMU, with their memory, disk, address and connections.

Two guests live through the whole file: none of its tests but the first restarts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import alibabacloud_ecs20140526.models as e
import msgspec
import pytest

from tests.functional import pinging
from tests.functional.cloud import Cloud, running_cloud
from tests.functional.sdk.clients import NewSdk, Target
from yuntai.cli.client import ECS, YUNTAI, Credentials
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


@dataclass(frozen=True)
class Pair:
    """The guests: one to talk to, and one that moves."""

    stays: str
    moves: str


@pytest.fixture(scope="module")
def pair(cloud: Cloud) -> Pair:
    return Pair(cloud.run_instance("stays"), cloud.run_instance("moves"))


def address_of(cloud: Cloud, instance_id: str) -> str:
    words = {"InstanceIds": msgspec.json.encode([instance_id]).decode()}
    (found,) = cloud.api.every(ECS, "DescribeInstances", "Instances", "Instance", **words)
    return str(found["VpcAttributes"]["PrivateIpAddress"]["IpAddress"][0])


def numbers_got(cloud: Cloud, instance_id: str) -> list[int]:
    return [int(line) for line in cloud.ssh(instance_id, "cat /run/got").split()]


def known(cloud: Cloud, host: str, instance_id: str, which: str) -> bool:
    return instance_id in cloud.inside(host, "virsh", "list", which, "--name").split()


def shown(cloud: Cloud, instance_id: str, job: str = "") -> dict[str, Any]:
    return dict(cloud.api.operator("DescribeMigration", InstanceId=instance_id, JobId=job))


def life_of(cloud: Cloud, instance_id: str) -> str:
    return cloud.ssh(instance_id, "cat /proc/sys/kernel/random/boot_id")


def runs_on(cloud: Cloud, instance_id: str, host: str) -> None:
    """Wait until the guest is there and nowhere else, running, and nothing of a migration is left."""

    def alone() -> bool:
        found = shown(cloud, instance_id)
        there = {one for one in cloud.hosts if known(cloud, one, instance_id, "--all")}
        return (found["Host"], found["Migration"]["JobId"], there) == (host, "", {host})

    cloud.until(alone, f"{instance_id} is on {host} alone")
    assert known(cloud, host, instance_id, "--state-running")


async def test_a_guest_moves_with_its_memory_disk_address_and_connections(cloud: Cloud, pair: Pair) -> None:
    stays, moves = pair.stays, pair.moves
    cloud.ssh(moves, "echo on-disk > /root/file; sync; echo in-memory > /run/memory")
    life = life_of(cloud, moves)
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
    runs_on(cloud, moves, after.host)

    got = numbers_got(cloud, stays)
    cloud.until(lambda: len(numbers_got(cloud, stays)) > len(got) + 10, "the connection goes on")
    heard = pinging.stop(cloud, stays)
    print(f"migration: longest gap {heard.gap_ms} ms, {heard.lost} of {len(heard.answered)} pings lost")
    got = numbers_got(cloud, stays)
    assert got == list(range(1, len(got) + 1))
    assert address_of(cloud, moves) == address
    assert life_of(cloud, moves) == life
    assert cloud.ssh(moves, "cat /root/file /run/memory").split() == ["on-disk", "in-memory"]
    # What it had not read yet comes from the disk at the new host, and what it writes now is there after a restart.
    cloud.ssh(moves, "echo 3 > /proc/sys/vm/drop_caches; md5sum /root/file; echo moved >> /root/file; sync")
    cloud.cli("instance", "reboot", moves, "--force", "--wait")
    assert cloud.ssh(moves, "cat /root/file").split() == ["on-disk", "moved"]


def test_it_goes_back_at_once_and_there_again(cloud: Cloud, pair: Pair) -> None:
    life, former = life_of(cloud, pair.moves), shown(cloud, pair.moves)["Host"]
    there = next(host for host in cloud.hosts if host != former)
    for host in (there, former, there):
        cloud.cli("instance", "migrate", pair.moves, "--to", host, "--wait")
        runs_on(cloud, pair.moves, host)
    assert life_of(cloud, pair.moves) == life


BUSY = "while :; do dd if=/dev/shm/a of=/dev/shm/b bs=1M conv=notrunc 2> /dev/null; done"
"""The guest's memory changes all the time, and not to zeros, which would be sent as nothing."""


def test_a_busy_guests_migration_is_shown_and_cancelled_and_succeeds_with_a_faster_link(
    cloud: Cloud, pair: Pair
) -> None:
    moves, life, host = pair.moves, life_of(cloud, pair.moves), shown(cloud, pair.moves)["Host"]
    cloud.ssh(moves, f"head -c 20000000 /dev/urandom > /dev/shm/a; echo '{BUSY}' > /run/busy; sync")
    cloud.ssh(moves, "setsid sh /run/busy < /dev/null > /dev/null 2>&1 & echo $! > /run/busy.pid")
    cloud.inside(host, "virsh", "migrate-setspeed", moves, "1")  # MiB in a second: it takes minutes
    job = cloud.cli("instance", "migrate", moves).split()[-1]

    def under_way() -> dict[str, Any] | None:
        now = dict(shown(cloud, moves, job)["Migration"])
        return now if now["TransferredBytes"] and now["RemainingBytes"] and now["EtaSeconds"] > 0 else None

    now = cloud.until(under_way, "it is under way")
    assert (now["Source"], now["State"], now["Phase"], now["DowntimeMs"]) == (host, "moving", "move", -1.0)
    assert known(cloud, now["Destination"], moves, "--all")
    cloud.cli("instance", "cancel-migration", moves)
    cloud.until(lambda: shown(cloud, moves, job)["JobState"] == "failed", "it is called off")
    assert "cancelled" in shown(cloud, moves, job)["Error"]
    runs_on(cloud, moves, host)

    cloud.inside(host, "virsh", "migrate-setspeed", moves, "1000")
    cloud.cli("instance", "migrate", moves, "--to", now["Destination"], "--wait", timeout_s=600)
    runs_on(cloud, moves, now["Destination"])
    cloud.ssh(moves, "kill $(cat /run/busy.pid); rm /dev/shm/a /dev/shm/b")
    assert life_of(cloud, moves) == life


def test_a_tenant_has_a_running_guest_moved_by_the_official_sdk(cloud: Cloud, pair: Pair) -> None:
    keys = msgspec.json.decode(cloud.home.credentials.read_bytes(), type=Credentials)
    sdk = NewSdk(Target(keys.endpoint, keys.access_key_id, keys.access_key_secret, keys.region))
    life, host = life_of(cloud, pair.moves), shown(cloud, pair.moves)["Host"]
    made = sdk.ecs.create_deployment_set(e.CreateDeploymentSetRequest(region_id=keys.region, strategy="Availability"))
    wanted = made.body.deployment_set_id
    sdk.ecs.modify_instance_deployment(
        e.ModifyInstanceDeploymentRequest(
            region_id=keys.region, instance_id=pair.moves, deployment_set_id=wanted, migration_type="live"
        )
    )
    cloud.until(lambda: shown(cloud, pair.moves)["Host"] != host, "it has another host")
    cloud.until(lambda: shown(cloud, pair.moves)["Migration"]["JobId"] == "", "it has moved")
    asked = e.DescribeInstancesRequest(region_id=keys.region, instance_ids=f'["{pair.moves}"]')
    (found,) = sdk.ecs.describe_instances(asked).body.instances.instance
    assert (found.status, found.deployment_set_id) == ("Running", wanted)
    assert life_of(cloud, pair.moves) == life
    assert sdk.recorder.problems() == []


def test_a_host_is_emptied_of_its_running_guests_and_takes_them_again(cloud: Cloud, pair: Pair) -> None:
    both = (pair.stays, pair.moves)
    host = shown(cloud, pair.stays)["Host"]
    if shown(cloud, pair.moves)["Host"] != host:
        cloud.cli("instance", "migrate", pair.moves, "--to", host, "--wait")
    lives = [life_of(cloud, one) for one in both]
    cloud.cli("host", "drain", host, "--wait", "--timeout", "240", timeout_s=300)
    cloud.until(lambda: cloud.inside(host, "virsh", "list", "--all", "--name").split() == [], "it has no guest")
    assert [life_of(cloud, one) for one in both] == lives
    for one in both:
        runs_on(cloud, one, shown(cloud, one)["Host"])
    cloud.cli("host", "undrain", host)
    cloud.cli("instance", "migrate", pair.stays, "--to", host, "--wait")
    (row,) = [one for one in cloud.api.every(YUNTAI, "DescribeHosts", "Hosts", "Host") if one["HostId"] == host]
    assert (row["Maintenance"], row["Waiting"]) == ("", [])
