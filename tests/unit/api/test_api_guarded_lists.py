"""What a request lists under its account's guard: memory when nobody else wrote under it since, else etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from tests.unit.control.world import CALLER, World, small
from yuntai.api.__main__ import FOLLOWED
from yuntai.api.cache import CachedStore
from yuntai.api.standing import keep_fleet
from yuntai.control.errors import ApiError
from yuntai.control.placer import fleet_of
from yuntai.control.requests import instances, quotas
from yuntai.model.base import Record
from yuntai.model.cluster import Host
from yuntai.model.compute import Disk, Instance
from yuntai.model.network import Port
from yuntai.state import MemoryStore
from yuntai.state.memory import Memory

T = TypeVar("T", bound=Record)
PATIENCE_S = 60.0


class Counting(MemoryStore):
    """A store that knows what was listed of it."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.listed: list[type[Record]] = []

    async def list(self, kind: type[T], prefix: str = "") -> Any:
        self.listed.append(kind)
        return await super().list(kind, prefix)


@asynccontextmanager
async def process(world: World) -> AsyncIterator[tuple[CachedStore, Counting]]:
    """One API process."""
    inner = Counting(world.memory)
    cached = CachedStore(inner, FOLLOWED)
    keep_fleet(cached)
    await cached.start()
    try:
        yield cached, inner
    finally:
        await cached.stop()


async def ask(cached: CachedStore, **more: Any) -> None:
    await instances.run_instances(cached.writer(), CALLER, small(**more))


async def test_a_process_that_is_alone_lists_from_memory_after_its_first_request() -> None:
    world = World()
    await world.set_up()
    async with process(world) as (cached, inner):
        await ask(cached)
        inner.listed.clear()
        await ask(cached)
        assert not {Instance, Disk, Port} & set(inner.listed)
        assert len(await world.all(Instance)) == 2


async def test_what_another_process_wrote_counts() -> None:
    world = World()
    await world.set_up()
    await quotas.set_quota(world.store, CALLER.account, "instances", 2)
    async with process(world) as (one, inner), process(world) as (other, _):
        await ask(one)
        await ask(other)
        inner.listed.clear()
        with pytest.raises(ApiError) as error:
            await ask(one)
        assert error.value.code == "QuotaExceed.Instance"
        assert Instance in inner.listed
    assert len({port.ip for port in await world.all(Port)}) == 2


async def test_processes_that_race_never_exceed_a_quota_or_give_an_address_twice() -> None:
    world = World()
    await world.set_up()
    await quotas.set_quota(world.store, CALLER.account, "instances", 7)
    async with process(world) as (one, _), process(world) as (other, _):
        asked = await asyncio.gather(
            *(ask(cached) for cached in (one, other) for _ in range(6)), return_exceptions=True
        )
        refused = [error for error in asked if error is not None]
        assert {getattr(error, "code", error) for error in refused} == {"QuotaExceed.Instance"}
    assert len(await world.all(Instance)) == 7
    assert len({port.ip for port in await world.all(Port)}) == 7


async def test_whether_something_fits_is_answered_from_the_standing_fleet() -> None:
    world = World()
    await world.set_up(hosts=1, vcpus=2)
    async with process(world) as (cached, inner):
        assert await fleet_of(cached) is await fleet_of(cached.writer())
        inner.listed.clear()
        await ask(cached)
        await ask(cached)
        await world.drive()
        async with asyncio.timeout(PATIENCE_S):
            while (await fleet_of(cached)).room("h1").vcpus:  # noqa: ASYNC110 — the only event is the cache's own watch
                await asyncio.sleep(0)
        with pytest.raises(ApiError) as error:
            await ask(cached)
        assert "1 vCPU short" in error.value.message
        assert Host not in inner.listed
