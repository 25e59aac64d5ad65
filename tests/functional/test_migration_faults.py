"""A live migration in the middle of which something fails ends with one running guest, and nothing else is left of it.

One guest lives through the whole file. Each test has it move so slowly that the fault comes in the middle. Then its
disk has what was written before and takes more, the hosts that failed have nothing of it when they are back, and it
moves on.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pytest

from tests.functional.cloud import READY_S, Cloud, running_cloud
from yuntai.cli.client import ApiRefusedError, UnreachableError
from yuntai.model.base import Record
from yuntai.model.cluster import Job, Volume
from yuntai.model.compute import Disk, Instance, Migration, MigrationProgress, ObservedInstance
from yuntai.model.network import Port
from yuntai.state import EtcdStore, StateError

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(1200)]

T = TypeVar("T")
R = TypeVar("R", bound=Record)

SLOW, FAST = 1, 1000  # MiB/s
WRITE = (
    "head -c 1000000 /dev/urandom > /root/new.$$; sum=$(md5sum < /root/new.$$ | cut -c 1-32); "
    "mv /root/new.$$ /root/$sum; sync; head -c 30000000 /dev/urandom > /dev/shm/ballast; "
    "echo $sum $(cat /proc/sys/kernel/random/boot_id)"
)
"""Write a file named by its checksum, and memory that takes half a minute to be moved. It may be asked for twice."""
READ_AND_WRITE = (
    "sync; echo 3 > /proc/sys/vm/drop_caches; md5sum < /root/SUM | cut -c 1-32; "
    "echo written > /root/more && sync && cat /root/more /proc/sys/kernel/random/boot_id"
)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=3) as made:
        yield made


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> str:
    return cloud.run_instance("moves")


@pytest.fixture
async def store(cloud: Cloud) -> AsyncIterator[EtcdStore]:
    async with cloud.store() as made:
        yield made


@dataclass(frozen=True)
class Way:
    """Between which hosts the guest was on its way when the fault came."""

    source: str
    destination: str


async def until(look: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Return the first answer of ``look`` that is true; who refuses or does not answer in a fault is asked again."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            if seen := await look():
                return seen
        except (StateError, UnreachableError, ApiRefusedError, subprocess.SubprocessError) as error:
            print(f"no answer: {what}: {error}")
        assert time.monotonic() < deadline, f"not within {READY_S:.0f} s: {what}"
        await asyncio.sleep(0.1)


async def the(store: EtcdStore, kind: type[R], record: str) -> R:
    """Return a record that is there."""
    return (await until(lambda: store.need(kind, record), f"{kind.KIND} {record} is read")).value


async def set_speed(cloud: Cloud, host: str, guest: str, mib_per_s: int) -> None:
    """Limit how fast a guest's memory leaves a host, from now on."""

    async def ask() -> str:
        return cloud.inside(host, "virsh", "migrate-setspeed", guest, str(mib_per_s)) or "done"

    await until(ask, f"the speed of {guest} on {host} is set")


async def job_of(cloud: Cloud, store: EtcdStore, guest: str, to: str) -> str:
    """Return the job that moves the guest; begin one where none works on it."""
    instance = (await store.need(Instance, guest)).value
    if instance.job:
        return instance.job
    if instance.reason:
        print(f"{guest}: {instance.reason}")
    return str(cloud.api.operator("MigrateInstance", InstanceId=guest, HostId=to)["JobId"])


async def on_its_way(cloud: Cloud, store: EtcdStore, guest: str) -> Way:
    """Have the guest move slowly; return when part of its memory is there."""
    source = (await the(store, Instance, guest)).host
    destination = next(host for host in reversed(cloud.hosts) if host != source)
    await set_speed(cloud, source, guest, SLOW)

    async def moving() -> bool:
        job = await job_of(cloud, store, guest, destination)
        found = await store.get(MigrationProgress, f"{guest}.{source}")
        here = found.value if found is not None and found.value.job == job else None
        return here is not None and here.state == "moving" and here.transferred_bytes > 0

    await until(moving, "it is on its way")
    return Way(source, destination)


async def settled(store: EtcdStore, guest: str, lost: str = "") -> str:
    """Wait until the guest runs where its record says, nothing works on it, and no migration is left; return where.

    It is not waited for on ``lost``: until a failover begins, all looks as before a host died.
    """

    async def look() -> str:
        found = (await store.need(Instance, guest)).value
        seen = await store.get(ObservedInstance, guest)
        left = [*await store.list(Migration), *await store.list(MigrationProgress)]
        jobs = [one for one in await store.list(Job) if one.value.state not in ("done", "failed")]
        there = seen is not None and (seen.value.host, seen.value.state) == (found.host, "running")
        idle = (found.status, found.job, found.migrating_to) == ("Running", "", "")
        return found.host if there and idle and found.host != lost and not left and not jobs else ""

    return await until(look, f"{guest} runs, and nothing is left to be done")


async def alone(cloud: Cloud, store: EtcdStore, guest: str, host: str) -> None:
    """Check that the guest is on ``host`` and on no other host that lives, and that all records say so."""

    async def only_there() -> bool:
        lives = [one for one in cloud.hosts if not cloud.afflicted(one)]
        domains = {one for one in lives if guest in cloud.inside(one, "virsh", "list", "--all", "--name").split()}
        processes = {one for one in lives if f"{guest}.pid" in cloud.inside(one, "ls", "/run/libvirt/qemu").split()}
        running = cloud.inside(host, "virsh", "list", "--state-running", "--name").split()
        return domains == processes == {host} and guest in running

    await until(only_there, f"{guest} is on {host} alone")
    instance = await the(store, Instance, guest)
    port = await the(store, Port, instance.port)
    assert (instance.host, port.host, port.destination) == (host, host, "")
    volume = await the(store, Volume, (await the(store, Disk, instance.system_disk)).volume)
    assert (volume.state, volume.host, volume.handover_to) == ("attached", host, "")

    async def bound() -> bool:
        return chassis_of(cloud, port.id) == [host]

    await until(bound, f"the network has its address on {host} alone")


def chassis_of(cloud: Cloud, port: str) -> list[str]:
    """Return the hosts to which the network sends what is for the port."""
    member = next(one for one in cloud.hosts if not cloud.afflicted(one))
    remote = ",".join(f"tcp:{address}:6642" for address in cloud.cluster.member_addresses())
    ask = ("ovn-sbctl", "--timeout=20", f"--db={remote}", "--bare")
    words = ("--columns=chassis,additional_chassis", "find", "Port_Binding", f"logical_port={port}")
    bound = cloud.inside(member, *ask, *words).split()
    return [cloud.inside(member, *ask, "--columns=name", "list", "Chassis", one).strip() for one in bound]


async def moves_on(cloud: Cloud, store: EtcdStore, guest: str, to: str) -> None:
    """Have the guest move once more, as fast as it can."""
    await set_speed(cloud, (await the(store, Instance, guest)).host, guest, FAST)

    async def there() -> bool:
        if (await store.need(Instance, guest)).value.host == to:
            return True
        await job_of(cloud, store, guest, to)
        return False

    await until(there, f"{guest} has moved on to {to}")
    assert await settled(store, guest) == to


@dataclass(frozen=True)
class Fault:
    """What happens in the middle, which end is lost by that, and whether the guest goes on living."""

    do: Callable[[Cloud, Way], None]
    lost: str = ""
    lives: bool = True


def kill_control(cloud: Cloud, _: Way) -> None:
    """Kill who decides, who is asked and who does it; the hypervisors' daemons go on."""
    for host in cloud.hosts:
        for name in ("control", "api", "agent"):
            cloud.kill_process(host, name)


FAULTS = {
    "destination killed": Fault(lambda cloud, way: cloud.kill(way.destination), "destination"),
    "link cut": Fault(lambda cloud, way: cloud.isolate(way.destination), "destination"),
    # Its guest is paused there, by the guard; the other end has only a part of it.
    "source cut off": Fault(lambda cloud, way: cloud.isolate(way.source), "source", lives=False),
    "source killed": Fault(lambda cloud, way: cloud.kill(way.source), "source", lives=False),
    "control plane killed": Fault(kill_control),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_it_ends_with_one_running_guest(cloud: Cloud, store: EtcdStore, guest: str, name: str) -> None:
    fault, (checksum, life) = FAULTS[name], cloud.ssh(guest, WRITE).split()
    way = await on_its_way(cloud, store, guest)
    lost = getattr(way, fault.lost) if fault.lost else ""
    fault.do(cloud, way)
    began_s = time.monotonic()
    if not lost:
        await set_speed(cloud, way.source, guest, FAST)
    host = await settled(store, guest, lost)
    print(f"{name}: {way.source} → {way.destination}: on {host} after {time.monotonic() - began_s:.1f} s")
    await alone(cloud, store, guest, host)
    read, written, now = cloud.ssh(guest, READ_AND_WRITE.replace("SUM", checksum)).split()
    assert (read, written, now == life) == (checksum, "written", fault.lives)

    cloud.repair()
    await alone(cloud, store, guest, host)
    if lost:
        await asyncio.to_thread(cloud.forgive, lost)
    await moves_on(cloud, store, guest, lost or next(one for one in cloud.hosts if one != host))
