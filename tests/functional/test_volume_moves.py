"""Replicas that move, several volumes frozen at one moment, and limits, with the real gateway and chunk servers."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.storage import CHUNKSERVER, GATEWAY, MIB, Storage, Volume, qemu_io, run
from tests.functional.test_volume_nbd import VERIFY, fio, hydrated
from tests.ports import free_port
from yuntai.pangu.wire import Refused

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
    pytest.mark.skipif(
        not all(map(shutil.which, ("fio", "nbdcopy", "qemu-io"))),
        reason="clients are missing: apt-get install fio libnbd-bin qemu-utils, or: make test",
    ),
]


class Moving(Storage):
    """A fourth server, and a master that commits moves to a placement that it keeps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ports[4] = free_port()
        self.placements: dict[int, list[list[int]]] = {}

    def placement(self, volume: Volume) -> list[list[int]]:
        return self.placements.setdefault(volume.number, super().placement(volume))

    def decide(self, event: dict[str, Any]) -> dict[str, Any]:
        volume = self.volumes[event["volume"]]
        if event["op"] == "boot_set":
            volume.history.append("boot_set")
            return {"answer": "ok"}
        if event["op"] != "moved":
            return super().decide(event)
        if event["generation"] < volume.generation:
            return {"answer": "fenced"}
        volume.history.append(f"moved {len(event['moves'])}")
        placement = self.placement(volume)
        for move in event["moves"]:
            servers = placement[move["chunk"]]
            servers[servers.index(move["from"])] = move["to"]
        volume.stale &= {server for servers in placement for server in servers}
        return {"answer": "placed", "moves": event["moves"]}

    async def move(self, volume: Volume, leaver: int, to: int) -> dict[str, Any]:
        wanted = [
            {"chunk": chunk, "from": leaver, "to": to}
            for chunk, servers in enumerate(self.placement(volume))
            if leaver in servers
        ]
        request = {"op": "moves", "volume": volume.number, "generation": volume.generation, "moves": wanted}
        answer: dict[str, Any] = await self.channel.call({**request, "servers": self.addresses()})
        return answer

    async def moved(self, volume: Volume, leaver: int, timeout_s: float = 180.0) -> None:
        deadline = time.monotonic() + timeout_s
        while any(leaver in servers for servers in self.placement(volume)):
            assert time.monotonic() < deadline, (volume.history, await self.stats(volume))
            await asyncio.sleep(0.1)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Moving]:
    one = Moving(tmp_path)
    try:
        await one.start()
        one.start_server(4)
        yield one
    finally:
        await one.stop()


async def test_a_server_is_drained_and_a_dead_one_replaced_under_load(storage: Moving) -> None:
    volume = storage.create(256 * MIB)
    target = await storage.open(volume)
    job = asyncio.create_task(fio(target, *VERIFY))
    await asyncio.sleep(1)
    answer = await storage.move(volume, 3, 4)
    assert answer["refused"] == []
    await storage.moved(volume, 3)
    storage.kill("cs-1")
    await asyncio.sleep(0.5)
    figures = await job
    assert figures["writes"] > 1000
    storage.start_server(1)
    await storage.in_sync(volume)
    stats = await storage.stats(volume)
    assert stats["counters"]["longest_stall_us"] == 0, "nobody waited longer than a second"
    assert stats["counters"]["moved_chunks"] == volume.chunks
    assert "3" not in stats["servers"]
    storage.kill("cs-1")
    await qemu_io(target, "write -P 7 0 1M")
    await storage.move(volume, 1, 3)
    await storage.moved(volume, 1)
    assert not volume.stale
    # Every replica of the new placement has the same.
    await storage.close(volume)
    await storage.replicas_are_equal(volume, (2, 3, 4))


async def test_a_clone_is_whole_after_its_replicas_and_its_sources_moved(storage: Moving) -> None:
    origin = storage.create(128 * MIB)
    target = await storage.open(origin)
    await qemu_io(target, "write -P 9 0 60M", "write -P 8 64M 8M", "flush")
    frozen, _ = await storage.snapshot(origin)
    await storage.move(origin, 2, 4)
    clone = storage.create(128 * MIB, (origin, frozen))
    copy = await storage.open(clone)
    await storage.moved(origin, 2)
    clone.sources[0]["placement"] = storage.placement(origin)
    await storage.channel.call(storage.open_request(clone))
    await storage.move(clone, 1, 4)
    await hydrated(storage, clone)
    await storage.moved(clone, 1)
    await qemu_io(copy, "read -P 9 0 60M", "read -P 8 64M 8M", "read -P 0 72M 1M")


async def test_volumes_are_frozen_at_one_moment(storage: Moving) -> None:
    """Each round is written to the first volume and, once that is acknowledged, to the second one."""
    first, second = storage.create(64 * MIB), storage.create(64 * MIB)
    targets = [await storage.open(first), await storage.open(second)]
    busy = True

    async def rounds() -> None:
        number = 0
        while busy:
            number = number % 255 + 1
            for target in targets:
                await qemu_io(target, f"write -P {number} 0 4k")

    work = asyncio.create_task(rounds())
    answers: list[dict[str, Any]] = []
    frozen: list[tuple[Volume, int]] = []
    for _ in range(5):
        await asyncio.sleep(0.3)
        members: list[dict[str, Any]] = []
        for volume in (first, second):
            volume.parents = [*volume.parents, volume.head]
            frozen.append((volume, volume.head))
            volume.head = len(volume.parents) - 1
            named = {"volume": volume.number, "generation": volume.generation}
            members.append({**named, "parents": volume.parents, "head": volume.head})
        answers.append(await storage.channel.call({"op": "snapshot_group", "volumes": members}))
        # Asked again, as after a master's crash: nothing changes.
        again = await storage.channel.call({"op": "snapshot_group", "volumes": members})
        assert again["heads"] == answers[-1]["heads"] == {str(one["volume"]): one["head"] for one in members}
    busy = False
    await work
    assert max(answer["pause_us"] for answer in answers) < 1_000_000
    # The first could be frozen again, the second is open under another generation.
    grown = [{**one, "parents": [*one["parents"], one["head"]], "head": one["head"] + 1} for one in members]
    grown[1]["generation"] += 1
    with pytest.raises(Refused):
        await storage.channel.call({"op": "snapshot_group", "volumes": grown})
    assert (await storage.stats(first))["head"] == first.head, "refused without a change"
    values = []
    for volume, layer in frozen:
        if volume.generation:
            await storage.close(volume)
        target = await storage.open(volume, head=layer, read_only=True)
        out = storage.folder / "block"
        await run("nbdcopy", target, str(out))
        values.append(out.read_bytes()[0])
        await storage.close(volume)
    for one, two in zip(values[::2], values[1::2], strict=True):
        assert one == two or one == two % 255 + 1, f"the second is never ahead of the first: {values}"


async def test_limits_are_changed_by_name(storage: Moving) -> None:
    volume = storage.create(64 * MIB)
    await storage.open(volume)
    await storage.channel.call({"op": "tune", "tunables": {"rebuild_bytes_per_s": 5 * MIB}})
    workers = {one["name"]: one for one in (await storage.stats(volume))["workers"]}
    assert workers["move"]["limit_bytes_per_s"] == 5 * MIB
    with pytest.raises(Refused, match="rebuild_bytes_per_s"):
        await storage.channel.call({"op": "tune", "tunables": {"speed": 1}})
