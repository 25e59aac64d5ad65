"""Kill the executor after each write and each outside call of a job; a fresh one must end it wholly or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.control.world import CALLER, BreakingVolumes, Fuse, Killed, World, small
from yuntai.control.requests import disks, images, instances, restore, snapshot_groups, snapshots
from yuntai.control.requests.types import DiskSpec
from yuntai.model.compute import Disk, Image, Instance, Snapshot, SnapshotGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Scenario = Callable[[World], Awaitable[None]]


async def _instance(world: World, **changes: Any) -> Instance:
    await instances.run_instances(world.store, CALLER, small(**changes))
    await world.drive()
    (made,) = await world.all(Instance)
    assert isinstance(made, Instance)
    return made


async def _disk(world: World) -> str:
    disk_id = await disks.create_disk(world.store, CALLER, size_gib=2)
    await world.drive()
    return disk_id


async def create_instance(world: World) -> None:
    await instances.run_instances(
        world.store, CALLER, small(data_disks=(DiskSpec(size_gib=2), DiskSpec(size_gib=3, delete_with_instance=False)))
    )


async def create_stopped(world: World) -> None:
    await instances.create_instance(world.store, CALLER, small())


async def delete_instance(world: World) -> None:
    one = await _instance(world, data_disks=(DiskSpec(size_gib=2), DiskSpec(size_gib=3, delete_with_instance=False)))
    await instances.delete_instance(world.store, CALLER, one.id, force=True)


async def abort_creation(world: World) -> None:
    (one,) = await instances.run_instances(world.store, CALLER, small())
    job = (await world.unfinished())[0]
    with pytest.raises(Killed):
        await world.runner(Fuse(2)).advance(job.id)
    await instances.delete_instance(world.store, CALLER, one, force=True)


async def stop_instance(world: World) -> None:
    one = await _instance(world)
    await instances.stop_instance(world.store, CALLER, one.id)


async def start_instance(world: World) -> None:
    await create_stopped(world)
    await world.drive()
    await instances.start_instance(world.store, CALLER, (await world.all(Instance))[0].id)


async def reboot_instance(world: World) -> None:
    one = await _instance(world)
    await instances.reboot_instance(world.store, CALLER, one.id)


async def create_disk(world: World) -> None:
    await disks.create_disk(world.store, CALLER, size_gib=2)


async def delete_disk(world: World) -> None:
    await disks.delete_disk(world.store, CALLER, await _disk(world))


async def attach_disk(world: World) -> None:
    one = await _instance(world)
    await disks.attach_disk(world.store, CALLER, one.id, await _disk(world))


async def detach_disk(world: World) -> None:
    one = await _instance(world, data_disks=(DiskSpec(size_gib=2),))
    await disks.detach_disk(world.store, CALLER, one.id, one.disks[1])


async def resize_disk(world: World) -> None:
    await disks.resize_disk(world.store, CALLER, await _disk(world), 5)


async def create_snapshot(world: World) -> None:
    await snapshots.create_snapshot(world.store, CALLER, await _disk(world))


async def delete_snapshot(world: World) -> None:
    disk = await _disk(world)
    snapshot = await snapshots.create_snapshot(world.store, CALLER, disk)
    await world.drive()
    await disks.delete_disk(world.store, CALLER, disk)  # the snapshot keeps the volume
    await world.drive()
    await world.check()
    await snapshots.delete_snapshot(world.store, CALLER, snapshot)


async def create_group(world: World) -> None:
    one = await _instance(world, data_disks=(DiskSpec(size_gib=2), DiskSpec(size_gib=2)))
    await snapshot_groups.create_snapshot_group(world.store, CALLER, instance_id=one.id)


async def delete_group(world: World) -> None:
    await create_group(world)
    await world.drive()
    (group,) = await world.all(SnapshotGroup)
    await snapshot_groups.delete_snapshot_group(world.store, CALLER, group.id)


async def reset_disk(world: World) -> None:
    disk = await _disk(world)
    snapshot = await snapshots.create_snapshot(world.store, CALLER, disk)
    await world.drive()
    await restore.reset_disk(world.store, CALLER, disk, snapshot)


async def reinit_disk(world: World) -> None:
    one = await _instance(world)
    await snapshots.create_snapshot(world.store, CALLER, one.system_disk)
    await instances.stop_instance(world.store, CALLER, one.id)
    await world.drive()
    await restore.reinit_disk(world.store, CALLER, one.system_disk)


async def reinit_and_start(world: World) -> None:
    one = await _instance(world)
    await instances.stop_instance(world.store, CALLER, one.id)
    await world.drive()
    await restore.reinit_disk(world.store, CALLER, one.system_disk, start=True)


async def reinit_unsaved_disk(world: World) -> None:
    await restore.reinit_disk(world.store, CALLER, await _disk(world))


async def reset_to_before_reinit(world: World) -> None:
    """The snapshot is on the volume that the disk had before; the present one must go."""
    disk = await _disk(world)
    snapshot = await snapshots.create_snapshot(world.store, CALLER, disk)
    await world.drive()
    await restore.reinit_disk(world.store, CALLER, disk)
    await world.drive()
    await disks.resize_disk(world.store, CALLER, disk, 7)
    await world.drive()
    await restore.reset_disk(world.store, CALLER, disk, snapshot)


async def create_whole_image(world: World) -> None:
    one = await _instance(world, data_disks=(DiskSpec(size_gib=2),))
    await images.create_image(world.store, CALLER, instance_id=one.id, name="whole")


async def create_image(world: World) -> None:
    one = await _instance(world)
    await images.create_image(world.store, CALLER, instance_id=one.id, name="mine")


async def delete_image(world: World) -> None:
    await create_image(world)
    await world.drive()
    own = next(image for image in await world.all(Image) if image.account)
    await images.delete_image(world.store, CALLER, own.id)


SCENARIOS = (
    create_instance,
    create_stopped,
    delete_instance,
    abort_creation,
    stop_instance,
    start_instance,
    reboot_instance,
    create_disk,
    delete_disk,
    attach_disk,
    detach_disk,
    resize_disk,
    create_snapshot,
    delete_snapshot,
    create_group,
    delete_group,
    reset_disk,
    reinit_disk,
    reinit_and_start,
    reinit_unsaved_disk,
    reset_to_before_reinit,
    create_image,
    create_whole_image,
    delete_image,
)
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)


async def _state(world: World) -> Any:
    """Return what a tenant sees, without what differs from run to run."""
    return (
        sorted((i.status, len(i.disks)) for i in await world.all(Instance)),
        sorted((d.status, d.kind, d.size_gib) for d in await world.all(Disk)),
        sorted(s.status for s in await world.all(Snapshot)),
        sorted((g.status, len(g.snapshots)) for g in await world.all(SnapshotGroup)),
        sorted((bool(v.based_on), len(v.snapshots)) for v in world.volumes.volumes.values()),
        sorted((i.status, i.owner_alias) for i in await world.all(Image)),
    )


async def _undisturbed(scenario: Scenario) -> tuple[int, Any]:
    world = World()
    await world.set_up()
    await scenario(world)
    fuse = Fuse()
    await world.drive(world.runner(fuse))
    await world.check()
    return fuse.burnt, await _state(world)


@each_scenario
async def test_killed_anywhere_a_fresh_executor_ends_it(scenario: Scenario) -> None:
    points, expected = await _undisturbed(scenario)
    assert points >= 2
    for point in range(1, points + 1):
        world = World()
        await world.set_up()
        await scenario(world)
        with pytest.raises(Killed):
            await world.drive(world.runner(Fuse(point)))
        await world.drive()
        await world.check()
        assert await _state(world) == expected, f"killed at point {point}"


@each_scenario
async def test_killed_again_and_again_it_still_ends(scenario: Scenario) -> None:
    """Every executor lives for five effects only (the longest step here has four)."""
    _, expected = await _undisturbed(scenario)
    world = World()
    await world.set_up()
    await scenario(world)
    for _ in range(100):
        try:
            await world.drive(world.runner(Fuse(5)))
        except Killed:
            continue
        break
    else:
        pytest.fail("no progress")
    await world.check()
    assert await _state(world) == expected


@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "scenario",
    [
        create_instance,
        create_stopped,
        create_disk,
        create_snapshot,
        create_group,
        create_image,
        create_whole_image,
        resize_disk,
        reset_disk,
        reinit_disk,
        reset_to_before_reinit,
    ],
    ids=lambda s: s.__name__,
)
async def test_a_block_store_that_breaks_leaves_nothing_behind(scenario: Scenario, *, effect: bool) -> None:
    for call in range(4):
        world = World()
        await world.set_up()
        await scenario(world)
        before = {job.id for job in await world.unfinished()}
        broken = BreakingVolumes(world.volumes, from_call=call, effect=effect)
        await world.drive(world.runner(volumes=broken))
        await world.check()
        assert before


async def test_killed_while_undoing_nothing_is_left() -> None:
    for point in range(1, 30):
        world = World()
        await world.set_up()
        await create_instance(world)
        broken = BreakingVolumes(world.volumes, from_call=1, effect=True)
        fuse = Fuse(point)
        runner = world.runner(fuse)
        runner._volumes = broken
        try:
            await world.drive(runner)
        except Killed:
            await world.drive(world.runner(volumes=broken))
        await world.check()
        assert not await world.all(Instance)
        assert not await world.all(Disk)
