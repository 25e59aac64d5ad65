"""Requests on groups of snapshots: all disks of an instance, or some of them, at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import validate
from yuntai.control.requests.base import decide, matches, mine, new_job, owned, paginate, transact
from yuntai.control.requests.disks import need_disk, need_instance
from yuntai.control.requests.snapshots import add_snapshot, drop_snapshot
from yuntai.control.requests.types import Deletion, GroupDetail, Page
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Disk, Snapshot, SnapshotGroup
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.lifecycle_storage import SNAPSHOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.control.requests.types import Caller, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store

DISKS_MAX = 16


async def create_snapshot_group(
    store: Store,
    caller: Caller,
    *,
    instance_id: str = "",
    disk_ids: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
) -> str:
    """CreateSnapshotGroup of an instance's disks: those that are named, or all but those that are excluded."""
    if not instance_id and not disk_ids:
        raise errors.missing("InstanceId")
    if disk_ids and exclude:
        raise ApiError(
            "InvalidParameter.Conflict", "DiskId.N and ExcludeDiskId.N exclude each other; give one of them."
        )
    validate.name("Name", name)
    validate.description("Description", description)
    checked = validate.tags(tags)

    async def body(unit: Unit) -> str:
        disks = await _disks(unit, caller, instance_id, disk_ids, exclude)
        group_id = new_id("ssg")
        snapshots = await add_group(unit, caller, disks, group=group_id, name=name, description=description)
        unit.add(
            SnapshotGroup(
                id=group_id,
                account=caller.account,
                name=name,
                description=description,
                instance=disks[0].instance,
                snapshots=tuple(one.id for one in snapshots),
                tags=checked,
                created=now_utc(),
            )
        )
        ids = [one.id for one in snapshots]
        unit.add(new_job(caller, "create_snapshot_group", group_id, group=group_id, snapshots=ids))
        return group_id

    arguments = [instance_id, disk_ids, exclude, name, description, checked]
    return await transact(
        store, caller, body, str, action="CreateSnapshotGroup", token=client_token, arguments=arguments
    )


async def add_group(
    unit: Unit, caller: Caller, disks: Sequence[Disk], *, group: str = "", name: str = "", description: str = ""
) -> list[Snapshot]:
    """Write one progressing snapshot for each disk."""
    return [await add_snapshot(unit, caller, disk, name=name, description=description, group=group) for disk in disks]


async def disks_of(unit: Unit, instance_id: str) -> list[Disk]:
    """Return an instance's disks in device order, the system disk first."""
    found = [disk for disk in await unit.list(Disk) if disk.instance == instance_id]
    return sorted(found, key=lambda disk: (disk.kind != "system", disk.device, disk.id))


async def _disks(
    unit: Unit, caller: Caller, instance_id: str, disk_ids: tuple[str, ...], exclude: tuple[str, ...]
) -> list[Disk]:
    if disk_ids:
        disks = [await need_disk(unit, caller, disk_id) for disk_id in dict.fromkeys(disk_ids)]
        owner = instance_id or disks[0].instance
        for disk in disks:
            if not disk.instance or disk.instance != owner:
                raise errors.dependency(
                    "InvalidParameter.DiskInstanceMismatch",
                    f"The disk {disk.id} is not attached to {owner or 'an instance'}; "
                    "a group is of one instance's disks.",
                )
    else:
        instance = await need_instance(unit, caller, instance_id)
        decide(INSTANCE, instance.status, "create_image", instance.id)
        disks = [disk for disk in await disks_of(unit, instance_id) if disk.id not in exclude]
    if not 1 <= len(disks) <= DISKS_MAX:
        raise errors.invalid("DiskId.N", f"{len(disks)} disks", f"a group has 1 to {DISKS_MAX}")
    return disks


async def need_group(unit: Unit, caller: Caller, group_id: str) -> SnapshotGroup:
    """Return the caller's group or the API's error."""
    return await owned(
        unit,
        SnapshotGroup,
        group_id,
        caller,
        field="SnapshotGroupId",
        what="snapshot group",
        code="InvalidSnapshotGroupId.NotFound",
    )


async def delete_snapshot_group(store: Store, caller: Caller, group_id: str) -> list[Deletion]:
    """DeleteSnapshotGroup: every snapshot that nothing stands on; the group goes with its last one."""

    async def body(unit: Unit) -> list[Deletion]:
        group = await need_group(unit, caller, group_id)
        decide(SNAPSHOT, group.status, "delete", group.id)
        outcome: list[Deletion] = []
        for snapshot_id in group.snapshots:
            snapshot = await unit.get(Snapshot, snapshot_id)
            if snapshot is None or snapshot.status == "deleting":
                continue
            try:
                await drop_snapshot(unit, caller, snapshot, force=False)
                outcome.append(Deletion(snapshot=snapshot_id))
            except ApiError as refusal:
                outcome.append(Deletion(snapshot=snapshot_id, code=refusal.code, message=refusal.message))
        if all(one.code for one in outcome) and outcome:
            raise errors.dependency(outcome[0].code, outcome[0].message, errors.FORBIDDEN)
        return outcome

    return await transact(store, caller, body, list[Deletion])


async def modify_snapshot_group(
    store: Store, caller: Caller, group_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifySnapshotGroup."""
    validate.name("Name", name or "")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        group = await need_group(unit, caller, group_id)
        unit.put(
            msgspec.structs.replace(
                group,
                name=group.name if name is None else name,
                description=group.description if description is None else description,
            )
        )

    await transact(store, caller, body, type(None))


async def describe_snapshot_groups(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    instance_id: str = "",
    name: str = "",
    states: tuple[str, ...] = (),
    tags: dict[str, str | None] | None = None,
) -> Page[GroupDetail]:
    """DescribeSnapshotGroups."""
    found = [
        group
        for group in await mine(store, SnapshotGroup, caller)
        if matches(group, ids=ids, name=name, tags=tags)
        and instance_id in ("", group.instance)
        and (not states or group.status in states)
    ]
    page = paginate(found, paging)
    snapshots = {one.id: one for one in await mine(store, Snapshot, caller)}
    return Page(
        items=tuple(
            GroupDetail(group=group, snapshots=tuple(snapshots[s] for s in group.snapshots if s in snapshots))
            for group in page.items
        ),
        total=page.total,
        page_number=page.page_number,
        page_size=page.page_size,
        next_token=page.next_token,
    )
