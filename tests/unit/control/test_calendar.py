"""Automatic snapshot policies: when a snapshot is due, that missed ones are taken once, what is deleted again."""

from __future__ import annotations

import datetime as dt

import pytest
from msgspec.structs import replace

from tests.unit.control.test_requests import refused
from tests.unit.control.world import ACCOUNT, CALLER, World
from yuntai.control import calendar
from yuntai.control.requests import auto_snapshots, disks, images, snapshots
from yuntai.control.requests.types import Paging
from yuntai.model.compute import AutoSnapshotPolicy, Disk, Snapshot

# A Wednesday, 10:30 in UTC+8.
NOW = dt.datetime(2026, 4, 1, 2, 30, tzinfo=dt.UTC)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.set_up()
    return made


def policy(points: tuple[int, ...], days: tuple[int, ...], retention: int = 7) -> AutoSnapshotPolicy:
    return AutoSnapshotPolicy(
        id="sp-1", account=ACCOUNT, time_points=points, weekdays=days, retention_days=retention, created=""
    )


POINTS = [
    # hours, weekdays, now → the last point, in UTC
    ((10,), (3,), NOW, "2026-04-01T02:00"),
    ((11,), (3,), NOW, "2026-03-25T03:00"),
    ((1, 10, 23), (1, 3), NOW, "2026-04-01T02:00"),
    ((11, 23), (1, 3), NOW, "2026-03-30T15:00"),
    ((0,), (1, 2, 3, 4, 5, 6, 7), NOW, "2026-03-31T16:00"),
    ((10,), (3,), dt.datetime(2026, 4, 1, 2, 0, tzinfo=dt.UTC), "2026-04-01T02:00"),
    ((10,), (3,), dt.datetime(2026, 4, 1, 1, 59, 59, tzinfo=dt.UTC), "2026-03-25T02:00"),
    # In UTC it is still Sunday.
    ((0,), (1,), dt.datetime(2026, 4, 5, 16, 0, tzinfo=dt.UTC), "2026-04-05T16:00"),
]


@pytest.mark.parametrize(("hours", "days", "now", "expected"), POINTS)
def test_the_last_time_point(hours: tuple[int, ...], days: tuple[int, ...], now: dt.datetime, expected: str) -> None:
    assert calendar.last_point(policy(hours, days), now).astimezone(dt.UTC).isoformat()[:16] == expected


async def _disk(world: World, retention: int = 7) -> tuple[str, str]:
    disk = await disks.create_disk(world.store, CALLER, size_gib=2)
    await world.drive()
    made = await auto_snapshots.create_policy(
        world.store, CALLER, time_points=("10", "14"), weekdays=("1", "2", "3"), retention_days=retention
    )
    await auto_snapshots.apply_policy(world.store, CALLER, made, (disk,))
    await world.store.update(Disk, disk, lambda one: replace(one, policy_since="2026-04-01T00:00:00Z"))
    return disk, made


async def _turn(world: World, now: dt.datetime) -> list[Snapshot]:
    await calendar.turn(world.store, now)
    await world.drive()
    return [one for one in await world.all(Snapshot) if one.policy]


async def test_each_time_is_taken_once_and_missed_times_too(world: World) -> None:
    disk, made = await _disk(world)
    assert await _turn(world, NOW - dt.timedelta(minutes=31)) == []
    (first,) = await _turn(world, NOW)
    assert (first.policy, first.retention_days, first.disk, first.status) == (made, 7, disk, "accomplished")
    assert first.name == f"auto2.0_20260401_{made}"
    assert len(await _turn(world, NOW + dt.timedelta(hours=1))) == 1
    # Nobody led for two weeks: one snapshot, for the last time that was missed.
    assert len(await _turn(world, NOW + dt.timedelta(days=14, hours=6))) == 2
    assert (await world.store.need(Disk, disk)).value.policy_since == "2026-04-15T06:00:00Z"
    assert len(await _turn(world, NOW + dt.timedelta(days=14, hours=7))) == 2
    await world.check()


async def test_a_busy_disk_is_frozen_later(world: World) -> None:
    disk, _ = await _disk(world)
    await snapshots.create_snapshot(world.store, CALLER, disk)
    await calendar.turn(world.store, NOW)
    assert [one.policy for one in await world.all(Snapshot)] == [""]
    await world.drive()
    assert len(await _turn(world, NOW + dt.timedelta(minutes=1))) == 1


async def test_retention_deletes_automatic_snapshots_only(world: World) -> None:
    disk, made = await _disk(world, retention=7)
    (automatic,) = await _turn(world, NOW)
    manual = await snapshots.create_snapshot(world.store, CALLER, disk)
    await world.drive()
    bounded = await snapshots.create_snapshot(world.store, CALLER, disk, retention_days=3)
    await world.drive()
    for one in (automatic.id, manual, bounded):
        await world.store.update(Snapshot, one, lambda s: replace(s, created="2026-04-01T02:30:00Z"))
    await auto_snapshots.cancel_policy(world.store, CALLER, (disk,))
    await _turn(world, NOW + dt.timedelta(days=2, hours=23))
    assert {one.id for one in await world.all(Snapshot)} == {automatic.id, manual, bounded}
    await _turn(world, NOW + dt.timedelta(days=6, hours=23))
    assert {one.id for one in await world.all(Snapshot)} == {automatic.id, manual}
    # A disk that was made of it does not keep it, an image does.
    await disks.create_disk(world.store, CALLER, snapshot_id=automatic.id)
    await world.drive()
    await world.store.update(Snapshot, automatic.id, lambda s: replace(s, disk_kind="system"))
    image = await images.create_image(world.store, CALLER, snapshot_id=automatic.id)
    assert len(await _turn(world, NOW + dt.timedelta(days=8))) == 1
    await images.delete_image(world.store, CALLER, image)
    await world.drive()
    assert await _turn(world, NOW + dt.timedelta(days=8)) == []
    assert [one.id for one in await world.all(Snapshot)] == [manual]
    assert made


async def test_policies_are_made_changed_and_deleted(world: World) -> None:
    store = world.store
    good = {"time_points": ("0", "23", "0"), "weekdays": ("7",), "retention_days": -1}
    for wrong, code in (
        ({"time_points": ("24",)}, "InvalidParameter.timePoints"),
        ({"time_points": ()}, "InvalidParameter.timePoints"),
        ({"weekdays": ("0",)}, "InvalidParameter.repeatWeekdays"),
        ({"weekdays": ("x",)}, "InvalidParameter.repeatWeekdays"),
        ({"retention_days": 0}, "InvalidRetentionDays.Malformed"),
        ({"retention_days": 65_537}, "InvalidRetentionDays.Malformed"),
        ({"name": "1"}, "InvalidParameter"),
    ):
        await refused(auto_snapshots.create_policy(store, CALLER, **(good | wrong)), code)  # type: ignore[arg-type]
    made = await auto_snapshots.create_policy(store, CALLER, **good)  # type: ignore[arg-type]
    assert (await store.need(AutoSnapshotPolicy, made)).value.time_points == (0, 23)
    await auto_snapshots.modify_policy(store, CALLER, made, retention_days=30, name="nightly")
    changed = (await store.need(AutoSnapshotPolicy, made)).value
    assert (changed.retention_days, changed.name, changed.weekdays) == (30, "nightly", (7,))
    disk = await disks.create_disk(store, CALLER, size_gib=2)
    await world.drive()
    await refused(auto_snapshots.apply_policy(store, CALLER, made, ()), "MissingParameter")
    await refused(auto_snapshots.apply_policy(store, CALLER, made, ("d-none",)), "InvalidDiskId.NotFound", 404)
    await refused(auto_snapshots.apply_policy(store, CALLER, "sp-x", (disk,)), "InvalidAutoSnapshotPolicyId.NotFound")
    await auto_snapshots.apply_policy(store, CALLER, made, (disk, disk))
    page = await auto_snapshots.describe_policies(store, CALLER, paging=Paging())
    assert [one.disks for one in page.items] == [(disk,)]
    linked = await auto_snapshots.describe_associations(store, CALLER, paging=Paging(), policy_id=made)
    assert [one.id for one in linked.items] == [disk]
    await auto_snapshots.delete_policy(store, CALLER, made)
    assert (await store.need(Disk, disk)).value.policy == ""
    assert (await auto_snapshots.describe_policies(store, CALLER, paging=Paging())).total == 0
