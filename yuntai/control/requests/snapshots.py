"""Requests on snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import decide, matches, mine, new_job, owned, paginate, transact
from yuntai.control.sources import readers_of_snapshot
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Disk, Image, Snapshot
from yuntai.model.lifecycle_storage import DISK, SNAPSHOT

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Page, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store


async def create_snapshot(
    store: Store,
    caller: Caller,
    disk_id: str,
    *,
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
) -> str:
    """CreateSnapshot of a disk, attached or not."""
    validate.name("SnapshotName", name, code="InvalidSnapshotName.Malformed")
    validate.description("Description", description)
    checked = validate.tags(tags)

    async def body(unit: Unit) -> str:
        disk = await owned(unit, Disk, disk_id, caller, field="DiskId", what="disk", code="InvalidDiskId.NotFound")
        snapshot = await add_snapshot(unit, caller, disk, name=name, description=description, tags=checked)
        job = new_job(caller, "create_snapshot", snapshot.id)
        unit.add(job)
        return snapshot.id

    arguments = [disk_id, name, description, checked]
    return await transact(store, caller, body, str, action="CreateSnapshot", token=client_token, arguments=arguments)


async def add_snapshot(
    unit: Unit,
    caller: Caller,
    disk: Disk,
    *,
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
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
        tags=tags or {},
        created=now_utc(),
    )
    unit.add(snapshot)
    return snapshot


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


async def delete_snapshot(store: Store, caller: Caller, snapshot_id: str) -> None:
    """DeleteSnapshot: refused while an image, or a disk that still reads from it, stands on it."""

    async def body(unit: Unit) -> None:
        snapshot = await need_snapshot(unit, caller, snapshot_id)
        move = decide(SNAPSHOT, snapshot.status, "delete", snapshot.id)
        images = [i.id for i in await unit.list(Image) if i.source_snapshot == snapshot.id]
        if images:
            raise errors.dependency(
                "SnapshotCreatedImage",
                f"The snapshot {snapshot.id} is what the image {images[0]} is made of; delete the image first.",
            )
        users = await readers_of_snapshot(unit, snapshot) if snapshot.status == "accomplished" else []
        if users:
            raise errors.dependency(
                "SnapshotCreatedDisk",
                f"The snapshot {snapshot.id} is still read by {', '.join(users[:5])}, whose data is being copied; "
                "try again when that is done.",
                errors.FORBIDDEN,
            )
        job = new_job(caller, move.wants, snapshot.id, volume=snapshot.volume)
        unit.put(msgspec.structs.replace(snapshot, status="deleting"))
        unit.add(job)

    await transact(store, caller, body, type(None))


async def modify_snapshot_attribute(
    store: Store, caller: Caller, snapshot_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifySnapshotAttribute."""
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
    tags: dict[str, str | None] | None = None,
) -> Page[Snapshot]:
    """DescribeSnapshots; ``kind`` is system, data, or "" for both."""
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
    ]
    return paginate(found, paging)
