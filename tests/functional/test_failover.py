"""A host dies, stands still in the middle of writes, is cut off, or loses the block store: what it had runs elsewhere.

When it wakes up, or is connected again, nothing of that is left on it.

The guest of the second test writes numbers to a ring of blocks, each durably, and prints which it knows to be written.
After the failover the next guest of the same disk goes on with numbers of its own while the old host wakes up: then no
block may hold a number that the old one can only have written after it woke, and none that was known to be written may
be missing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.functional.cloud import Cloud, running_cloud
from yuntai.compute.console import log_path
from yuntai.model.cluster import HostFailure
from yuntai.model.compute import Instance, InstanceEvent, ObservedInstance
from yuntai.model.network import Port
from yuntai.state import EtcdStore, StateError

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(1200)]

BLOCKS = 128
FIRST_BLOCK = 131_072  # of 4 KiB: behind everything of the image
SECOND_LIFE = 1_000_000
BOOTED = "YUNTAI-BOOT-OK"
WRITER = f"""
cat > /run/writer <<'END'
n=$1
while [ ! -e /run/stop ]; do
    n=$((n + $2))
    printf '%-4096d' $n > /run/block
    at=$(({FIRST_BLOCK} + n % {BLOCKS}))
    dd if=/run/block of=/dev/vda bs=4096 count=1 seek=$at conv=notrunc,fsync 2> /dev/null &&
        echo "WROTE $n" > /dev/console
done
echo "STOPPED" > /dev/console
END
setsid sh /run/writer FIRST STEP < /dev/null > /dev/null 2>&1 &
"""
READER = (
    f"sync; echo 3 > /proc/sys/vm/drop_caches; n=0; while [ $n -lt {BLOCKS} ]; do "
    f"dd if=/dev/vda bs=4096 count=1 skip=$(({FIRST_BLOCK} + n)) 2> /dev/null | head -c 16; echo; n=$((n + 1)); done"
)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=3) as made:
        yield made


async def _instance(store: EtcdStore, instance_id: str) -> Instance:
    return (await store.need(Instance, instance_id)).value


async def _runs_elsewhere(cloud: Cloud, instance_id: str, host: str) -> Instance:
    """Wait until the instance is seen running on another host than ``host``; return its record."""
    deadline = time.monotonic() + 240
    async with cloud.store() as store:
        while True:
            try:
                found = await _instance(store, instance_id)
                seen = await store.get(ObservedInstance, instance_id)
            except StateError as error:
                print(f"etcd does not answer at {time.monotonic():.1f}: {error}")  # its member was on that host, say
            else:
                there = seen is not None and (seen.value.host, seen.value.state) == (found.host, "running")
                if found.host != host and found.status == "Running" and there:
                    return found
            assert time.monotonic() < deadline, f"{instance_id} does not run elsewhere than on {host}"
            await asyncio.sleep(0.1)


async def test_the_guest_of_a_dead_host_runs_elsewhere_within_the_promise(cloud: Cloud) -> None:
    instance_id = cloud.run_instance("dies")
    cloud.ssh(instance_id, "echo kept > /root/file; sync")
    async with cloud.store() as store:
        before = await _instance(store, instance_id)
    cloud.kill(before.host)
    died_s = time.monotonic()
    after = await _runs_elsewhere(cloud, instance_id, before.host)
    took_s = time.monotonic() - died_s
    async with cloud.store() as store:
        failure = (await store.need(HostFailure, before.host)).value
        ports = [one.value for one in await store.list(Port) if one.value.instance == instance_id]
        events = [one.value for one in await store.list(InstanceEvent) if one.value.instance == instance_id]
    print(f"failover of a killed host: running after {took_s:.1f} s, stages {failure.stages_ms}")
    assert [port.host for port in ports] == [after.host]
    assert {(event.type, event.from_host, event.to_host) for event in events} == {
        ("SystemFailure.Reboot", before.host, after.host)
    }
    assert "cannot reach it" in failure.why
    assert cloud.ssh(instance_id, "cat /root/file") == "kept"
    cloud.repair()
    assert (await _runs_on(cloud, instance_id)) == after.host  # it does not go back
    cloud.cli("instance", "delete", instance_id, "--force", "--wait")


async def _runs_on(cloud: Cloud, instance_id: str) -> str:
    async with cloud.store() as store:
        return (await _instance(store, instance_id)).host


def _known_written(cloud: Cloud, host: str, instance_id: str) -> list[int]:
    """Return the numbers that the guest printed on ``host``; a line that is cut off does not count."""
    return _written(_console(cloud, host, instance_id))


def _written(console: str) -> list[int]:
    return [int(number) for number in re.findall(r"WROTE (\d+)\r?\n", console)]


def _console(cloud: Cloud, host: str, instance_id: str) -> str:
    return _console_path(cloud, host, instance_id).read_text(errors="replace")


def _console_path(cloud: Cloud, host: str, instance_id: str) -> Path:
    return cloud.home.host(host).log / log_path("yuntai", instance_id)


async def test_a_host_that_stood_still_in_the_middle_of_writes_changes_nothing_when_it_wakes(cloud: Cloud) -> None:
    instance_id = cloud.run_instance("stands-still")
    cloud.ssh(instance_id, WRITER.replace("FIRST STEP", "0 1"))
    async with cloud.store() as store:
        old = (await _instance(store, instance_id)).host
    cloud.until(lambda: len(_known_written(cloud, old, instance_id)) > BLOCKS + 50, "the ring is written once")
    cloud.freeze(old)
    stood_s = time.monotonic()
    first = _known_written(cloud, old, instance_id)
    new = (await _runs_elsewhere(cloud, instance_id, old)).host
    print(f"failover of a frozen host: running after {time.monotonic() - stood_s:.1f} s")
    before = _read(cloud, instance_id)
    # Every second block is left to the first guest: what it should write there after it woke would stay.
    cloud.ssh(instance_id, WRITER.replace("FIRST STEP", f"{SECOND_LIFE} 2"))
    cloud.until(lambda: len(_known_written(cloud, new, instance_id)) > 10, "the second guest writes")

    # The old host removes the file when it lets go of its guest; who has it open can still read it.
    console = _console_path(cloud, old, instance_id).open(errors="replace")
    cloud.thaw(old)
    cloud.until(lambda: "stale guests killed" in cloud.log(old, "guard"), "the old guest is killed")
    cloud.until(lambda: instance_id not in cloud.inside(old, "virsh", "list", "--name"), "libvirt knows that")
    cloud.wait_up(old)
    print(*(line for line in cloud.log(old, "guard").splitlines() if "paused" in line or "killed" in line), sep="\n")
    more = len(_known_written(cloud, new, instance_id)) + 50
    cloud.until(lambda: len(_known_written(cloud, new, instance_id)) > more, "the second guest goes on")

    # Whatever the old guest ever called written was so before it woke.
    with console:
        assert _written(console.read())[-1] <= max(before)
    cloud.ssh(instance_id, "touch /run/stop")
    cloud.until(lambda: "STOPPED" in _console(cloud, new, instance_id), "the second guest has stopped writing")
    _check(first, before, _known_written(cloud, new, instance_id), _read(cloud, instance_id))
    assert await _bound_to(cloud, instance_id) == new
    cloud.cli("instance", "delete", instance_id, "--force", "--wait")


def _read(cloud: Cloud, instance_id: str) -> list[int]:
    """Return the number that each block holds."""
    held = [int(line) for line in cloud.ssh(instance_id, READER).split()]
    assert len(held) == BLOCKS
    return held


def _check(first: list[int], before: list[int], second: list[int], after: list[int]) -> None:
    """Check every block: nothing that was known to be written is lost, nothing is written after the old guest woke.

    ``first`` and ``second`` are what the guests printed. The first may have written a little more than it could print.
    """
    known = {number % BLOCKS: number for number in first}
    lost = {block: (held, known[block]) for block, held in enumerate(before) if held < known[block]}
    assert lost == {}, "block: (held after the failover, known to be written)"
    assert [number % BLOCKS for number in before] == list(range(BLOCKS))
    wanted = dict(enumerate(before)) | {number % BLOCKS: number for number in second}
    wrong = {block: (held, wanted[block]) for block, held in enumerate(after) if held != wanted[block]}
    assert wrong == {}, "block: (held in the end, last written by the one who may)"


async def _bound_to(cloud: Cloud, instance_id: str) -> str:
    """Return the host on which the network has the instance's address."""
    async with cloud.store() as store:
        port = (await _instance(store, instance_id)).port
    member = cloud.hosts[0]
    remote = ",".join(f"tcp:{address}:6642" for address in cloud.cluster.member_addresses())
    words = ("--bare", "--columns=chassis", "find", "Port_Binding", f"logical_port={port}")
    chassis = cloud.inside(member, "ovn-sbctl", "--timeout=20", f"--db={remote}", *words).strip()
    words = ("--bare", "--columns=name", "list", "Chassis", chassis)
    return cloud.inside(member, "ovn-sbctl", "--timeout=20", f"--db={remote}", *words).strip()


async def test_the_guest_of_a_host_that_is_cut_off_stands_still_there_and_runs_elsewhere(cloud: Cloud) -> None:
    await asyncio.to_thread(cloud.forgive)  # it failed in the tests before
    instance_id = cloud.run_instance("cut-off")
    cloud.ssh(instance_id, WRITER.replace("FIRST STEP", "0 1"))
    old = await _runs_on(cloud, instance_id)
    cloud.until(lambda: len(_known_written(cloud, old, instance_id)) > BLOCKS, "the ring is written once")
    said = len(cloud.log(old, "guard"))
    cloud.isolate(old)
    cut_s = time.monotonic()
    new = (await _runs_elsewhere(cloud, instance_id, old)).host
    print(f"failover of a host that is cut off: running after {time.monotonic() - cut_s:.1f} s")
    # Its guard can ask nobody, and lets the guest do nothing.
    cloud.until(lambda: _process_state(cloud, old, instance_id) == "T", "the guest that was cut off is stopped")
    written = _known_written(cloud, old, instance_id)
    cloud.heal(old)
    cloud.until(lambda: "stale guests killed" in cloud.log(old, "guard")[said:], "the old guest is killed")
    cloud.until(lambda: instance_id not in cloud.inside(old, "virsh", "list", "--name"), "libvirt knows that")
    cloud.wait_up(old)
    held = _read(cloud, instance_id)
    _check(written, held, [], held)
    assert await _bound_to(cloud, instance_id) == await _runs_on(cloud, instance_id) == new
    cloud.cli("instance", "delete", instance_id, "--force", "--wait")


def _process_state(cloud: Cloud, host: str, instance_id: str) -> str:
    """Return the state of the guest's process as the kernel says: "T" is stopped."""
    look = f"cut -d ' ' -f 3 /proc/$(cat /run/libvirt/qemu/{instance_id}.pid)/stat"
    return cloud.inside(host, "sh", "-c", look).strip()


async def test_the_guest_of_a_host_without_storage_runs_elsewhere(cloud: Cloud) -> None:
    await asyncio.to_thread(cloud.forgive)  # it failed in the tests before
    instance_id = cloud.run_instance("no-storage")
    old = await _runs_on(cloud, instance_id)
    cloud.cut_storage(old)
    cut_s = time.monotonic()
    new = (await _runs_elsewhere(cloud, instance_id, old)).host
    print(f"failover of a host without storage: running after {time.monotonic() - cut_s:.1f} s")
    cloud.until(lambda: BOOTED in _console(cloud, new, instance_id), "it boots from its disk there")
    async with cloud.store() as store:
        failure = (await store.need(HostFailure, old)).value
    # So it was judged while its lease lived.
    assert failure.why == "it does not reach the block store, which other hosts do"
    cloud.until(lambda: instance_id not in cloud.inside(old, "virsh", "list", "--all", "--name"), "it is gone there")
    # Without guests the host does not count as well again: it would get new ones that cannot run.
    cloud.until(lambda: instance_id not in cloud.inside(old, "ls", "/run/libvirt/qemu"), "its process has ended")
    looks = cloud.log(old, "guard").count("storage not reached")
    cloud.until(lambda: cloud.log(old, "guard").count("storage not reached") > looks + 1, "the guard looks on")
    assert old not in cloud.hosts_up()
    cloud.heal(old)
    cloud.wait_up()
    assert await _bound_to(cloud, instance_id) == await _runs_on(cloud, instance_id) == new
    cloud.cli("instance", "delete", instance_id, "--force", "--wait")


async def test_failures_are_shown(cloud: Cloud) -> None:
    shown = msgspec.json.decode(cloud.cli("failover", "show", "-o", "json"))
    assert [(one["State"], one["Moved"], one["Waiting"]) for one in shown] == [("over", 1, 0)] * len(shown)
    assert shown
