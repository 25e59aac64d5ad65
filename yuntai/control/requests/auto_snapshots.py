"""Requests on automatic snapshot policies. What they lead to is done by :mod:`yuntai.control.calendar`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import decide, matches, mine, owned, paginate, transact
from yuntai.control.requests.disks import need_disk
from yuntai.control.requests.snapshots import RETENTION_DAYS_MAX
from yuntai.control.requests.types import Page, PolicyDetail
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import AutoSnapshotPolicy, Disk
from yuntai.model.lifecycle_storage import DISK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.control.requests.types import Caller, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store

DISKS_MAX = 100
"""Disks of one call: each is a comparison and a write of the transaction."""


def _numbers(field: str, texts: Iterable[str], least: int, most: int) -> tuple[int, ...]:
    given = list(texts)
    if not all(text.isascii() and text.isdigit() and least <= int(text) <= most for text in given) or not given:
        raise errors.invalid(
            field, ",".join(given), f'use a JSON array of texts from "{least}" to "{most}"', f"InvalidParameter.{field}"
        )
    return tuple(sorted({int(text) for text in given}))


def _retention(days: int) -> int:
    if days != -1 and not 1 <= days <= RETENTION_DAYS_MAX:
        raise errors.invalid(
            "retentionDays", days, f"use -1 (for ever) or 1 to {RETENTION_DAYS_MAX}", "InvalidRetentionDays.Malformed"
        )
    return days


async def create_policy(
    store: Store,
    caller: Caller,
    *,
    time_points: tuple[str, ...],
    weekdays: tuple[str, ...],
    retention_days: int,
    name: str = "",
    tags: dict[str, str] | None = None,
) -> str:
    """CreateAutoSnapshotPolicy; it is applied to no disk yet."""
    validate.name("autoSnapshotPolicyName", name)
    policy = AutoSnapshotPolicy(
        id=new_id("sp"),
        account=caller.account,
        name=name,
        time_points=_numbers("timePoints", time_points, 0, 23),
        weekdays=_numbers("repeatWeekdays", weekdays, 1, 7),
        retention_days=_retention(retention_days),
        tags=validate.tags(tags),
        created=now_utc(),
    )

    async def body(unit: Unit) -> str:
        await quotas.need(unit, caller.account, auto_snapshot_policies=1)
        unit.add(policy)
        return policy.id

    return await transact(store, caller, body, str)


async def need_policy(unit: Unit, caller: Caller, policy_id: str) -> AutoSnapshotPolicy:
    """Return the caller's policy or the API's error."""
    return await owned(
        unit,
        AutoSnapshotPolicy,
        policy_id,
        caller,
        field="autoSnapshotPolicyId",
        what="autoSnapshotPolicyId",
        code="InvalidAutoSnapshotPolicyId.NotFound",
    )


async def modify_policy(
    store: Store,
    caller: Caller,
    policy_id: str,
    *,
    time_points: tuple[str, ...] = (),
    weekdays: tuple[str, ...] = (),
    retention_days: int | None = None,
    name: str | None = None,
) -> None:
    """ModifyAutoSnapshotPolicyEx; a changed retention holds for snapshots that are taken from now on."""
    validate.name("autoSnapshotPolicyName", name or "")

    async def body(unit: Unit) -> None:
        policy = await need_policy(unit, caller, policy_id)
        unit.put(
            msgspec.structs.replace(
                policy,
                name=policy.name if name is None else name,
                time_points=_numbers("timePoints", time_points, 0, 23) if time_points else policy.time_points,
                weekdays=_numbers("repeatWeekdays", weekdays, 1, 7) if weekdays else policy.weekdays,
                retention_days=policy.retention_days if retention_days is None else _retention(retention_days),
            )
        )

    await transact(store, caller, body, type(None))


async def delete_policy(store: Store, caller: Caller, policy_id: str) -> None:
    """DeleteAutoSnapshotPolicy: no more snapshots; those that it took stay for as long as they were to."""

    async def body(unit: Unit) -> None:
        policy = await need_policy(unit, caller, policy_id)
        applied = [disk for disk in await unit.list(Disk) if disk.policy == policy.id]
        # Whatever is left above the bound names a policy that is gone, which means none.
        for disk in applied[:DISKS_MAX]:
            unit.put(msgspec.structs.replace(disk, policy="", policy_since=""))
        unit.delete(AutoSnapshotPolicy, policy.id)

    await transact(store, caller, body, type(None))


async def apply_policy(store: Store, caller: Caller, policy_id: str, disk_ids: tuple[str, ...]) -> None:
    """ApplyAutoSnapshotPolicy: from the next time point on, in place of the policy that a disk had."""
    ids = _checked(disk_ids)

    async def body(unit: Unit) -> None:
        policy = await need_policy(unit, caller, policy_id)
        for disk_id in ids:
            disk = await need_disk(unit, caller, disk_id)
            decide(DISK, disk.status, "modify", disk.id)
            if disk.policy != policy.id:
                unit.put(msgspec.structs.replace(disk, policy=policy.id, policy_since=now_utc()))

    await transact(store, caller, body, type(None))


async def cancel_policy(store: Store, caller: Caller, disk_ids: tuple[str, ...], policy_id: str = "") -> None:
    """CancelAutoSnapshotPolicy: disks have no policy any more (with ``policy_id``: not that one)."""
    ids = _checked(disk_ids)

    async def body(unit: Unit) -> None:
        if policy_id:
            await need_policy(unit, caller, policy_id)
        for disk_id in ids:
            disk = await need_disk(unit, caller, disk_id)
            if disk.policy and policy_id in ("", disk.policy):
                unit.put(msgspec.structs.replace(disk, policy="", policy_since=""))

    await transact(store, caller, body, type(None))


def _checked(disk_ids: tuple[str, ...]) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(disk_ids))
    if not ids:
        raise errors.missing("diskIds")
    if len(ids) > DISKS_MAX:
        raise errors.invalid("diskIds", f"{len(ids)} ids", f"give at most {DISKS_MAX} in one call")
    return ids


async def describe_policies(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    policy_id: str = "",
    name: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[PolicyDetail]:
    """DescribeAutoSnapshotPolicyEx."""
    ids = (policy_id,) if policy_id else ()
    found = [p for p in await mine(store, AutoSnapshotPolicy, caller) if matches(p, ids=ids, name=name, tags=tags)]
    page = paginate(found, paging)
    disks = await mine(store, Disk, caller)
    return Page(
        items=tuple(
            PolicyDetail(policy=policy, disks=tuple(sorted(d.id for d in disks if d.policy == policy.id)))
            for policy in page.items
        ),
        total=page.total,
        page_number=page.page_number,
        page_size=page.page_size,
        next_token=page.next_token,
    )


async def describe_associations(
    store: Store, caller: Caller, *, paging: Paging, policy_id: str = "", disk_id: str = ""
) -> Page[Disk]:
    """DescribeAutoSnapshotPolicyAssociations: disks that have a policy which is still there."""
    there = {policy.id for policy in await mine(store, AutoSnapshotPolicy, caller)}
    found = [
        disk
        for disk in await mine(store, Disk, caller)
        if disk.policy in there and policy_id in ("", disk.policy) and disk_id in ("", disk.id)
    ]
    return paginate(found, paging)
