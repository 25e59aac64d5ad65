"""A host fails in the middle of a job, after any write of it: the job ends at the new host as it would have done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.unit.control import test_jobs_killed as jobs
from tests.unit.control.world import Fuse, Killed, World
from yuntai.control.failover import carry
from yuntai.control.failover.planner import lost
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance, InstanceEvent

if TYPE_CHECKING:
    from tests.unit.control.test_jobs_killed import Scenario

SCENARIOS = [
    jobs.create_instance, jobs.delete_instance, jobs.stop_instance, jobs.start_instance,
    jobs.reboot_instance, jobs.attach_disk, jobs.detach_disk,
]  # fmt: skip


async def _fail_over(world: World) -> int:
    """Let every host that has instances fail, and move those as the leader would; return how many were moved."""
    moved = 0
    failed = {one.host for one in await world.all(Instance) if one.host}
    target = next(host.id for host in await world.all(Host) if host.id not in failed)
    for host in failed:
        await world.store.update(Host, host, lambda old: replace(old, status="down"))
        for one in lost(await world.all(Instance), frozenset({host}), migrations_too=True):
            event = await carry.move(world.store, (), one.id, host, target, "it burns", by_lease=True)
            moved += event is not None
    return moved


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_job_ends_at_the_new_host(scenario: Scenario) -> None:
    points, expected = await jobs._undisturbed(scenario)
    moved = 0
    for point in range(1, points + 1):
        world = World()
        await world.set_up()
        await scenario(world)
        with pytest.raises(Killed):
            await world.drive(world.runner(Fuse(point)))
        moved += await _fail_over(world)
        await world.drive()
        await world.check()
        assert await jobs._state(world) == expected, f"failed over at point {point}"
        hosts = {host.id: host.status for host in await world.all(Host)}
        assert all(hosts[one.host] == "up" for one in await world.all(Instance) if one.status == "Running")
    assert moved, "the scenario had nothing to move at any point"


async def test_what_just_runs_runs_elsewhere_and_its_event_says_so() -> None:
    world = World()
    await world.set_up()
    await jobs.create_instance(world)
    await world.drive()
    assert await _fail_over(world) == 1
    (moved,) = await world.all(Instance)
    assert moved.status == "Starting"
    await world.drive()
    await world.check()
    (event,) = await world.all(InstanceEvent)
    assert (event.type, event.to_host) == ("SystemFailure.Reboot", moved.host)
