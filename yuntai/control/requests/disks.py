"""Requests on disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import decide, matches, mine, new_job, owned, paginate, transact
from yuntai.control.requests.snapshots import need_snapshot, progressing_on
from yuntai.control.requests.types import DiskDetail, Page
from yuntai.control.sources import GIB, hydrated_percent
from yuntai.model.base import new_id, now_utc
from yuntai.model.cluster import Volume
from yuntai.model.compute import Disk, Instance
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.lifecycle_storage import DISK, SNAPSHOT

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, DiskFilter, Paging
    from yuntai.control.unit import Unit
    from yuntai.model.compute import Snapshot
    from yuntai.state import Store

DEVICES = tuple(f"/dev/vd{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")


def volume_of(disk: Disk, source: tuple[str, int] | None) -> dict[str, object]:
    """Return what a job's arguments say of a volume to make: its id is fixed here, so making it twice is harmless."""
    origin = {"volume": source[0], "node": source[1]} if source else None
    return {"id": disk.volume, "size_bytes": disk.size_gib * GIB, "source": origin}


def free_device(disks: list[Disk]) -> str:
    """Return the first device name that none of an instance's disks has."""
    taken = {disk.device for disk in disks}
    return next(device for device in DEVICES if device not in taken)


def size_from(field: str, size_gib: int | None, snapshot: Snapshot | None, default_gib: int) -> int:
    """Return a disk's size: what is asked for, not below the snapshot's."""
    size = size_gib if size_gib is not None else (snapshot.size_gib if snapshot else default_gib)
    validate.disk_size(field, size)
    if snapshot is not None and size < snapshot.size_gib:
        raise errors.invalid(
            field, size, f"the snapshot {snapshot.id} needs {snapshot.size_gib} GiB or more", "InvalidDiskSize.TooSmall"
        )
    return size


async def create_disk(
    store: Store,
    caller: Caller,
    *,
    size_gib: int | None = None,
    snapshot_id: str = "",
    category: str = "",
    name: str = "",
    description: str = "",
    zone_id: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
    dry_run: bool = False,
) -> str:
    """CreateDisk from a size, from a snapshot, or from both; the disk ends Available."""
    if size_gib is None and not snapshot_id:
        raise errors.missing("Size")
    kind = validate.disk_category("DiskCategory", category)
    validate.zone(zone_id, caller.zone)
    validate.name("DiskName", name, code="InvalidDiskName.Malformed")
    validate.description("Description", description)
    checked = validate.tags(tags)

    async def body(unit: Unit) -> str:
        snapshot = None
        if snapshot_id:
            snapshot = await need_snapshot(unit, caller, snapshot_id)
            decide(SNAPSHOT, snapshot.status, "use", snapshot.id)
        size = size_from("Size", size_gib, snapshot, 0)
        await quotas.need(unit, caller.account, disks=1, disk_gib=size)
        disk = Disk(
            id=new_id("d"),
            account=caller.account,
            name=name,
            description=description,
            zone=caller.zone,
            category=kind,
            kind="data",
            size_gib=size,
            volume=new_id("vol"),
            delete_with_instance=False,
            source_snapshot=snapshot_id,
            tags=checked,
            created=now_utc(),
        )
        source = (snapshot.volume, snapshot.node) if snapshot else None
        job = new_job(caller, "create_disk", disk.id, volumes=[volume_of(disk, source)])
        unit.add(msgspec.structs.replace(disk, job=job.id))
        unit.add(job)
        return disk.id

    arguments = [size_gib, snapshot_id, category, name, description, zone_id, checked]
    return await transact(
        store, caller, body, str, action="CreateDisk", token=client_token, arguments=arguments, dry_run=dry_run
    )


async def need_disk(unit: Unit, caller: Caller, disk_id: str) -> Disk:
    """Return the caller's disk or the API's error."""
    return await owned(unit, Disk, disk_id, caller, field="DiskId", what="disk", code="InvalidDiskId.NotFound")


async def need_instance(unit: Unit, caller: Caller, instance_id: str) -> Instance:
    """Return the caller's instance or the API's error."""
    return await owned(
        unit, Instance, instance_id, caller, field="InstanceId", what="InstanceId", code="InvalidInstanceId.NotFound"
    )


def need_idle(disk: Disk) -> None:
    """Refuse while another operation works on the disk."""
    if disk.job:
        raise ApiError(
            "OperationConflict",
            f"Another operation on the disk {disk.id} is under way; wait until it is over, and try again.",
            errors.CONFLICT,
        )


async def delete_disk(store: Store, caller: Caller, disk_id: str) -> None:
    """DeleteDisk: snapshots of it stay."""

    async def body(unit: Unit) -> None:
        disk = await need_disk(unit, caller, disk_id)
        move = decide(DISK, disk.status, "delete", disk.id)
        need_idle(disk)
        await progressing_on(unit, disk.id)
        job = new_job(caller, move.wants, disk.id, volumes=[volume_of(disk, None)])
        unit.put(msgspec.structs.replace(disk, status="Deleting", job=job.id))
        unit.add(job)

    await transact(store, caller, body, type(None))


async def attach_disk(
    store: Store, caller: Caller, instance_id: str, disk_id: str, *, delete_with_instance: bool | None = None
) -> None:
    """AttachDisk: to a running guest it is plugged hot."""

    async def body(unit: Unit) -> None:
        instance = await need_instance(unit, caller, instance_id)
        disk = await need_disk(unit, caller, disk_id)
        decide(INSTANCE, instance.status, "attach_disk", instance.id)
        move = decide(DISK, disk.status, "attach", disk.id)
        need_idle(disk)
        attached = [d for d in await unit.list(Disk) if d.instance == instance.id]
        await quotas.need_within(unit, caller.account, "disks_per_instance", len(attached) + 1)
        job = new_job(caller, move.wants, disk.id, instance=instance.id)
        keep = disk.delete_with_instance if delete_with_instance is None else delete_with_instance
        unit.put(
            msgspec.structs.replace(
                disk,
                status="Attaching",
                instance=instance.id,
                device=free_device(attached),
                delete_with_instance=keep,
                job=job.id,
                reason="",
            )
        )
        unit.add(job)

    await transact(store, caller, body, type(None))


async def detach_disk(
    store: Store, caller: Caller, instance_id: str, disk_id: str, *, delete_with_instance: bool | None = None
) -> None:
    """DetachDisk: from a running guest it is unplugged hot; the guest must let go of it."""

    async def body(unit: Unit) -> None:
        instance = await need_instance(unit, caller, instance_id)
        disk = await need_disk(unit, caller, disk_id)
        decide(INSTANCE, instance.status, "detach_disk", instance.id)
        move = decide(DISK, disk.status, "detach", disk.id)
        if disk.instance != instance.id:
            raise errors.dependency(
                "DependencyViolation",
                f"The disk {disk.id} is not attached to {instance.id} but to {disk.instance}; name that one.",
                errors.FORBIDDEN,
            )
        if disk.kind == "system":
            raise ApiError(
                "InvalidDiskId.NotPortable",
                f"The disk {disk.id} is the system disk of {instance.id}; only data disks can be detached.",
            )
        need_idle(disk)
        job = new_job(caller, move.wants, disk.id, instance=instance.id)
        keep = disk.delete_with_instance if delete_with_instance is None else delete_with_instance
        unit.put(msgspec.structs.replace(disk, status="Detaching", job=job.id, delete_with_instance=keep, reason=""))
        unit.add(job)

    await transact(store, caller, body, type(None))


async def resize_disk(store: Store, caller: Caller, disk_id: str, new_size_gib: int, *, client_token: str = "") -> None:
    """ResizeDisk: a disk only grows. Its host shows a running guest the new size a moment later."""
    validate.disk_size("NewSize", new_size_gib)

    async def body(unit: Unit) -> None:
        disk = await need_disk(unit, caller, disk_id)
        move = decide(DISK, disk.status, "resize", disk.id)
        need_idle(disk)
        if new_size_gib <= disk.size_gib:
            raise errors.invalid(
                "NewSize", new_size_gib, f"use more than the present {disk.size_gib} GiB", "InvalidDiskSize.TooSmall"
            )
        await quotas.need(unit, caller.account, disk_gib=new_size_gib - disk.size_gib)
        job = new_job(caller, move.wants, disk.id, size_gib=new_size_gib, old_size_gib=disk.size_gib)
        unit.put(msgspec.structs.replace(disk, size_gib=new_size_gib, job=job.id, reason=""))
        unit.add(job)

    await transact(
        store,
        caller,
        body,
        type(None),
        action="ResizeDisk",
        token=client_token,
        arguments=[disk_id, new_size_gib],
    )


async def modify_disk_attribute(
    store: Store,
    caller: Caller,
    disk_id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    delete_with_instance: bool | None = None,
) -> None:
    """ModifyDiskAttribute."""
    validate.name("DiskName", name or "", code="InvalidDiskName.Malformed")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        disk = await need_disk(unit, caller, disk_id)
        decide(DISK, disk.status, "modify", disk.id)
        keep = disk.delete_with_instance if delete_with_instance is None else delete_with_instance
        unit.put(
            msgspec.structs.replace(
                disk,
                name=disk.name if name is None else name,
                description=disk.description if description is None else description,
                delete_with_instance=keep,
            )
        )

    await transact(store, caller, body, type(None))


async def describe_disks(store: Store, caller: Caller, wanted: DiskFilter, paging: Paging) -> Page[DiskDetail]:
    """DescribeDisks."""
    status = "" if wanted.status == "All" else wanted.status
    kind = "" if wanted.kind == "all" else wanted.kind
    found = [
        disk
        for disk in await mine(store, Disk, caller)
        if matches(disk, ids=wanted.ids, name=wanted.name, tags=wanted.tags)
        and status in ("", disk.status)
        and kind in ("", disk.kind)
        and wanted.category in ("", "all", disk.category)
        and wanted.instance_id in ("", disk.instance)
        and wanted.snapshot_id in ("", disk.source_snapshot)
        and wanted.zone_id in ("", disk.zone)
    ]
    page = paginate(found, paging)
    volumes = {v.value.id: v.value for v in await store.list(Volume)} if page.items else {}
    return Page(
        items=tuple(
            DiskDetail(disk=disk, hydrated_percent=hydrated_percent(volumes.get(disk.volume))) for disk in page.items
        ),
        total=page.total,
        page_number=page.page_number,
        page_size=page.page_size,
        next_token=page.next_token,
    )
