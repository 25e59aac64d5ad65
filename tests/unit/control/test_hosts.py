"""Hosts are emptied, labelled and removed, on a store in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from yuntai.api.operator_hosts import awaited_until, jailed_until
from yuntai.control import removals
from yuntai.control.drains import AGAIN_FIRST_S, MOVES_MAX, Drains
from yuntai.control.errors import ApiError
from yuntai.control.placer import fleet_of
from yuntai.control.requests import hosts
from yuntai.control.requests.types import Caller
from yuntai.control.scheduler import Fleet, Placement, Request
from yuntai.model.base import Record, now_utc
from yuntai.model.cluster import ChunkServer, Gateway, Host, HostPool, Job, Volume
from yuntai.model.compute import Instance
from yuntai.model.joining import RemovedHost
from yuntai.model.network import Port
from yuntai.network.southbound import SouthboundError
from yuntai.state import MemoryStore

NOW = "2026-11-23T10:00:00Z"
CALLER = Caller(account="1", request_id="req-1")


def host(name: str, **changes: Any) -> Host:
    made = Host(
        id=name, address="10.0.0.1", cpus=2, memory_mib=4096, accelerator="tcg", cpu_features=("avx", "avx2"),
        mce_banks=10, seen=NOW, vcpus_max=16, memory_mib_max=3000,
    )  # fmt: skip
    return replace(made, **changes)


def instance(name: str, on: str = "h1", **changes: Any) -> Instance:
    made = Instance(
        id=name, account="1", name=name, hostname=name, zone="z", instance_type="t", cpu=1, memory_mib=256, image="m",
        host=on, vpc="v", vswitch="w", port=f"p-{name}", security_groups=(), system_disk=f"d-{name}", created=NOW,
        status="Running",
    )  # fmt: skip
    return replace(made, **changes)


def port(of: str, on: str = "h1") -> Port:
    return Port(
        id=f"p-{of}", account="1", eni=f"eni-{of}", vpc="v", vswitch="w", mac="00:16:3e:00:00:01", ip="10.0.0.5",
        security_groups=(), instance=of, host=on, created=NOW,
    )  # fmt: skip


class Placing:
    """A placer that reads the store each time."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def fleet(self) -> Fleet:
        return await fleet_of(self._store)

    async def take(self, request: Request, *, besides: bool = False) -> Placement:
        return (await self.fleet()).choose(request)

    def release(self, instance_id: str) -> None:
        """Nothing is held."""


class World:
    def __init__(self, *records: Record) -> None:
        self.store = MemoryStore()
        self.now_s = 1000.0
        self.records = records
        self.drains = Drains(
            self.store, Placing(self.store), clock=lambda: self.now_s  # type: ignore[arg-type]
        )  # fmt: skip

    async def begin(self) -> World:
        for record in self.records:
            await self.store.put(record)
        await hosts.drain(self.store, CALLER, "h1")
        await self.drains.look("h1")
        return self

    async def host(self, name: str = "h1") -> Host:
        return (await self.store.need(Host, name)).value

    async def instance(self, name: str) -> Instance:
        return (await self.store.need(Instance, name)).value

    async def jobs(self) -> list[Job]:
        return [one.value for one in await self.store.list(Job)]


async def test_what_runs_is_migrated_and_what_is_stopped_gets_another_host() -> None:
    world = await World(
        host("h1"),
        host("h2"),
        instance("i-1"),
        instance("i-2", status="Stopped"),
        port("i-2"),
        instance("i-3", on="h2"),
    ).begin()
    (job,) = await world.jobs()
    assert (job.action, job.resource, job.arguments["reason"]) == ("migrate_instance", "i-1", "drain")
    assert (await world.instance("i-1")).job == job.id
    assert (await world.instance("i-2")).host == "h2"
    assert (await world.store.need(Port, "p-i-2")).value.host == "h2"
    assert (await world.host()).waiting == {"i-1": f"it is being migrated ({job.id})"}
    await world.drains.look("h1")
    assert len(await world.jobs()) == 1, "one migration is enough"
    await world.store.update(Instance, "i-1", lambda one: replace(one, host="h2", job=""))
    await world.drains.look("h1")
    assert ((await world.host()).maintenance, (await world.host()).waiting) == ("drained", {})
    await hosts.drain(world.store, CALLER, "h1", undo=True)
    assert (await world.host()).maintenance == ""


async def test_a_migration_that_failed_is_tried_again_later() -> None:
    world = await World(host("h1"), host("h2"), instance("i-1")).begin()
    (job,) = await world.jobs()
    await world.store.put(replace(job, state="failed", error="the link was cut"))
    await world.store.update(Instance, "i-1", lambda one: replace(one, job=""))
    await world.drains.look("h1")
    assert len(await world.jobs()) == 1
    assert "the link was cut" in (await world.host()).waiting["i-1"]
    world.now_s += AGAIN_FIRST_S
    await world.drains.look("h1")
    assert len(await world.jobs()) == 2


async def test_so_many_at_a_time_and_the_important_ones_first() -> None:
    many = [instance(f"i-{number}", priority=number) for number in range(1, MOVES_MAX + 3)]
    world = await World(host("h1"), host("h2"), *many).begin()
    assert sorted(job.resource for job in await world.jobs()) == sorted(one.id for one in many[2:])
    assert (await world.host()).waiting["i-1"] == f"{MOVES_MAX} others are migrated first"


async def test_who_cannot_go_says_why() -> None:
    world = await World(
        host("h1"),
        host("h2", maintenance="drained"),
        instance("i-1", status="Stopped"),
        instance("i-2", job="job-9"),
        instance("i-3", on="h2", migrating_to="h1"),
        instance("i-4", migrating_to="h2"),
        instance("i-6", status="Starting"),
    ).begin()
    waiting = (await world.host()).waiting
    assert "h2 rejected: it is drained" in waiting["i-1"]
    assert waiting["i-2"] == "an operation on it is to end first (job-9)"
    assert waiting["i-3"] == "it is being migrated here, and is moved on afterwards"
    assert waiting["i-4"] == "it is being migrated to h2"
    assert waiting["i-6"] == "it is Starting"
    assert (await world.host()).maintenance == "draining"


async def test_labels() -> None:
    store = MemoryStore()
    await store.put(host("h1", labels={"room": "1"}))
    assert await hosts.label(store, CALLER, "h1", {"gpu": "no"}, ["room"]) == {"gpu": "no"}
    for labels in ({"": "x"}, {"-x": "y"}, {"x": "ä"}, {str(n): "" for n in range(40)}):
        with pytest.raises(ApiError, match="InvalidParameter"):
            await hosts.label(store, CALLER, "h1", labels)
    with pytest.raises(ApiError, match=r"InvalidHostId\.NotFound"):
        await hosts.label(store, CALLER, "h9", {})


async def test_a_forgiven_host_takes_instances_at_once() -> None:
    store = MemoryStore()
    await store.put(host("h1", downs=(NOW, NOW), jailed_until="2999-01-01T00:00:00Z"))
    assert jailed_until((await store.need(Host, "h1")).value) == "2999-01-01T00:00:00Z"
    assert (await fleet_of(store)).choose(Request("i-9", 1, 256)).host == ""
    assert await hosts.forgive(store, CALLER, "h1") == 2
    assert jailed_until((await store.need(Host, "h1")).value) == ""
    assert (await fleet_of(store)).choose(Request("i-9", 1, 256)).host == "h1"
    assert await hosts.forgive(store, CALLER, "h1") == 0
    with pytest.raises(ApiError, match=r"InvalidHostId\.NotFound"):
        await hosts.forgive(store, CALLER, "h9")


async def test_an_awaited_host_is_given_more_time_or_none() -> None:
    store = MemoryStore()
    await store.put(host("h1", status="down", awaited_until="2999-01-01T00:00:00Z"))
    shown = awaited_until((await store.need(Host, "h1")).value)
    assert shown == "2999-01-01T00:00:00Z"
    until = await hosts.wait_for(store, CALLER, "h1", 30)
    assert now_utc() < until < shown
    assert (await store.need(Host, "h1")).value.awaited_until == until
    await hosts.wait_for(store, CALLER, "h1", 0)
    after = (await store.need(Host, "h1")).value
    assert after.awaited_since, "that it was decided stays known: it is not awaited a second time"
    assert awaited_until(after) == ""
    with pytest.raises(ApiError, match="is not awaited"):
        await hosts.wait_for(store, CALLER, "h1", 5)


LEFT: list[tuple[Record, str]] = [
    (instance("i-1"), "instances i-1"),
    (instance("i-1", on="h2", migrating_to="h1"), "instances i-1"),
    (ChunkServer(id="cs-1", number=1, rack="r", host="h1", address="a:1"), "chunk servers cs-1"),
    (Volume(id="vol-1", size_bytes=1, created=NOW, host="h1", state="attached"), "open volumes vol-1"),
]


@pytest.mark.parametrize(("left", "named"), LEFT)
async def test_a_host_that_still_has_something_is_not_removed(left: Record, named: str) -> None:
    store = MemoryStore()
    for record in (host("h1"), host("h2"), left):
        await store.put(record)
    with pytest.raises(ApiError, match="not drained"):
        await hosts.remove(store, CALLER, "h1")
    await store.put(host("h1", maintenance="drained"))
    with pytest.raises(ApiError, match=named):
        await hosts.remove(store, CALLER, "h1")
    assert await store.get(Host, "h1") is not None


async def test_a_removed_host_is_forgotten_everywhere_and_the_baseline_rises() -> None:
    store = MemoryStore()
    weakest = host("h1", maintenance="drained", cpu_features=("avx",), mce_banks=6)
    pool = HostPool(id="default", cpu_features=("avx",), mce_banks=6, accelerator="tcg")
    for record in (weakest, host("h2"), host("h3"), Gateway(id="h1", address="a:1"), pool):
        await store.put(record)
    await hosts.remove(store, CALLER, "h1")
    assert await store.get(Host, "h1") is None
    assert await store.get(Gateway, "h1") is None
    after = (await store.need(HostPool, "default")).value
    assert (after.cpu_features, after.mce_banks) == (("avx", "avx2"), 10)
    asked: list[str] = []

    async def refuse(remote: str, name: str) -> bool:
        raise SouthboundError("no answer")

    async def forget(remote: str, name: str) -> bool:
        asked.append(name)
        return len(asked) < 3  # the host still runs and puts its chassis back once

    await removals.clear(store, "tcp:a:1", forget=refuse)
    assert not (await store.need(RemovedHost, "h1")).value.forgotten_by_network
    for _ in range(5):
        await removals.clear(store, "tcp:a:1", forget=forget)
    assert asked == ["h1"] * 3


async def test_the_part_looks_at_hosts_that_drain_and_at_no_others() -> None:
    world = World(host("h1"), host("h2"))
    for record in world.records:
        await world.store.put(record)
    await hosts.drain(world.store, CALLER, "h1")
    task = asyncio.create_task(world.drains.run())
    try:
        async with asyncio.timeout(60):
            async for _ in world.store.watch(Host):
                if (await world.host()).maintenance == "drained":
                    break
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await world.host("h2")).maintenance == ""
