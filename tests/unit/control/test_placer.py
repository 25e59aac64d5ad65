"""The leader's fleet follows the records, and what was decided holds its room until the records say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from tests.unit.control.test_fleet import ask, host, instance
from yuntai.control.placer import Placer, fleet_of
from yuntai.control.scheduler import Fleet
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance
from yuntai.model.placement import DeploymentSet, SchedulerSettings
from yuntai.state import MemoryStore

PATIENCE_S = 60.0


@asynccontextmanager
async def running(store: MemoryStore, *, clock: list[float] | None = None) -> AsyncIterator[Placer]:
    placer = Placer(store, clock=(lambda: clock[0]) if clock is not None else (lambda: 0.0))
    task = asyncio.create_task(placer.run())
    try:
        await placer.fleet()
        yield placer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(placer: Placer, holds: Callable[[Fleet], bool]) -> Fleet:
    async with asyncio.timeout(PATIENCE_S):
        while not holds(await placer.fleet()):  # noqa: ASYNC110 — the only event is the watch, which the placer reads
            await asyncio.sleep(0)
    return await placer.fleet()


async def same(placer: Placer, store: MemoryStore) -> Fleet:
    """Wait until the placer knows what the store has."""
    fresh = await fleet_of(store)
    wanted = (fresh.rooms(), fresh.holds, fresh.sets, fresh.settings)
    return await until(placer, lambda fleet: (fleet.rooms(), fleet.holds, fleet.sets, fleet.settings) == wanted)


async def test_it_follows_what_is_written() -> None:
    store = MemoryStore()
    await store.put(host("h1"))
    async with running(store) as placer:
        await store.put(host("h2", memory_mib=8192))
        await store.put(instance("i-1", "h2"))
        await store.put(DeploymentSet(id="ds-1", account="a", created=""))
        await store.put(SchedulerSettings(id="scheduler", reserve_for_one_host=True))
        await same(placer, store)
        await store.delete(Host, "h1")
        await store.delete(Instance, "i-1")
        await store.delete(DeploymentSet, "ds-1")
        await store.delete(SchedulerSettings, "scheduler")
        fleet = await same(placer, store)
        assert list(fleet.hosts) == ["h2"]


async def test_what_was_taken_is_held_until_its_record_says_so() -> None:
    store = MemoryStore()
    await store.put(host("h1", memory_mib=2048))
    await store.put(instance("i-1", ""))
    async with running(store) as placer:
        assert (await placer.take(ask("i-1", memory_mib=2048))).host == "h1"
        assert (await placer.take(ask("i-2", memory_mib=2048))).reason == "no host fits: h1 rejected: 2048 MiB short"
        # Another change of the instance, which does not have the host yet, does not free the room.
        await store.put(instance("i-1", "", memory_mib=2048, description="changed"))
        await store.put(host("h2", memory_mib=1024))
        await until(placer, lambda fleet: "h2" in fleet.hosts)
        assert not (await placer.take(ask("i-3", memory_mib=2048))).host
        await store.put(instance("i-1", "h1", memory_mib=2048))
        await same(placer, store)
        await store.delete(Instance, "i-1")
        fleet = await same(placer, store)
        assert fleet.room("h1").memory_mib == 2048


async def test_what_was_taken_and_never_written_is_dropped_after_a_while() -> None:
    store, clock = MemoryStore(), [0.0]
    await store.put(host("h1", memory_mib=2048))
    async with running(store, clock=clock) as placer:
        await placer.take(ask("i-1", memory_mib=2048))
        clock[0] = 119.0
        assert not (await placer.take(ask("i-2", memory_mib=2048))).host
        clock[0] = 121.0
        assert (await placer.take(ask("i-2", memory_mib=2048))).host == "h1"
        placer.release("i-2")
        assert (await placer.take(ask("i-3", memory_mib=2048))).host == "h1"


async def test_a_move_holds_room_besides_until_it_is_written() -> None:
    store = MemoryStore()
    for name in ("h1", "h2"):
        await store.put(host(name, memory_mib=2048))
    here = instance("i-1", "h1", memory_mib=2048)
    await store.put(here)
    async with running(store) as placer:
        placed = await placer.take(ask("i-1", memory_mib=2048, avoid=frozenset({"h1"})), besides=True)
        assert placed.host == "h2"
        fleet = await placer.fleet()
        assert [room.memory_mib for room in fleet.rooms().values()] == [0, 0]
        await store.put(replace(here, migrating_to="h2"))
        await same(placer, store)
        await store.put(replace(here, host="h2"))
        fleet = await same(placer, store)
        assert fleet.room("h1").memory_mib == 2048


async def test_many_are_taken_by_priority() -> None:
    store = MemoryStore()
    await store.put(host("h1", memory_mib=2048))
    async with running(store) as placer:
        placed = await placer.take_all(
            [ask("i-1", memory_mib=2048, priority=1), ask("i-2", memory_mib=2048, priority=2)]
        )
        assert [placement.host for _, placement in placed] == ["h1", ""]
        assert not (await placer.take(ask("i-3"))).host


async def test_nothing_is_placed_before_everything_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yuntai.control.placer.READY_TIMEOUT_S", 0.01)
    placer = Placer(MemoryStore())
    with pytest.raises(TimeoutError):
        await placer.take(ask())
