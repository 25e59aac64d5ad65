"""Requests on snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import decide, matches, mine, new_job, owned, paginate, transact
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Disk, Image, Snapshot
from yuntai.model.lifecycle_storage import DISK, SNAPSHOT

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Page, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store


RETENTION_DAYS_MAX = 65_536


def link_of(disk_id: str) -> str:
    """Return the id of a disk's chain of snapshots."""
    return f"sl-{disk_id.removeprefix('d-')}"


async def create_snapshot(
    store: Store,
    caller: Caller,
    disk_id: str,
    *,
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    retention_days: int = 0,
    client_token: str = "",
) -> str:
    """CreateSnapshot of a disk, attached or not; with ``retention_days`` it is deleted when it is older."""
    check_retention("RetentionDays", retention_days, least=0)
    validate.name("SnapshotName", name, code="InvalidSnapshotName.Malformed")
    validate.description("Description", description)
    checked = validate.tags(tags)

    async def body(unit: Unit) -> str:
        disk = await owned(unit, Disk, disk_id, caller, field="DiskId", what="disk", code="InvalidDiskId.NotFound")
        snapshot = await add_snapshot(
            unit, caller, disk, name=name, description=description, tags=checked, retention_days=retention_days
        )
        job = new_job(caller, "create_snapshot", snapshot.id)
        unit.add(job)
        return snapshot.id

    arguments = [disk_id, name, description, checked, retention_days]
    return await transact(store, caller, body, str, action="CreateSnapshot", token=client_token, arguments=arguments)


async def add_snapshot(
    unit: Unit,
    caller: Caller,
    disk: Disk,
    *,
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    group: str = "",
    policy: str = "",
    retention_days: int = 0,
) -> Snapshot:
    """Write a snapshot that is progressing in ``unit``; one disk has one such at a time."""
    decide(DISK, disk.status, "snapshot", disk.id)
    await progressing_on(unit, disk.id)
    await quotas.need(unit, caller.account, snapshots=1)
    snapshot = Snapshot(
        id=new_id("s"),
        account=caller.account,
        name=name,
        description=description,
        disk=disk.id,
        disk_kind=disk.kind,
        volume=disk.volume,
        size_gib=disk.size_gib,
        group=group,
        policy=policy,
        retention_days=retention_days,
        tags=tags or {},
        created=now_utc(),
    )
    unit.add(snapshot)
    return snapshot


def check_retention(field: str, days: int, *, least: int = 1) -> None:
    """Refuse a number of days that nothing can be kept for."""
    if not least <= days <= RETENTION_DAYS_MAX:
        raise errors.invalid(field, days, f"use {least} to {RETENTION_DAYS_MAX}")


async def progressing_on(unit: Unit, disk_id: str) -> None:
    """Refuse while a snapshot of the disk is being taken."""
    busy = [s.id for s in await unit.list(Snapshot) if s.disk == disk_id and s.status == "progressing"]
    if busy:
        raise ApiError(
            "IncorrectDiskStatus.CreateSnapshot",
            f"The snapshot {busy[0]} of the disk {disk_id} is being taken; wait until it is accomplished.",
            errors.FORBIDDEN,
        )


async def need_snapshot(unit: Unit, caller: Caller, snapshot_id: str) -> Snapshot:
    """Return the caller's snapshot or the API's error."""
    return await owned(
        unit,
        Snapshot,
        snapshot_id,
        caller,
        field="SnapshotId",
        what="snapshot",
        code="InvalidSnapshotId.NotFound",
    )


async def delete_snapshot(store: Store, caller: Caller, snapshot_id: str, *, force: bool = False) -> None:
    """DeleteSnapshot: refused while an image stands on it, and without ``force`` while a disk made of it is there."""

    async def body(unit: Unit) -> None:
        await drop_snapshot(unit, caller, await need_snapshot(unit, caller, snapshot_id), force=force)

    await transact(store, caller, body, type(None))


async def drop_snapshot(unit: Unit, caller: Caller, snapshot: Snapshot, *, force: bool) -> None:
    """Have a snapshot deleted, or raise why not. Disks that still read it go on: the store keeps what they need."""
    move = decide(SNAPSHOT, snapshot.status, "delete", snapshot.id)
    images = [
        image.id
        for image in await unit.list(Image)
        if snapshot.id in (image.source_snapshot, *(disk.snapshot for disk in image.data_disks))
    ]
    if images:
        raise errors.dependency(
            "SnapshotCreatedImage",
            f"The snapshot {snapshot.id} is what the image {images[0]} is made of; delete the image first.",
        )
    disks = await unit.list(Disk)
    restoring = [disk.id for disk in disks if disk.status == "ReIniting" and disk.id == snapshot.disk]
    if restoring:
        raise errors.dependency(
            "IncorrectDiskStatus",
            f"The disk {restoring[0]} of the snapshot {snapshot.id} is being rolled back; try again when that is done.",
            errors.FORBIDDEN,
        )
    users = [disk.id for disk in disks if disk.source_snapshot == snapshot.id]
    if users and not force:
        raise errors.dependency(
            "SnapshotCreatedDisk",
            f"The snapshot {snapshot.id} is what the disk {users[0]} was made of, which cannot be initialized again "
            "without it; delete it with Force=true.",
            errors.FORBIDDEN,
        )
    job = new_job(caller, move.wants, snapshot.id, volume=snapshot.volume)
    unit.put(msgspec.structs.replace(snapshot, status="deleting"))
    unit.add(job)


async def modify_snapshot_attribute(
    store: Store,
    caller: Caller,
    snapshot_id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    retention_days: int | None = None,
) -> None:
    """ModifySnapshotAttribute."""
    check_retention("RetentionDays", retention_days or 0, least=0)
    validate.name("SnapshotName", name or "", code="InvalidSnapshotName.Malformed")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        snapshot = await need_snapshot(unit, caller, snapshot_id)
        decide(SNAPSHOT, snapshot.status, "modify", snapshot.id)
        unit.put(
            msgspec.structs.replace(
                snapshot,
                name=snapshot.name if name is None else name,
                description=snapshot.description if description is None else description,
                retention_days=snapshot.retention_days if retention_days is None else retention_days,
            )
        )

    await transact(store, caller, body, type(None))


async def describe_snapshots(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    disk_id: str = "",
    instance_id: str = "",
    name: str = "",
    status: str = "",
    kind: str = "",
    origin: str = "",
    link: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[Snapshot]:
    """DescribeSnapshots; ``kind`` is system, data, or "" for both, ``origin`` auto or user."""
    disks: set[str] | None = None
    if instance_id:
        disks = {disk.id for disk in await mine(store, Disk, caller) if disk.instance == instance_id}
    found = [
        snapshot
        for snapshot in await mine(store, Snapshot, caller)
        if matches(snapshot, ids=ids, name=name, tags=tags)
        and disk_id in ("", snapshot.disk)
        and (disks is None or snapshot.disk in disks)
        and status in ("", "all", snapshot.status)
        and kind in ("", "all", snapshot.disk_kind)
        and origin in ("", "all", "auto" if snapshot.policy else "user")
        and link in ("", link_of(snapshot.disk))
    ]
    return paginate(found, paging)
