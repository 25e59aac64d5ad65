"""Snapshots with the real programs: every byte of each, whatever is deleted, rolled back, cloned or resized."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path

import pytest

from tests.functional.pangu_cluster import CHUNKSERVER, GATEWAY, MIB, PanguCluster, eventually, qemu_io
from tests.functional.snapshot_model import BLOCK, Known
from tests.thrash.nbd import Nbd
from yuntai.pangu import snapshot_rules
from yuntai.pangu.errors import InUse, NotFound

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]


async def _known(cluster: PanguCluster, seed: int, size_bytes: int = 128 * MIB) -> Known:
    return Known(cluster, await cluster.client.create_volume(size_bytes), seed)


async def _swept(cluster: PanguCluster, volume_id: str) -> None:
    """Wait until every server has freed what the volume's dead layers held."""

    async def swept() -> bool:
        volume = await cluster.client.volume(volume_id)
        dead = len(snapshot_rules.dead(volume))
        return len(volume.swept) == 3 and set(volume.swept.values()) == {dead}

    await eventually(swept, f"{volume_id} is swept")


async def test_a_tree_with_holes_shows_every_byte(cluster: PanguCluster) -> None:
    """Branches, rollbacks to branches left earlier, deletions anywhere; then the servers are killed and read again."""
    disk = await _known(cluster, 1)
    rolled = 0
    for step in range(14):
        await disk.write(40)
        await disk.take(f"s-{step}")
        if step % 3 == 2:
            await disk.back(disk.random.choice(sorted(disk.snapshots)))
            rolled += 1
    await disk.write(40)
    await disk.check()
    assert rolled == 4
    tree = await disk.check_bytes()
    assert tree.used_bytes >= disk.held_bytes()
    for node in disk.random.sample(sorted(disk.snapshots), 8):
        await disk.drop(node)
    await disk.check()
    await _swept(cluster, disk.volume)
    await disk.check()
    tree = await disk.check_bytes()
    assert (tree.used_bytes, tree.garbage_bytes) == (disk.held_bytes(), 0)
    for number in (1, 2, 3):
        cluster.kill(f"cs-{number}")
        cluster.start_chunkserver(number)
    await disk.write(5)
    await disk.check()
    # And down to nothing but the head.
    for node in list(disk.snapshots):
        await disk.drop(node)
    await _swept(cluster, disk.volume)
    await disk.check()
    assert (await disk.check_bytes()).used_bytes == disk.held_bytes()


async def test_the_counts_are_what_the_disks_hold(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(512 * MIB)
    uri = await client.connect(volume.id, "h1")
    for number in range(3):
        await qemu_io(uri, f"write -P {number + 1} 0 96M", "flush")
        await client.snapshot(volume.id, f"s-{number}")
    await client.detach(volume.id, "h1")
    tree = await client.tree(volume.id, fresh=True)
    assert [one.exclusive_bytes for one in tree.nodes] == [96 * MIB, 96 * MIB, 0, 0]
    assert tree.used_bytes == 288 * MIB

    async def near() -> bool:
        used = [server.used_bytes for server in await client.chunkservers()]
        print("used bytes", used)
        return all(abs(one - tree.used_bytes) < 0.25 * tree.used_bytes for one in used)

    await eventually(near, "what the servers say is what was counted")
    await client.delete_snapshot(volume.id, "s-0")
    await client.delete_snapshot(volume.id, "s-1")
    await _swept(cluster, volume.id)
    tree = await client.tree(volume.id, fresh=True)
    assert tree.used_bytes == 96 * MIB
    await eventually(near, "the space has come back")


async def test_the_source_may_go_while_clones_of_clones_read(cluster: PanguCluster) -> None:
    client = cluster.client
    first = await _known(cluster, 2)
    await first.write(200)
    old = await first.take("old")
    await first.write(200)
    node = await first.take("a")
    await first.write(100)
    second = first.clone(await client.create_volume(128 * MIB, source=first.source(node)), node, 3)
    await second.write(50)
    middle = await second.take("b")
    await second.write(50)
    volume = await client.create_volume(160 * MIB, source=second.source(middle))
    third = second.clone(volume, middle, 4)
    await third.write(20)
    # Everything below goes at once; what is needed stays until it is copied.
    await second.drop(middle)
    await first.drop(node)
    await first.drop(old)
    with pytest.raises(InUse, match="source of"):
        await client.delete_volume(first.volume)
    await third.check()
    await second.check()
    await first.check()
    await third.attach()
    await second.attach()

    async def copied() -> bool:
        return all([(await client.show_volume(one.volume))["hydrated"] for one in (second, third)])

    await eventually(copied, "both clones have their copy")
    await _swept(cluster, first.volume)
    for one in (first, second, third):
        await one.check()
    assert (await first.check_bytes()).used_bytes == first.held_bytes()
    await client.delete_volume(first.volume)
    await third.check()


async def test_rolled_back_to_before_it_was_loaded(cluster: PanguCluster) -> None:
    """What the head had written over was copied too: the snapshot below it shows the source."""
    client = cluster.client
    source = await _known(cluster, 5)
    await source.write(200)
    node = await source.take("a")
    clone = source.clone(await client.create_volume(128 * MIB, source=source.source(node)), node, 6)
    await clone.attach()
    early = await clone.take("early")
    await clone.write(300)
    await clone.attach()

    async def copied() -> bool:
        return bool((await client.show_volume(clone.volume))["hydrated"])

    await eventually(copied, "the clone has its copy")
    await source.drop(node)
    await _swept(cluster, source.volume)
    await clone.back(early)
    await clone.check()
    await _swept(cluster, clone.volume)
    await clone.check()


async def test_a_sweep_survives_its_master_and_its_servers(cluster: PanguCluster) -> None:
    """Killed in the middle, all of them: what is left to free is freed, and nothing else."""
    disk = await _known(cluster, 9)
    for step in range(10):
        await disk.write(60)
        await disk.take(f"s-{step}")
    for node in sorted(disk.snapshots)[::2]:
        await disk.drop(node)
    await disk.attach()
    leader = await cluster.leading()
    for second in range(12):
        await disk.write(5)
        await asyncio.sleep(1.0)
        if second == 8:
            cluster.kill(f"master-{leader}")
            cluster.start_master(leader)
        if second >= 9:
            cluster.kill(f"cs-{second - 8}")
            cluster.start_chunkserver(second - 8)
            await disk.write(1)
    await _swept(cluster, disk.volume)
    await disk.check()
    tree = await disk.check_bytes()
    assert (tree.used_bytes, tree.garbage_bytes) == (disk.held_bytes(), 0)


async def test_resized_with_snapshots(cluster: PanguCluster) -> None:
    client = cluster.client
    disk = await _known(cluster, 7, 80 * MIB)
    await disk.write(100)
    small = await disk.take("small")
    await client.resize(disk.volume, 192 * MIB)
    nbd = await disk.attach()
    await nbd.write(150 * MIB, b"\x07" * BLOCK)
    await nbd.flush()
    await disk.write(100)
    large = await disk.take("large")
    await disk.back(small)
    nbd = await disk.attach()
    assert await nbd.read(150 * MIB, BLOCK) == bytes(BLOCK)
    await disk.check()
    await disk.back(large)
    await disk.drop(small)
    await _swept(cluster, disk.volume)
    nbd = await disk.attach()
    assert await nbd.read(150 * MIB, BLOCK) == b"\x07" * BLOCK
    await disk.check()
    clone = await client.create_volume(192 * MIB, source=disk.source(large))
    uri = await client.connect(clone.id, "h1")
    await qemu_io(uri, "read -P 7 150M 4k", "read -P 0 160M 1M")


async def test_groups_are_of_one_moment(cluster: PanguCluster) -> None:
    """A writer counts on two disks, the second after the first: no group may show the second ahead, or two behind."""
    client = cluster.client
    names = [(await client.create_volume(64 * MIB)).id for _ in range(2)]
    disks = [await Nbd.connect(Path((await client.attach(name, "h1")).socket), name) for name in names]
    stop = asyncio.Event()

    async def count() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            for nbd in disks:
                await nbd.write(8 * MIB, struct.pack("<Q", number) * (BLOCK // 8))
        return number

    counting = asyncio.create_task(count())
    groups = []
    for index in range(10):
        await asyncio.sleep(0.2)
        began = time.monotonic()
        groups.append(await client.snapshot_group(dict.fromkeys(names, f"g-{index}")))
        print(f"group: {1000 * (time.monotonic() - began):.0f} ms")
    stop.set()
    last = await counting
    for name, nbd in zip(names, disks, strict=True):
        await nbd.close()
        await client.detach(name, "h1")
    seen = []
    for group in groups:
        pair = []
        for name in names:
            attached = await client.attach(name, "h1", read_only=True, node=group[name])
            nbd = await Nbd.connect(Path(attached.socket), name)
            pair.append(struct.unpack("<Q", (await nbd.read(8 * MIB, BLOCK))[:8])[0])
            await nbd.close()
            await client.detach(name, "h1")
        seen.append(tuple(pair))
    print("groups", seen, "of", last)
    assert all(b in (a, a - 1) for a, b in seen)
    assert sorted(seen) == seen
    assert last > 20


async def test_a_thousand_snapshots(cluster: PanguCluster) -> None:
    """Taking, reading and showing stay quick at any depth."""
    client = cluster.client
    disk = await _known(cluster, 8)
    await disk.write(10)
    took: list[float] = []
    for number in range(1000):
        nbd = disk.nbd or await disk.attach()
        disk.writes += 1
        block = disk.random.randrange(64)
        await nbd.write(52 * MIB + block * BLOCK, struct.pack("<QQ", disk.writes, block) * (BLOCK // 16))
        disk.now[block] = disk.writes
        began = time.monotonic()
        await disk.take(f"s-{number}")
        took.append(time.monotonic() - began)
    first, last = sorted(took[:100])[50], sorted(took[-100:])[50]
    print(f"snapshot: {1000 * first:.1f} ms among the first hundred, {1000 * last:.1f} ms among the last")
    assert last < 4 * first + 0.05
    disk.snapshots = {node: disk.snapshots[node] for node in list(disk.snapshots)[::200]}
    began = time.monotonic()
    tree = await client.tree(disk.volume, fresh=True)
    print(f"tree of {len(tree.nodes)} nodes, counted: {1000 * (time.monotonic() - began):.0f} ms")
    assert len(tree.nodes) == 1001
    await disk.check()
    for node in range(1, 150):
        if node not in disk.snapshots:
            await client.delete_snapshot(disk.volume, node)
    await _swept(cluster, disk.volume)
    await disk.check()
    with pytest.raises(NotFound):
        await client.rollback(disk.volume, 2)
