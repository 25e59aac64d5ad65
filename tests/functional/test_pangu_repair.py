"""The block store repairs itself, with its real programs: servers lost, drained, added, their disks replaced."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional.pangu_cluster import (
    CHUNKSERVER,
    GATEWAY,
    MIB,
    PanguCluster,
    eventually,
    fio_verify,
    qemu_io,
)
from yuntai.pangu.errors import Conflict, InUse

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]

SIZE = 512 * MIB
FOUR = ("rack-1", "rack-2", "rack-3", "rack-4")
IMPATIENT = {"repair_after_s": 3, "tend_after_s": 0, "garbage_every_s": 1}
PATTERN = tuple(f"write -P {7 + at} {64 * at + 40}M 2M" for at in range(8))
CHECK = tuple(f"read -P {7 + at} {64 * at + 40}M 2M" for at in range(8))
"""Two MiB in each chunk, where fio does not write."""


@asynccontextmanager
async def store(folder: Path, racks: tuple[str, ...] = FOUR, **tunables: int) -> AsyncIterator[PanguCluster]:
    made = PanguCluster(folder, racks)
    try:
        await made.start()
        await made.client.operate("settings", {"values": IMPATIENT | tunables})
        yield made
    finally:
        print(made.logs(60))
        await made.stop()


async def filled(cluster: PanguCluster) -> tuple[str, str]:
    """A volume with data in every chunk, attached; its id and URI."""
    volume = await cluster.client.create_volume(SIZE)
    uri = await cluster.client.connect(volume.id, "h1")
    await qemu_io(uri, *PATTERN, "flush")
    return volume.id, uri


async def placement(cluster: PanguCluster, volume: str) -> list[list[int]]:
    found: list[list[int]] = await cluster.client.request("GET", f"/v1/volumes/{volume}/placement")
    return found


async def left(cluster: PanguCluster, volume: str, *servers: int) -> None:
    """Wait until none of the servers has a place in the volume and everybody counts."""

    async def gone() -> bool:
        counts = not (await cluster.client.volume(volume)).stale
        return counts and not any(number in r for r in await placement(cluster, volume) for number in servers)

    await eventually(gone, f"{volume} is whole without {servers}")


def racks_of(cluster: PanguCluster, replicas: list[int]) -> set[str]:
    return {server.rack for server in cluster.config.chunkservers if server.id in replicas}


async def test_a_server_lost_for_good_is_rebuilt_in_another_rack_under_writes(tmp_path: Path) -> None:
    async with store(tmp_path) as cluster:
        volume, uri = await filled(cluster)
        before = await placement(cluster, volume)
        lost = before[0][0]
        writing = asyncio.create_task(fio_verify(uri, 15, size_mib=32))
        await asyncio.sleep(1)
        cluster.kill(f"cs-{lost}")
        await left(cluster, volume, lost)
        await writing
        after = await placement(cluster, volume)
        assert all(len(racks_of(cluster, replicas)) == 3 for replicas in after)
        assert [set(b) for b, a in zip(before, after, strict=True) if lost not in b and set(a) != set(b)] == []
        # The new replicas count: with another server gone, what they have must be everything.
        other = next(number for number in before[0] if number != lost)
        cluster.kill(f"cs-{other}")
        await qemu_io(uri, *CHECK, within_s=60)


async def test_a_short_absence_is_made_up_where_it_was(tmp_path: Path) -> None:
    async with store(tmp_path, repair_after_s=120) as cluster:
        volume, uri = await filled(cluster)
        before = await placement(cluster, volume)
        away = before[0][1]
        cluster.kill(f"cs-{away}")
        await qemu_io(uri, "write -P 99 0 1M", "flush")
        await asyncio.sleep(6)
        assert set((await cluster.client.volume(volume)).stale) == {str(away)}
        report = await cluster.client.operate("health")
        data = next(check for check in report["checks"] if check["name"] == "data")
        assert (data["level"], report["healthy"]) == ("warning", False)
        cluster.start_chunkserver(away)

        async def whole() -> bool:
            return not (await cluster.client.volume(volume)).stale

        await eventually(whole, "it is readmitted")
        assert await placement(cluster, volume) == before, "nothing moved"


async def test_a_rack_is_drained_under_writes_and_its_servers_removed(tmp_path: Path) -> None:
    async with store(tmp_path, ("rack-1", "rack-2", "rack-3", "rack-4", "rack-1")) as cluster:
        client = cluster.client
        volume, uri = await filled(cluster)
        writing = asyncio.create_task(fio_verify(uri, 15, size_mib=32))
        with pytest.raises(Conflict):
            await client.remove_server("cs-1")
        assert await client.operate("drain", {"rack": "rack-1"}) == {"servers": ["cs-1", "cs-5"]}
        await left(cluster, volume, 1, 5)
        await writing
        await qemu_io(uri, *CHECK, within_s=60)

        async def empty() -> bool:
            return [s.replicas for s in await client.chunkservers() if s.id in ("cs-1", "cs-5")] == [0, 0]

        await eventually(empty, "what nothing names any more is dropped")
        await client.remove_server("cs-1")
        await client.remove_server("cs-5")
        cluster.kill("cs-1")
        cluster.kill("cs-5")
        await qemu_io(uri, *CHECK, "write -P 5 0 1M", "flush", within_s=60)
        assert (await client.volume(volume)).stale == {}
        assert len(await client.chunkservers()) == 3


async def test_a_disk_replaced_by_an_empty_one_is_filled_again(tmp_path: Path) -> None:
    async with store(tmp_path, FOUR[:3], repair_after_s=600) as cluster:
        volume, uri = await filled(cluster)
        cluster.kill("cs-3")
        await qemu_io(uri, "write -P 99 0 1M", "flush")
        disk = cluster.folder / "chunks" / "3"
        shutil.rmtree(disk)
        disk.mkdir(mode=0o700)
        cluster.start_chunkserver(3)

        async def whole() -> bool:
            servers = await cluster.client.chunkservers()
            admitted = all(server.admitted and server.store for server in servers)
            return admitted and not (await cluster.client.volume(volume)).stale

        await eventually(whole, "cs-3 counts again")
        # In place of what was lost: one that was whole all the time goes, and everything is still there.
        cluster.kill("cs-1")
        await qemu_io(uri, *CHECK, "read -P 99 0 1M", within_s=60)


async def test_an_added_server_gets_new_chunks_and_by_balance_old_ones(tmp_path: Path) -> None:
    async with store(tmp_path, FOUR[:3], balance_spread_ppm=20) as cluster:
        client = cluster.client
        volume, uri = await filled(cluster)
        await cluster.add_chunkserver(4, "rack-4")

        async def used() -> bool:
            fresh = await client.create_volume(1024 * MIB)
            found = any(4 in replicas for replicas in await placement(cluster, fresh.id))
            await client.delete_volume(fresh.id)
            return found

        await eventually(used, "new chunks go to the new server")
        assert not any(4 in replicas for replicas in await placement(cluster, volume)), "old ones stay"

        async def begun() -> bool:
            return bool((await client.operate("balance", {}))["balancing"])

        await eventually(begun, "the used space differs")

        async def moved() -> bool:
            return any(4 in replicas for replicas in await placement(cluster, volume))

        await eventually(moved, "old chunks go there too")
        await client.operate("balance", {"stop": True})
        await qemu_io(uri, *CHECK, within_s=60)


async def test_a_volume_that_nobody_has_attached_is_repaired(tmp_path: Path) -> None:
    async with store(tmp_path) as cluster:
        client = cluster.client
        volume, _ = await filled(cluster)
        await client.detach(volume, "h1")
        lost = (await placement(cluster, volume))[0][2]
        cluster.kill(f"cs-{lost}")
        await left(cluster, volume, lost)

        async def closed() -> bool:
            record = await client.volume(volume)
            return (record.state, record.tended_by) == ("available", "")

        await eventually(closed, "it is closed again")
        uri = await client.connect(volume, "h1")
        await qemu_io(uri, *CHECK, within_s=60)


async def test_a_closed_volume_outlives_two_lost_servers_of_three(tmp_path: Path) -> None:
    """One missed writes and is lost, the other in-sync one is lost too: the third has everything, and gives it."""
    async with store(tmp_path, ("rack-1", "rack-2", "rack-3", "rack-4", "rack-5")) as cluster:
        client = cluster.client
        await client.operate("settings", {"values": {"tend_after_s": 600}})
        volume = await client.create_volume(64 * MIB)
        uri = await client.connect(volume.id, "h1")
        await qemu_io(uri, "write -P 7 0 1M", "flush")
        first, second, _ = (await placement(cluster, volume.id))[0]
        cluster.kill(f"cs-{first}")
        await qemu_io(uri, "write -P 8 512k 1M", "flush")
        await client.detach(volume.id, "h1")
        cluster.kill(f"cs-{second}")
        await client.operate("settings", {"values": {"tend_after_s": 0}})
        await left(cluster, volume.id, first, second)
        uri = await client.connect(volume.id, "h1")
        await qemu_io(uri, "read -P 7 0 512k", "read -P 8 512k 1M", "write -P 9 0 1M", "flush")
        assert len(set((await placement(cluster, volume.id))[0])) == 3


async def test_moves_go_on_over_the_deaths_of_masters(tmp_path: Path) -> None:
    async with store(tmp_path, moves_per_volume=1) as cluster:
        client = cluster.client
        volume, uri = await filled(cluster)
        before = await placement(cluster, volume)
        drained = max(range(1, 5), key=lambda number: sum(number in replicas for replicas in before))
        writing = asyncio.create_task(fio_verify(uri, 20, size_mib=32))
        await client.operate("drain", {"servers": [f"cs-{drained}"]})
        with pytest.raises(InUse):
            await client.remove_server(f"cs-{drained}")
        for least in (1, 2):

            async def some(least: int = least) -> Any:
                return (await client.volume(volume)).placed >= least

            await eventually(some, f"{least} replicas have moved")
            leader = await cluster.leading()
            cluster.kill(f"master-{leader}")
            cluster.start_master(leader)
        await left(cluster, volume, drained)
        await writing
        after = await placement(cluster, volume)
        assert all(len(set(replicas)) == 3 for replicas in after)
        await qemu_io(uri, *CHECK, within_s=60)
        assert (await client.volume(volume)).generation == 1, "the guest's gateway was never disturbed"
