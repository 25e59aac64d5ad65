"""Snapshots attached read-only, with the real programs: repaired like other disks, and read from the last replica."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.pangu_cluster import CHUNKSERVER, GATEWAY, WITHIN_S, qemu_io
from tests.functional.test_pangu_repair import CHECK, filled, left, placement, store

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]


async def test_a_snapshot_that_is_shown_is_repaired_elsewhere_and_read_from_there_alone(tmp_path: Path) -> None:
    async with store(tmp_path) as cluster:
        volume, _ = await filled(cluster)
        node = await cluster.client.snapshot(volume, "shown")
        await cluster.client.detach(volume, "h1")
        uri = (await cluster.client.attach(volume, "h1", read_only=True, node=node)).uri
        before = await placement(cluster, volume)
        lost = before[0][0]
        cluster.kill(f"cs-{lost}")
        await left(cluster, volume, lost)
        assert (await cluster.client.volume(volume)).read_only, "repaired while it was attached"
        (new,) = set((await placement(cluster, volume))[0]) - set(before[0])
        others = {1, 2, 3, 4} - {new, lost}
        for number in others:
            cluster.kill(f"cs-{number}")
        await qemu_io(uri, CHECK[0], within_s=60, read_only=True)
        for number in others:
            cluster.start_chunkserver(number)
        await qemu_io(uri, *CHECK, within_s=WITHIN_S, read_only=True)
        await cluster.client.detach(volume, "h1")
