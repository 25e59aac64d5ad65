"""Who has a volume open when something is wrong with it: its gateway hangs, one replica is left, nobody may write."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.functional.pangu_cluster import (
    CHUNKSERVER,
    GATEWAY,
    GIB,
    MIB,
    ROOT,
    WITHIN_S,
    PanguCluster,
    eventually,
    qemu_io,
)
from yuntai.model.cluster import Volume

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]


async def at_a_hung_gateway(cluster: PanguCluster) -> tuple[Volume, subprocess.Popen[bytes]]:
    """Return a volume with 8 MiB of ones at gateway h1, and that gateway's process, which is stopped; h2 is well."""
    await cluster.add_gateway()
    volume = await cluster.client.create_volume(GIB)
    await qemu_io(await cluster.client.connect(volume.id, "h1"), "write -P 1 0 8M")
    hung = cluster.processes["gateway"]
    hung.send_signal(signal.SIGSTOP)
    return volume, hung


async def test_a_volume_is_taken_over_at_once_from_a_gateway_that_hangs(cluster: PanguCluster) -> None:
    client = cluster.client
    volume, hung = await at_a_hung_gateway(cluster)
    began = time.monotonic()
    uri = await client.connect(volume.id, "h2")
    took_s = time.monotonic() - began
    print(f"attached elsewhere while the old gateway hangs: {1000 * took_s:.0f} ms")
    await qemu_io(uri, "read -P 1 0 8M", "write -P 2 0 4M", "flush")
    # The old one wakes up as one that was fenced: nothing that it still has may reach a replica.
    hung.send_signal(signal.SIGCONT)
    await asyncio.sleep(1)
    await qemu_io(uri, "read -P 2 0 4M", "read -P 1 4M 4M", "write -P 3 0 1M", "flush")
    assert (await client.volume(volume.id)).host == "h2"
    assert took_s < 8


async def test_what_waits_for_a_gateway_that_hangs_does_not_hold_up_the_take_over(cluster: PanguCluster) -> None:
    client = cluster.client
    volume, hung = await at_a_hung_gateway(cluster)
    waiting = [asyncio.create_task(client.snapshot(volume.id, f"s{number}")) for number in range(3)]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in waiting)
    began = time.monotonic()
    uri = await client.connect(volume.id, "h2")
    took_s = time.monotonic() - began
    print(f"attached elsewhere while snapshots wait for the old gateway: {1000 * took_s:.0f} ms")
    # What had begun is done by the new gateway.
    nodes = await asyncio.gather(*waiting)
    assert len(set(nodes)) == 3
    assert set((await client.volume(volume.id)).snapshots.values()) == {"done"}
    await qemu_io(uri, "read -P 1 0 8M", "write -P 2 0 4M", "flush")
    hung.send_signal(signal.SIGCONT)
    assert took_s < 8


EXPORT = """
import asyncio, sys, time
from pathlib import Path
from yuntai.config import load
from yuntai.image import library
from yuntai.pangu.client import PanguClient

library.KEEP_S, library.KEEP_EVERY_S = 4, 1.0

def slowly(done, whole):
    print("reading", flush=True)
    time.sleep(60)

async def main():
    volume, node, out, url = sys.argv[1:]
    async with PanguClient([url], load().secret("cluster")) as client:
        await library.export_image(client, volume, int(node), Path(out), host="h1", progress=slowly)

asyncio.run(main())
"""


async def test_an_export_that_is_killed_leaves_nothing_behind(cluster: PanguCluster) -> None:
    client = cluster.client
    disk = await client.create_volume(GIB)
    uri = await client.connect(disk.id, "h1")
    await qemu_io(uri, *(f"write -P 1 {at}M 8M" for at in range(0, 256, 8)), "flush")
    node = await client.snapshot(disk.id, "s")
    await client.detach(disk.id, "h1")

    async def clones() -> list[str]:
        return [str(one["id"]) for one in await client.volumes() if one["id"] != disk.id and one["state"] != "deleting"]

    leader = cluster.config if await cluster.leading() == "h1" else cluster.standby
    export = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", EXPORT, disk.id, str(node), str(cluster.folder / "out.qcow2")),
        f"http://127.0.0.1:{leader.master_port}",
        env={**os.environ, "PYTHONPATH": str(ROOT), "YUNTAI_CONFIG": str(cluster.folder / "h1.json")},
        stdout=asyncio.subprocess.PIPE,
    )
    assert export.stdout is not None
    assert await asyncio.wait_for(export.stdout.readline(), WITHIN_S) == b"reading\n"
    await asyncio.sleep(6)
    assert len(await clones()) == 1, "while it works its clone is kept"
    export.kill()
    await export.wait()

    async def none() -> bool:
        return not await clones()

    began = time.monotonic()
    await eventually(none, "the clone is deleted")
    print(f"a killed export's clone was deleted {time.monotonic() - began:.0f} s later")
    await client.delete_volume(disk.id)


IMPORT = """
import asyncio, sys, time
from pathlib import Path
from yuntai.config import load
from yuntai.image import library
from yuntai.pangu.client import PanguClient
from yuntai.state.memory import MemoryStore

library.KEEP_S, library.KEEP_EVERY_S = 4, 1.0

def slowly(done, whole):
    if done > 20 << 20:
        time.sleep(60)

async def main():
    file, url = sys.argv[1:]
    async with PanguClient([url], load().secret("cluster")) as client:
        await library.import_image(MemoryStore(), client, Path(file), "x", host="h1", progress=slowly)

asyncio.run(main())
"""


async def test_an_import_that_is_killed_leaves_nothing_behind(cluster: PanguCluster) -> None:
    client = cluster.client
    before = {one["id"] for one in await client.volumes()}

    async def made() -> list[dict[str, Any]]:
        return [one for one in await client.volumes() if one["id"] not in before and one["state"] != "deleting"]

    file = cluster.folder / "disk.raw"
    file.write_bytes(os.urandom(16 * MIB))
    leader = cluster.config if await cluster.leading() == "h1" else cluster.standby
    work = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", IMPORT, str(file), f"http://127.0.0.1:{leader.master_port}"),
        env={**os.environ, "PYTHONPATH": str(ROOT), "YUNTAI_CONFIG": str(cluster.folder / "h1.json")},
        stdout=asyncio.subprocess.PIPE,
    )
    assert work.stdout is not None

    async def attached() -> bool:
        return [one["state"] for one in await made()] == ["attached"]

    await eventually(attached, "the import writes")
    work.kill()
    await work.wait()
    began = time.monotonic()

    async def none() -> bool:
        return not await made()

    await eventually(none, "its volume is deleted")
    print(f"a killed import's volume was deleted {time.monotonic() - began:.0f} s later")


def flip(folder: Path, pattern: bytes, blocks: tuple[int, ...]) -> None:
    """Flip a bit in some blocks of the only file that has the pattern."""
    (found,) = [path for path in folder.rglob("*") if path.is_file() and pattern in path.read_bytes()]
    start = found.read_bytes().index(pattern)
    with found.open("r+b") as file:
        for block in blocks:
            file.seek(start + 4096 * block + 100)
            file.write(bytes([pattern[0] ^ 1]))


async def test_a_heal_ends_although_its_only_source_is_damaged_too(cluster: PanguCluster) -> None:
    """Two replicas are left, each with damage of its own and both with one block: the others are healed."""
    client = cluster.client
    volume = await client.create_volume(64 * MIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 0x5a 0 256k", "flush")
    cluster.kill("cs-3")
    await qemu_io(uri, "write -P 1 1M 4k", "flush")
    for number, blocks in ((1, (0, 1, 2)), (2, (0, 3, 4))):
        flip(cluster.folder / "chunks" / str(number), b"\x5a" * (256 << 10), blocks)
    # This one is lost. It is not made up: who reads it waits, and keeps nobody else from anything.
    lost = asyncio.create_task(qemu_io(uri, "read -P 3 0 4k", within_s=240))
    await asyncio.sleep(1)
    began = time.monotonic()
    await qemu_io(uri, "write -P 2 2M 4k", "flush", "read -P 2 2M 4k")
    # Whoever is asked first for these finds its own damage, and is healed from the other one.
    await qemu_io(uri, "read -P 0x5a 4k 16k", "read -P 0x5a 20k 236k")
    print(f"read and written around a lost block: {time.monotonic() - began:.1f} s")
    assert set((await client.volume(volume.id)).stale) == {"3"}
    assert not lost.done()
    await qemu_io(uri, "write -P 3 0 4k", "flush", "read -P 0x5a 4k 252k")
    await lost


async def test_only_what_a_server_alone_had_is_lost_when_it_is_given_up(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(64 * MIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 0x5a 0 256k", "flush")
    cluster.kill("cs-3")
    await qemu_io(uri, "write -P 1 1M 4k", "flush")
    for number in (1, 2):
        flip(cluster.folder / "chunks" / str(number), b"\x5a" * (256 << 10), (0,))
    reading = asyncio.create_task(qemu_io(uri, "read 0 4k", within_s=240))

    async def named() -> bool:
        checks = (await client.operate("health"))["checks"]
        return any("`yuntai pangu server give-up cs-3`" in check["detail"] for check in checks)

    await eventually(named, "health names the way out")
    assert not reading.done(), "cs-3 may come back with it"
    order = {"server": "cs-3", "data_is_lost": True}
    await eventually(lambda: client.operate("give_up", order), "cs-3 is taken for away, and is given up")
    with pytest.raises(AssertionError, match="Input/output error"):
        await reading
    await qemu_io(uri, "read -P 0x5a 4k 252k", "read -P 1 1M 4k", "write -P 2 2M 4k", "flush")
    # It is back with its disk after all: it is compared with the others before it counts, and has the block.
    cluster.start_chunkserver(3)

    async def whole() -> bool:
        (server,) = [one for one in await client.chunkservers() if one.id == "cs-3"]
        return server.admitted and not server.given_up and not (await client.volume(volume.id)).stale

    await eventually(whole, "cs-3 counts again")
    await qemu_io(uri, "read -P 0x5a 0 256k", "read -P 2 2M 4k", within_s=240)


async def test_a_closed_volume_is_repaired_from_its_last_whole_replica(cluster: PanguCluster) -> None:
    """One server missed writes, and the other in-sync one is gone: the third has everything, and gives it."""
    client = cluster.client
    await client.operate("settings", {"values": {"tend_after_s": 0}})
    volume = await client.create_volume(512 * MIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 0 1M", "write -P 2 400M 1M", "flush")
    cluster.kill("cs-2")
    await qemu_io(uri, "write -P 3 512k 1M", "flush")
    await client.detach(volume.id, "h1")
    cluster.kill("cs-3")
    cluster.start_chunkserver(2)

    async def repaired() -> bool:
        return set((await client.volume(volume.id)).stale) == {"3"}

    began = time.monotonic()
    await eventually(repaired, "cs-2 has everything and counts, so that cs-3 need not")
    print(f"repaired from one replica {time.monotonic() - began:.1f} s after the second one's start")
    # What it got is everything: it serves alone beside the one that comes back.
    cluster.start_chunkserver(3)

    async def whole() -> bool:
        return not (await client.volume(volume.id)).stale

    await eventually(whole, "cs-3 is readmitted")
    cluster.kill("cs-1")
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "read -P 1 0 512k", "read -P 3 512k 1M", "read -P 2 400M 1M", "write -P 4 0 1M", "flush")
