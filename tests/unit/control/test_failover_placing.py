"""What a failure does to deployment sets and dedicated hosts: leave the set or wait; another machine or wait."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.compute.test_compute_agent import eventually
from tests.unit.control.test_failover import LIMIT_S, World
from yuntai.control.errors import ApiError
from yuntai.control.failover import carry
from yuntai.control.requests.dedicated_hosts import redeploy_dedicated_host
from yuntai.control.requests.types import Caller
from yuntai.control.scheduler import Fleet, request_of
from yuntai.model.cluster import Host, HostAlive
from yuntai.model.compute import Instance, InstanceEvent
from yuntai.model.placement import DedicatedHost, DeploymentSet
from yuntai.state import StateError

DEDICATED = "dh-1"


async def cloud(*hosts: str, **of_the_first: Any) -> World:
    made = World()
    for number, name in enumerate(hosts):
        await made.host(name, **({} if number else of_the_first))
    return made


async def deployment_set(world: World, on_failure: Any, strategy: Any = "Availability") -> None:
    await world.store.create(
        DeploymentSet(id="ds-1", account="1", strategy=strategy, on_failure=on_failure, created="")
    )
    for number in (1, 2):
        group = number if strategy == "AvailabilityGroup" else 0
        await world.instance(f"i-{number}", f"h{number}", deployment_set="ds-1", deployment_set_group=group)


async def get(world: World, instance: str) -> Instance:
    return (await world.store.need(Instance, instance)).value


@pytest.mark.parametrize("strategy", ["Availability", "AvailabilityGroup"])
async def test_without_a_host_apart_it_leaves_its_set_and_runs(strategy: str) -> None:
    world = await cloud("h1", "h2")
    await deployment_set(world, "CancelMembershipAndStart", strategy)
    async with world.leader():
        await world.die("h1")
        await eventually(_is(world, "i-1", host="h2"), LIMIT_S)
    moved = await get(world, "i-1")
    assert (moved.deployment_set, moved.deployment_set_group) == ("", 0)
    assert (await get(world, "i-2")).deployment_set == "ds-1"
    (event,) = await world.store.list(InstanceEvent)
    assert "it left the deployment set ds-1" in event.value.reason


async def test_with_a_host_apart_it_stays_in_its_set() -> None:
    world = await cloud("h1", "h2", "h3")
    await deployment_set(world, "CancelMembershipAndStart")
    async with world.leader():
        await world.die("h1")
        await eventually(_is(world, "i-1", host="h3"), LIMIT_S)
    assert (await get(world, "i-1")).deployment_set == "ds-1"


async def test_one_that_is_to_be_kept_stopped_waits_for_a_host_apart() -> None:
    world = await cloud("h1", "h2")
    await deployment_set(world, "KeepStopped")
    async with world.leader() as service:
        await world.die("h1")
        await eventually(_waits(world, "i-1", "of the deployment set ds-1"), LIMIT_S)
        assert (await get(world, "i-1")).host == "h1"
        await world.host("h3")
        await eventually(lambda: "h3" in service.collector.alive, LIMIT_S)
        world.clock.now += 60
        await eventually(_is(world, "i-1", host="h3", deployment_set="ds-1"), LIMIT_S)


async def test_a_set_is_not_left_for_nothing() -> None:
    """Where nothing has room outside of the set either, it stays in it; and so it does when it was asked otherwise."""
    world = await cloud("h1", "h2")
    await deployment_set(world, "CancelMembershipAndStart")
    await world.store.update(Instance, "i-1", lambda old: replace(old, memory_mib=9999))
    async with world.leader():
        await world.die("h1")
        await eventually(_waits(world, "i-1", "MiB short"), LIMIT_S)
    assert (await get(world, "i-1")).deployment_set == "ds-1"
    fleet = Fleet(
        [one.value for one in await world.store.list(Host)],
        [one.value for one in await world.store.list(Instance)],
        [one.value for one in await world.store.list(DeploymentSet)],
    )
    plain = request_of(replace(await get(world, "i-1"), memory_mib=64), prefer=False)
    assert not fleet.choose(plain).host, "a start is no failure"


async def test_what_changed_its_set_meanwhile_is_placed_anew() -> None:
    world = await cloud("h1", "h2")
    await deployment_set(world, "CancelMembershipAndStart")
    with pytest.raises(StateError, match="not in ds-2"):
        await carry.move(world.store, (), "i-1", "h1", "h2", "it burns", by_lease=False, leaves_set="ds-2")


async def dedicated(world: World, action: Any = "Migrate") -> None:
    await world.store.create(
        DedicatedHost(id=DEDICATED, account="1", host="h1", action_on_maintenance=action, created="")
    )
    for name in ("i-1", "i-2"):
        await world.instance(name, "h1", dedicated_host=DEDICATED)


async def test_a_dedicated_host_gets_another_machine_and_its_instances_follow() -> None:
    world = await cloud("h1", "h2", "h3", dedicated=DEDICATED)
    await dedicated(world)
    await world.instance("i-9", "h2")
    async with world.leader():
        await world.die("h1")
        await eventually(_is(world, "i-1", host="h3"), LIMIT_S)
        await eventually(_is(world, "i-2", host="h3"), LIMIT_S)
    given = {one.value.id: one.value.dedicated for one in await world.store.list(Host)}
    assert given == {"h1": "", "h2": "", "h3": DEDICATED}
    assert (await world.store.need(DedicatedHost, DEDICATED)).value.host == "h3"


async def test_while_no_machine_is_free_it_waits_and_says_why() -> None:
    world = await cloud("h1", "h2", dedicated=DEDICATED)
    await dedicated(world)
    await world.instance("i-9", "h2")
    async with world.leader():
        await world.die("h1")
        await eventually(_machine(world, reason="h2 rejected: it has 1 instances"), LIMIT_S)
        await world.host("h3", memory_mib=64)
        world.clock.now += 60
        await eventually(_machine(world, reason="it is too small for 512 MiB"), LIMIT_S)
        await world.store.delete(Instance, "i-9")
        await eventually(_later(world, _is(world, "i-1", host="h2")), LIMIT_S)
    assert (await world.store.need(DedicatedHost, DEDICATED)).value.reason == ""


async def test_one_that_is_to_wait_does_until_its_owner_asks() -> None:
    world = await cloud("h1", "h2", dedicated=DEDICATED)
    await dedicated(world, "Stop")
    caller = Caller(account="1")
    with pytest.raises(ApiError, match="has no failed machine"):
        await redeploy_dedicated_host(world.store, caller, DEDICATED)
    async with world.leader():
        await world.die("h1")
        await eventually(_waits(world, "i-1", "not the dedicated host"), LIMIT_S)
        assert (await world.store.need(DedicatedHost, DEDICATED)).value.host == "h1"
        await redeploy_dedicated_host(world.store, caller, DEDICATED)
        await eventually(_later(world, _is(world, "i-1", host="h2")), LIMIT_S)
    assert not (await world.store.need(DedicatedHost, DEDICATED)).value.redeploy


async def test_a_machine_that_comes_back_in_this_moment_keeps_what_it_had() -> None:
    world = await cloud("h1", "h2", dedicated=DEDICATED)
    await dedicated(world)
    assert await world.store.get(HostAlive, "h1") is not None, (
        "its guard is there again; the leader has not heard of it"
    )
    async with world.leader() as service:
        machines = service._mover._machines
        assert await machines.replace(["h1"], ["h1"], by_lease=lambda _: True) == frozenset()
    assert (await world.store.need(Host, "h1")).value.dedicated == DEDICATED
    assert (await world.store.need(Host, "h2")).value.dedicated == ""


def _is(world: World, instance: str, **fields: Any) -> Any:
    async def look() -> bool:
        found = await get(world, instance)
        return all(getattr(found, name) == value for name, value in fields.items())

    return look


def _waits(world: World, instance: str, why: str) -> Any:
    async def look() -> bool:
        found = await get(world, instance)
        return "waits for room" in found.reason and why in found.reason

    return look


def _machine(world: World, reason: str) -> Any:
    async def look() -> bool:
        world.clock.now += 1
        return reason in (await world.store.need(DedicatedHost, DEDICATED)).value.reason

    return look


def _later(world: World, look: Any) -> Any:
    """Look while time passes."""

    async def looked() -> bool:
        world.clock.now += 1
        return bool(await look())

    return looked
