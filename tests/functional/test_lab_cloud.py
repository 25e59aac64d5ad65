"""A cloud of three hosts on this machine: any of them may die, hang or be cut off, and all of them at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.functional.cloud import READY_S, Cloud, running_cloud
from tests.functional.lab_site import leftovers
from yuntai.cli.client import ECS, ApiRefusedError, UnreachableError
from yuntai.lab import cloud as lab
from yuntai.model.cluster import HostFailure
from yuntai.model.compute import Instance

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
    """Delete the VPC; an account may have few of them. Asked again when cut off, as after a fault a call may be."""

    def removed() -> bool:
        try:
            cloud.api.vpc("DeleteVpc", VpcId=vpc)
        except UnreachableError as error:
            print(f"{vpc} is not known to be removed yet: {error}")
            return False
        except ApiRefusedError as error:
            if error.error_code != "InvalidVpcID.NotFound":
                raise
        return True

    cloud.until(removed, f"{vpc} is removed")


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


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> str:
    """Return an instance whose guest notes its uptime on its disk, several times a second."""
    instance = cloud.run_instance("ticks")
    loop = "while :; do cut -d' ' -f1 /proc/uptime >> /root/ticks; sync; sleep 0.3; done"
    cloud.ssh(instance, f"echo kept > /root/kept; sync; ({loop}) > /dev/null 2>&1 < /dev/null &")
    return instance


def longest_gap_s(cloud: Cloud, guest: str) -> float:
    """Return the longest time between two of the guest's latest notes, and forget all."""
    notes = round(LEADERLESS_S * 5)
    ticks = [float(line) for line in cloud.ssh(guest, f"tail -n {notes} /root/ticks; : > /root/ticks").split()]
    assert len(ticks) > 1
    return max(later - earlier for earlier, later in pairwise(ticks))


def boot_of(cloud: Cloud, guest: str) -> str:
    """Return what is another with each boot of the guest."""
    return cloud.ssh(guest, "cat /proc/sys/kernel/random/boot_id")


def new_disk(cloud: Cloud, token: str) -> str:
    """Create a disk with a client token, asking until that is answered; return its id."""

    def created() -> str | None:
        try:
            answer = cloud.api.ecs("CreateDisk", ZoneId=cloud.cluster.zone, Size=20, ClientToken=token)
            return str(answer["DiskId"])
        except (UnreachableError, ApiRefusedError) as error:
            print(f"no disk yet: {error}")
            return None

    return cloud.until(created, f"the disk {token} is created")


def disks(cloud: Cloud) -> dict[str, str]:
    """Return every disk with its status; none while the API does not answer."""
    try:
        found = list(cloud.api.every(ECS, "DescribeDisks", "Disks", "Disk"))
    except (UnreachableError, ApiRefusedError):
        return {}
    return {str(one["DiskId"]): str(one["Status"]) for one in found}


CONTROL_PROCESSES = ("etcd", "master", "control", "api", "agent", "guard", "metadata", "ovn-northd", "ovn-nb", "ovn-sb")
LEADERLESS_S = float(os.environ.get("YUNTAI_TEST_LEADERLESS_S", "20"))
"""Four leases long. The guest may lose far less: whoever paused it for want of a lease would be found out."""
GUEST_GAP_S = 12.0


def test_control_processes_may_be_killed_at_any_moment(cloud: Cloud, guest: str) -> None:
    """Each is killed on all hosts at once while a request is carried out; the guest runs on, nothing is done twice."""
    boot, before = boot_of(cloud, guest), set(disks(cloud))
    created = set()
    for name in CONTROL_PROCESSES:
        created.add(new_disk(cloud, f"token-{name}"))
        for host in cloud.hosts:
            cloud.kill_process(host, name)
        assert new_disk(cloud, f"token-{name}") in created, "the same token is the same disk"
    cloud.until(lambda: {disks(cloud).get(one) for one in created} == {"Available"}, "all disks are there")
    cloud.wait_up()
    assert set(disks(cloud)) - before == created
    assert len(created) == len(CONTROL_PROCESSES)
    assert boot_of(cloud, guest) == boot
    assert longest_gap_s(cloud, guest) < GUEST_GAP_S


async def failed_and_moved(cloud: Cloud) -> set[str]:
    """Return what hosts were called failed when, and what instances are where."""
    async with cloud.store() as store:
        failed = {f"{one.value.id} {one.value.judged}" for one in await store.list(HostFailure)}
        return failed | {f"{one.value.id} {one.value.host}" for one in await store.list(Instance)}


async def test_a_compaction_and_a_time_without_a_leader_are_not_noticed(cloud: Cloud, guest: str) -> None:
    boot = await asyncio.to_thread(boot_of, cloud, guest)
    async with cloud.store() as store:
        for _ in range(3):
            await asyncio.to_thread(new_disk, cloud, f"before-{await store.compact()}")
    before, known = await failed_and_moved(cloud), set(await asyncio.to_thread(disks, cloud))
    frozen = [cloud.signal(host, "etcd", signal.SIGSTOP) for host in ("h1", "h2")]
    try:
        await asyncio.sleep(LEADERLESS_S)
    finally:
        for process in frozen:
            process.signal(signal.SIGCONT)
    began_s = time.monotonic()
    made = await asyncio.to_thread(new_disk, cloud, "afterwards")
    await asyncio.to_thread(cloud.until, lambda: disks(cloud).get(made) == "Available", "the disk is there")
    print(f"after {LEADERLESS_S:.0f} s without a leader a disk is there in {time.monotonic() - began_s:.1f} s")
    await asyncio.to_thread(cloud.wait_up)
    assert await asyncio.to_thread(boot_of, cloud, guest) == boot
    gap_s = await asyncio.to_thread(longest_gap_s, cloud, guest)
    print(f"longest time between two synced writes of the guest: {gap_s:.2f} s")
    assert gap_s < GUEST_GAP_S
    assert set(await asyncio.to_thread(disks, cloud)) == {*known, made}, "nothing is done twice"
    assert await failed_and_moved(cloud) == before, "nobody was called failed, nothing moved"


def host_of(cloud: Cloud, instance: str) -> str:
    return str(cloud.api.operator("ExplainInstance", InstanceId=instance)["Host"])


def is_awaited(cloud: Cloud, host: str) -> bool:
    """Return whether the API shows that the host was off with all the others and is given time to come back."""
    try:
        (shown,) = cloud.api.operator("DescribeHosts", HostId=[host])["Hosts"]["Host"]
    except (UnreachableError, ApiRefusedError):
        return False
    return bool(shown["AwaitedUntil"])


def test_all_off_all_on(cloud: Cloud, guest: str) -> None:
    """The whole lab is killed at once and started again: what ran runs, what was stopped is stopped, the disks too.

    The host of the guest comes back only when the others would have started it elsewhere, had it failed alone.
    """
    cloud.cli("instance", "stop", stopped := cloud.run_instance("stopped"), "--force", "--wait", "--timeout", "240")
    boot, before = boot_of(cloud, guest), disks(cloud)
    late = host_of(cloud, guest)
    cloud.crash()
    began_s = time.monotonic()
    lab.up([spec for spec in cloud.specs if spec.name != late], cloud.root, print, READY_S)
    cloud.until(lambda: is_awaited(cloud, late), f"{late} is awaited")
    print(f"{late} is awaited {time.monotonic() - began_s:.1f} s after the start of the others")
    cloud.start()
    print(f"the cloud is up {time.monotonic() - began_s:.1f} s after its start")
    assert cloud.ssh(guest, "cat /root/kept") == "kept"
    print(f"the guest answers {time.monotonic() - began_s:.1f} s after the start")
    assert boot_of(cloud, guest) != boot
    shown = {
        one["InstanceId"]: one["Status"] for one in cloud.api.every(ECS, "DescribeInstances", "Instances", "Instance")
    }
    assert shown == {guest: "Running", stopped: "Stopped"}
    assert disks(cloud) == before
    runs_on = [host for host in cloud.hosts if guest in cloud.inside(host, "virsh", "list", "--name")]
    assert runs_on == [late], "one guest, not two, and where it was"
    assert not is_awaited(cloud, late)


def test_whatever_is_killed_down_leaves_nothing_but_data(cloud: Cloud) -> None:
    cloud.close()
    cloud.freeze("h2")
    cloud.record("h3").keeper.signal(signal.SIGKILL)
    cloud.inside("h1", "sh", "-c", "setsid sleep 300 > /dev/null 2>&1 &")
    records = [cloud.record(host) for host in ("h1", "h2")]
    for one in (records[0].init, records[1].keeper):
        one.signal(signal.SIGKILL)
    lab.down(cloud.root, grace_s=0)
    cloud.until(lambda: not leftovers(cloud.cluster, cloud.root), "nothing is left")
    assert lab.down(cloud.root) == [], "a second time there is nothing to stop"
