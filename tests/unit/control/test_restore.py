"""Groups of snapshots, rolling back, initializing again, images with data disks: what is accepted, refused, written."""

from __future__ import annotations

import pytest
from passlib.hash import sha512_crypt

from tests.unit.control.test_requests import refused, running
from tests.unit.control.world import CALLER, IMAGE_VOLUME, World, small
from yuntai.control.requests import disks, images, instances, restore, snapshot_groups, snapshots
from yuntai.control.requests.types import DiskSpec, Paging
from yuntai.model.cluster import Job, Volume
from yuntai.model.compute import Disk, Image, Instance, Snapshot, SnapshotGroup


@pytest.fixture
async def world() -> World:
    made = World()
    await made.set_up()
    return made


async def _taken(world: World, disk: str) -> str:
    snapshot = await snapshots.create_snapshot(world.store, CALLER, disk)
    await world.drive()
    return snapshot


async def test_a_disk_is_rolled_back_while_nobody_uses_it(world: World) -> None:
    one = await running(world, data_disks=(DiskSpec(size_gib=2),))
    data = one.disks[1]
    snapshot = await _taken(world, data)
    await refused(restore.reset_disk(world.store, CALLER, data, snapshot), "IncorrectInstanceStatus", 403, "Running")
    other = await _taken(world, one.system_disk)
    await instances.stop_instance(world.store, CALLER, one.id)
    await world.drive()
    await refused(restore.reset_disk(world.store, CALLER, data, other), "InvalidParameter.Mismatch", 403)
    await refused(restore.reset_disk(world.store, CALLER, data, "s-none"), "InvalidSnapshotId.NotFound", 404)
    await refused(restore.reset_disk(world.store, CALLER, "d-none", snapshot), "InvalidDiskId.NotFound", 404)
    await refused(restore.reset_disk(world.store, CALLER, data, snapshot, dry_run=True), "DryRunOperation")
    await restore.reset_disk(world.store, CALLER, data, snapshot)
    await refused(restore.reset_disk(world.store, CALLER, data, snapshot), "IncorrectDiskStatus", 403)
    await refused(instances.start_instance(world.store, CALLER, one.id), "IncorrectDiskStatus", 403)
    await refused(snapshots.delete_snapshot(world.store, CALLER, snapshot), "IncorrectDiskStatus", 403)
    await refused(disks.resize_disk(world.store, CALLER, data, 9), "IncorrectDiskStatus", 403)
    await world.drive()
    disk = (await world.store.need(Disk, data)).value
    assert (disk.status, disk.job, disk.instance) == ("In_use", "", one.id)
    assert world.volumes.volumes[disk.volume].based_on == snapshot
    await instances.start_instance(world.store, CALLER, one.id)
    await world.drive()
    await world.check()


async def test_a_reset_waits_until_the_host_has_let_go(world: World) -> None:
    disk = await disks.create_disk(world.store, CALLER, size_gib=2)
    await world.drive()
    snapshot = await _taken(world, disk)
    volume = (await world.store.need(Disk, disk)).value.volume
    record = Volume(id=volume, size_bytes=2 << 30, state="attached", host="h1", created="2026-01-01T00:00:00Z")
    await world.store.put(record)
    await restore.reset_disk(world.store, CALLER, disk, snapshot)
    (job,) = await world.unfinished()
    await world.runner().advance(job.id)
    assert world.volumes.volumes[volume].based_on == ""
    await world.store.delete(Volume, volume)
    await world.drive()
    assert world.volumes.volumes[volume].based_on == snapshot
    await world.check()


async def test_reinit_gives_a_new_volume_and_snapshots_lead_back(world: World) -> None:
    one = await running(world)
    system = one.system_disk
    before = (await world.store.need(Disk, system)).value.volume
    snapshot = await _taken(world, system)
    await refused(restore.reinit_disk(world.store, CALLER, system), "IncorrectInstanceStatus", 403)
    await instances.stop_instance(world.store, CALLER, one.id)
    await world.drive()
    await refused(restore.reinit_disk(world.store, CALLER, system, key_pair="none"), "InvalidKeyPairName.NotFound", 404)
    await restore.reinit_disk(world.store, CALLER, system)
    await world.drive()
    fresh = (await world.store.need(Disk, system)).value.volume
    assert fresh != before
    assert world.volumes.volumes[fresh].source == (IMAGE_VOLUME, 1)
    assert before in world.volumes.volumes, "its snapshot is still there"
    await world.check()
    await restore.reset_disk(world.store, CALLER, system, snapshot)
    await world.drive()
    assert (await world.store.need(Disk, system)).value.volume == before
    assert fresh not in world.volumes.volumes
    await world.check()
    # A data disk that was made of nothing is nothing again, and without snapshots its old volume goes.
    data = await disks.create_disk(world.store, CALLER, size_gib=3)
    await world.drive()
    old = (await world.store.need(Disk, data)).value.volume
    await restore.reinit_disk(world.store, CALLER, data)
    await world.drive()
    assert old not in world.volumes.volumes
    await world.check()
    clone = await disks.create_disk(world.store, CALLER, snapshot_id=snapshot)
    await world.drive()
    await snapshots.delete_snapshot(world.store, CALLER, snapshot, force=True)
    await world.drive()
    await refused(restore.reinit_disk(world.store, CALLER, clone), "InvalidSnapshotId.NotFound", 404)


async def test_reinit_sets_the_password_and_starts_the_instance(world: World) -> None:
    one = await running(world, data_disks=(DiskSpec(size_gib=2),))
    system, data = one.disks
    await instances.stop_instance(world.store, CALLER, one.id)
    await world.drive()
    reinit = restore.reinit_disk
    await refused(reinit(world.store, CALLER, system, password="short"), "InvalidPassword.Malformed")
    both = reinit(world.store, CALLER, system, password="Secret-123", key_pair="k")
    await refused(both, "InvalidParameter.Conflict")
    # Two at once: whichever is ready last starts the instance.
    await reinit(world.store, CALLER, data, start=True)
    await reinit(world.store, CALLER, system, password="Secret-123", start=True)
    await world.drive()
    after = (await world.store.need(Instance, one.id)).value
    assert after.status == "Running"
    assert sha512_crypt.verify("Secret-123", after.password_hash)
    assert not any("Secret-123" in repr(job) for job in await world.all(Job))
    await world.check()
    # Without it, and on a data disk, nothing of the instance changes.
    await instances.stop_instance(world.store, CALLER, one.id)
    await world.drive()
    await reinit(world.store, CALLER, data, password="Other-1234")
    await world.drive()
    still = (await world.store.need(Instance, one.id)).value
    assert (still.status, still.password_hash) == ("Stopped", after.password_hash)
    await world.check()


async def test_a_group_is_of_one_instance(world: World) -> None:
    one = await running(world, data_disks=(DiskSpec(size_gib=2), DiskSpec(size_gib=2)))
    free = await disks.create_disk(world.store, CALLER, size_gib=2)
    await world.drive()
    create = snapshot_groups.create_snapshot_group
    await refused(create(world.store, CALLER), "MissingParameter")
    await refused(create(world.store, CALLER, disk_ids=(free,)), "InvalidParameter.DiskInstanceMismatch")
    await refused(create(world.store, CALLER, disk_ids=(one.disks[0], free)), "InvalidParameter.DiskInstanceMismatch")
    await refused(create(world.store, CALLER, disk_ids=one.disks, exclude=one.disks), "InvalidParameter.Conflict")
    await refused(create(world.store, CALLER, instance_id="i-none"), "InvalidInstanceId.NotFound", 404)
    await refused(create(world.store, CALLER, instance_id=one.id, exclude=one.disks), "InvalidParameter")
    group = await create(world.store, CALLER, instance_id=one.id, exclude=one.disks[2:], client_token="t", name="both")
    assert (
        await create(world.store, CALLER, instance_id=one.id, exclude=one.disks[2:], client_token="t", name="both")
        == group
    )
    await refused(snapshot_groups.delete_snapshot_group(world.store, CALLER, group), "IncorrectSnapshotStatus", 403)
    await refused(create(world.store, CALLER, instance_id=one.id), "IncorrectDiskStatus.CreateSnapshot", 403)
    await world.drive()
    shown = await snapshot_groups.describe_snapshot_groups(world.store, CALLER, paging=Paging(), instance_id=one.id)
    (detail,) = shown.items
    assert detail.group.status == "accomplished"
    assert [s.disk for s in detail.snapshots] == list(one.disks[:2])
    await snapshot_groups.modify_snapshot_group(world.store, CALLER, group, name="renamed")
    await world.check()
    # What an image stands on stays, and the group with it.
    kept = next(s for s in detail.snapshots if s.disk_kind == "system")
    image = await images.create_image(world.store, CALLER, snapshot_id=kept.id)
    outcome = await snapshot_groups.delete_snapshot_group(world.store, CALLER, group)
    assert {one.snapshot: one.code for one in outcome} == {
        one.id: "SnapshotCreatedImage" if one == kept else "" for one in detail.snapshots
    }
    await world.drive()
    assert (await world.store.need(SnapshotGroup, group)).value.snapshots == (kept.id,)
    await refused(snapshot_groups.delete_snapshot_group(world.store, CALLER, group), "SnapshotCreatedImage", 403)
    await images.delete_image(world.store, CALLER, image)
    await world.drive()
    await snapshot_groups.delete_snapshot_group(world.store, CALLER, group)
    await world.drive()
    assert await world.all(SnapshotGroup) == []
    await refused(
        snapshot_groups.delete_snapshot_group(world.store, CALLER, group), "InvalidSnapshotGroupId.NotFound", 404
    )
    await world.check()


async def test_an_image_of_an_instance_has_its_data_disks(world: World) -> None:
    one = await running(world, data_disks=(DiskSpec(size_gib=3),))
    image_id = await images.create_image(world.store, CALLER, instance_id=one.id, name="whole")
    await world.drive()
    image = (await world.store.need(Image, image_id)).value
    taken = {s.disk: s for s in await world.all(Snapshot)}
    assert image.source_snapshot == taken[one.system_disk].id
    (data,) = image.data_disks
    assert (data.snapshot, data.size_gib, data.device) == (taken[one.disks[1]].id, 3, "/dev/vdb")
    assert data.node == taken[one.disks[1]].node
    await refused(snapshots.delete_snapshot(world.store, CALLER, data.snapshot, force=True), "SnapshotCreatedImage")
    child = await running(world, image_id=image_id, data_disks=(DiskSpec(size_gib=5),))
    made = [(await world.store.need(Disk, disk)).value for disk in child.disks]
    assert [(d.size_gib, d.source_snapshot) for d in made] == [(1, ""), (3, data.snapshot), (5, "")]
    assert world.volumes.volumes[made[1].volume].source == (data.volume, data.node)
    await refused(
        instances.run_instances(world.store, CALLER, small(image_id=image_id, data_disks=(DiskSpec(size_gib=1),) * 16)),
        "InvalidParameter",
    )
    twin = await images.create_image(
        world.store, CALLER, snapshot_id=image.source_snapshot, data_snapshots=(data.snapshot,)
    )
    assert (await world.store.need(Image, twin)).value.data_disks == image.data_disks
    await world.check()
