"""Failover as a whole on a store in memory: hosts with leases, witnesses by word, the real placer, our own clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.compute.test_compute_agent import eventually
from tests.unit.compute.test_compute_agent import instance as made
from yuntai.control.failover import carry
from yuntai.control.failover.service import Failover
from yuntai.control.placer import Placer
from yuntai.model.base import now_utc
from yuntai.model.cluster import Host, HostAlive, HostFailure
from yuntai.model.compute import Instance, InstanceEvent
from yuntai.model.guard import Guard
from yuntai.model.network import Port
from yuntai.state import Absent, MemoryStore, Versioned

LIMIT_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = Clock()
        self.wall = now_utc()
        self.reached: set[str] = set()  # what witnesses say that they reach
        self.dumb: set[str] = set()  # witnesses that do not answer

    async def ask(self, witness: HostAlive, host: str) -> bool | None:
        return None if witness.id in self.dumb else host in self.reached

    async def host(self, name: str, *, memory_mib: int = 4096, alive: bool = True, **changes: Any) -> None:
        if alive:
            await self.live(name)
        await self.store.put(
            Host(
                id=name, address=f"10.0.0.{name[1:]}", cpus=4, memory_mib=8192, accelerator="tcg", seen=now_utc(),
                vcpus_max=64, memory_mib_max=memory_mib, guarded=True, **changes,
            )
        )  # fmt: skip

    async def live(self, name: str, booted: str = "") -> None:
        await self.store.put(HostAlive(id=name, address=f"10.0.0.{name[1:]}", since="", booted=booted))

    async def die(self, *names: str) -> None:
        for name in names:
            self.reached.discard(name)
            await self.store.delete(HostAlive, name)

    async def instance(self, name: str, host: str = "h1", **changes: Any) -> None:
        port = f"p-{name}"
        await self.store.put(made(id=name, host=host, **{"status": "Running", "port": port, **changes}))
        await self.store.put(
            Port(
                id=port, account="1", eni=f"eni-{name}", vpc="v", vswitch="w", mac="m", ip="10.1.0.1",
                security_groups=(), instance=name, host=host, created="",
            )
        )  # fmt: skip

    async def where(self) -> dict[str, str]:
        return {one.value.id: one.value.host for one in await self.store.list(Instance)}

    async def status(self, host: str) -> str:
        return (await self.store.need(Host, host)).value.status

    async def failure(self, host: str) -> HostFailure | None:
        found = await self.store.get(HostFailure, host)
        return found.value if found is not None else None

    async def runs(self, name: str) -> None:
        """Do what agent and reconciler do when the guest is up."""
        await self.store.update(Instance, name, lambda old: replace(old, status="Running", reason=""))

    @asynccontextmanager
    async def leader(self, *, led: bool = True) -> AsyncIterator[Failover]:
        placer = Placer(self.store)
        service = Failover(self.store, placer, self, clock=self.clock, wall=lambda: self.wall)
        tasks = [asyncio.create_task(placer.run()), asyncio.create_task(service.run())]
        try:
            await eventually(lambda: service.collector.ready, LIMIT_S)
            if led:
                self.clock.now += 60
            yield service
        finally:
            for task in tasks:
                assert not task.done(), task.exception()
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def world() -> World:
    made_world = World()
    for name in ("h1", "h2", "h3"):
        await made_world.host(name)
    return made_world


async def _turns(service: Failover, count: int = 5) -> None:
    """Let the service look at everything several times."""
    for _ in range(count):
        await asyncio.sleep(0)
        await service.turn()


async def test_a_dead_host_loses_its_instances_to_others_and_everything_is_said(world: World) -> None:
    await world.instance("i-1")
    await world.instance("i-2", host="h2")
    async with world.leader():
        await world.die("h1")

        async def moved() -> bool:
            return (await world.where())["i-1"] != "h1"

        await eventually(moved, LIMIT_S)
        where = await world.where()
        assert where["i-1"] in ("h2", "h3")
        assert where["i-2"] == "h2"
        assert (await world.store.need(Port, "p-i-1")).value.host == where["i-1"]
        assert (await world.store.need(Instance, "i-1")).value.status == "Starting"
        assert await world.status("h1") == "down"
        await world.runs("i-1")
        over = await eventually(lambda: _state(world, "h1", "over"), LIMIT_S)
        assert isinstance(over, HostFailure)
        assert (over.moved, over.waiting, set(over.stages_ms)) == (1, 0, {"judged", "moved", "running"})
        (event,) = [one.value for one in await world.store.list(InstanceEvent)]
        assert (event.cycle, event.type, event.from_host) == ("Executed", "SystemFailure.Reboot", "h1")
        assert event.finished
        await world.live("h1")

        async def back() -> bool:
            failure = await world.failure("h1")
            return failure is not None and bool(failure.back) and await world.status("h1") == "up"

        await eventually(back, LIMIT_S)
        host = (await world.store.need(Host, "h1")).value
        assert (len(host.downs), host.jailed_until) == (1, "")


async def _state(world: World, host: str, state: str) -> HostFailure | None:
    failure = await world.failure(host)
    return failure if failure is not None and failure.state == state else None


async def test_a_host_that_a_witness_reaches_keeps_what_it_has_and_gets_nothing_new(world: World) -> None:
    await world.instance("i-1")
    world.reached.add("h1")
    async with world.leader() as service:
        await world.die("h1")
        world.reached.add("h1")
        await eventually(lambda: "h1" in service.collector.missed, LIMIT_S)
        world.clock.now += 30

        async def down() -> bool:
            return await world.status("h1") == "down"

        await eventually(down, LIMIT_S)
        await _turns(service)
        assert await world.where() == {"i-1": "h1"}
        assert await world.failure("h1") is None
        await world.live("h1")
        await eventually(lambda: _up(world, "h1"), LIMIT_S)


async def _up(world: World, host: str) -> bool:
    return await world.status(host) == "up"


async def test_nothing_moves_where_no_witness_answers_or_etcd_does_not(world: World) -> None:
    await world.instance("i-1")
    async with world.leader() as service:
        world.dumb.update({"h2", "h3"})
        await world.die("h1")
        await eventually(lambda: "h1" in service.collector.missed, LIMIT_S)
        await _turns(service)
        world.clock.now += 2
        await _turns(service)
        assert await world.where() == {"i-1": "h1"}
        world.store.memory.available = False
        world.dumb.clear()
        await eventually(lambda: service.collector.of(_a_host()).steady_s < 0, LIMIT_S)
        await _turns(service)
        world.store.memory.available = True
        assert await world.where() == {"i-1": "h1"}


def _a_host() -> Host:
    return Host(
        id="h2", address="a", cpus=1, memory_mib=1, accelerator="tcg", seen="", vcpus_max=1, memory_mib_max=1
    )  # fmt: skip


async def test_a_new_leader_waits_a_whole_lease(world: World) -> None:
    await world.instance("i-1")
    await world.die("h1")
    async with world.leader(led=False) as service:
        world.clock.now += 4.9
        await _turns(service)
        assert await world.where() == {"i-1": "h1"}
        world.clock.now += 2

        async def moved() -> bool:
            return (await world.where())["i-1"] != "h1"

        await eventually(moved, LIMIT_S)


async def test_more_lost_than_fits_the_important_come_first_and_the_rest_waits_until_there_is_room(
    world: World,
) -> None:
    """A rack with two hosts is lost at once."""
    await world.host("h2", rack="r2", memory_mib=4096)
    await world.host("h3", rack="r1", memory_mib=512)
    for number, (host, priority) in enumerate([("h1", 10), ("h2", 20), ("h1", 90), ("h2", 80)]):
        await world.instance(f"i-{number}", host=host, priority=priority)
    async with world.leader():
        await world.die("h1", "h2")
        first = await eventually(lambda: _state(world, "h1", "waiting for room"), LIMIT_S)
        assert isinstance(first, HostFailure)
        second = await eventually(lambda: _state(world, "h2", "waiting for room"), LIMIT_S)
        assert isinstance(second, HostFailure)
        assert await world.where() == {"i-0": "h1", "i-1": "h2", "i-2": "h3", "i-3": "h3"}
        assert [name for name, _ in (*first.left, *second.left)] == ["i-0", "i-1"]
        assert all("h3 rejected: 256 MiB short" in why for _, why in (*first.left, *second.left))
        waits = (await world.store.need(Instance, "i-0")).value
        assert (waits.status, "waits for room" in waits.reason) == ("Starting", True)
        await world.host("h4")

        async def all_moved() -> bool:
            world.clock.now += 1
            where = await world.where()
            return where["i-0"] == where["i-1"] == "h4"

        await eventually(all_moved, LIMIT_S)


async def test_the_next_leader_goes_on_and_counts_the_failure_once(world: World) -> None:
    await world.host("h2", memory_mib=0)
    await world.host("h3", memory_mib=0)
    await world.instance("i-1")
    async with world.leader():
        await world.die("h1")
        await eventually(lambda: _state(world, "h1", "waiting for room"), LIMIT_S)
    await world.host("h2", memory_mib=4096)
    async with world.leader():
        world.clock.now += 10

        async def moved() -> bool:
            return (await world.where())["i-1"] == "h2"

        await eventually(moved, LIMIT_S)
    assert len((await world.store.need(Host, "h1")).value.downs) == 1
    async with world.leader():  # and a third sees what the second moved come up
        await world.runs("i-1")
        await eventually(lambda: _state(world, "h1", "over"), LIMIT_S)
    assert [one.value.cycle for one in await world.store.list(InstanceEvent)] == ["Executed"]


async def test_a_host_with_a_dead_storage_path_is_failed_though_it_lives(world: World) -> None:
    await world.instance("i-1")
    async with world.leader():
        await world.store.update(Host, "h1", lambda old: replace(old, storage_dead_since=now_utc()))

        async def moved() -> bool:
            return (await world.where())["i-1"] != "h1"

        await eventually(moved, LIMIT_S)
        assert await world.status("h1") == "down"
        await world.store.update(Host, "h1", lambda old: replace(old, storage_dead_since=""))
        await eventually(lambda: _up(world, "h1"), LIMIT_S)


async def test_a_flapping_host_is_jailed(world: World) -> None:
    async with world.leader():

        async def down() -> bool:
            return await world.status("h1") == "down"

        for _ in range(2):
            await world.die("h1")
            await eventually(down, LIMIT_S)
            await world.live("h1")
            await eventually(lambda: _up(world, "h1"), LIMIT_S)

            async def back() -> bool:
                failure = await world.failure("h1")
                return failure is not None and bool(failure.back)

            await eventually(back, LIMIT_S)
    host = (await world.store.need(Host, "h1")).value
    assert len(host.downs) == 2
    assert host.jailed_until > now_utc()


async def test_an_instance_in_migration_is_left_to_its_job_for_a_while(world: World) -> None:
    await world.instance("i-1", migrating_to="h2")
    async with world.leader() as service:
        await world.die("h1")
        await eventually(lambda: world.failure("h1"), LIMIT_S)
        await _turns(service)
        assert await world.where() == {"i-1": "h1"}
        world.clock.now += 10

        async def moved() -> bool:
            return (await world.where())["i-1"] != "h1"

        await eventually(moved, LIMIT_S)
    after = (await world.store.need(Instance, "i-1")).value
    assert (after.host, after.migrating_to) == ("h3", "")  # not the half-made guest's host


async def test_a_host_that_is_back_keeps_its_instance_even_at_the_last_moment(world: World) -> None:
    await world.instance("i-1")  # h1 lives: its guard has announced it
    assert await carry.move(world.store, (), "i-1", "h1", "h2", "late", by_lease=True) is None
    assert await world.where() == {"i-1": "h1"}
    await world.die("h1")
    assert await carry.move(world.store, (), "i-1", "h1", "h2", "late", by_lease=True) is not None
    assert await carry.move(world.store, (), "i-1", "h1", "h3", "late", by_lease=True) is None  # done already
    assert await world.where() == {"i-1": "h2"}


async def test_a_deposed_leader_moves_nothing(world: World) -> None:
    await world.instance("i-1")
    await world.die("h1")
    fence = Absent(Guard, "deposed")
    await world.store.put(Guard(id="deposed", by="the next leader"))
    with pytest.raises(Exception, match="changed 8 times"):
        await carry.move(world.store, (fence,), "i-1", "h1", "h2", "late", by_lease=True)
    assert await world.where() == {"i-1": "h1"}


async def test_what_changes_while_it_is_moved_is_read_anew(world: World) -> None:
    await world.instance("i-1")
    await world.die("h1")

    class Racing(MemoryStore):
        raced = False

        async def get(self, kind: Any, id: str) -> Versioned[Any] | None:  # noqa: A002 — the store's own word
            found = await super().get(kind, id)
            if kind is Instance and not self.raced:
                self.raced = True
                await super().update(Instance, "i-1", lambda old: replace(old, desired="stopped", status="Stopping"))
            return found

    event = await carry.move(Racing(world.store.memory), (), "i-1", "h1", "h2", "it burns", by_lease=True)
    after = (await world.store.need(Instance, "i-1")).value
    assert event is not None
    assert (event.type, after.host, after.desired) == ("SystemFailure.Stop", "h2", "stopped")
