"""Takes snapshots by the automatic policies, and deletes those that were kept for long enough.

What was missed while nobody led, or while a disk could not be frozen, is taken once: the disk's record says up to
which time its policy is carried out, and that is written together with the snapshot.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

import msgspec

from yuntai import log
from yuntai.control.errors import ApiError
from yuntai.control.requests.base import new_job, transact
from yuntai.control.requests.snapshots import add_snapshot, delete_snapshot
from yuntai.control.requests.types import Caller
from yuntai.model.compute import AutoSnapshotPolicy, Disk, Snapshot
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from yuntai.control.unit import Unit
    from yuntai.state import Store

PERIOD_S = 60.0
ZONE = dt.timezone(dt.timedelta(hours=8))
"""Time points are in UTC+8, as the ECS API has them."""

_log = log.get("calendar")


def last_point(policy: AutoSnapshotPolicy, now: dt.datetime) -> dt.datetime:
    """Return the policy's latest time that is not after ``now``."""
    here = now.astimezone(ZONE)
    for days in range(8):
        day = here.date() - dt.timedelta(days=days)
        if day.isoweekday() not in policy.weekdays:
            continue
        points = [dt.datetime.combine(day, dt.time(hour), ZONE) for hour in policy.time_points]
        over = [point for point in points if point <= here]
        if over:
            return max(over)
    raise ValueError(f"the policy {policy.id} has no time in a week")


def is_due(disk: Disk, policy: AutoSnapshotPolicy, now: dt.datetime) -> bool:
    """Tell whether a time of the policy has passed for which the disk has no snapshot yet."""
    if not disk.policy_since:
        return False
    return last_point(policy, now) > dt.datetime.fromisoformat(disk.policy_since)


def is_over(snapshot: Snapshot, now: dt.datetime) -> bool:
    """Tell whether a snapshot is older than it was to become."""
    if not snapshot.retention_days or snapshot.status not in ("accomplished", "failed"):
        return False
    return now - dt.datetime.fromisoformat(snapshot.created) >= dt.timedelta(days=snapshot.retention_days)


async def run(store: Store) -> None:
    """Look once a minute, until cancelled."""
    while True:
        try:
            await turn(store, dt.datetime.now(dt.UTC))
        except StateError as error:
            _log.warning("the calendar waits", error=str(error))
        await asyncio.sleep(PERIOD_S)


async def turn(store: Store, now: dt.datetime) -> None:
    """Take what is due now, and delete what is over."""
    policies = {found.value.id: found.value for found in await store.list(AutoSnapshotPolicy)}
    for disk in (found.value for found in await store.list(Disk)):
        policy = policies.get(disk.policy)
        if policy is not None and is_due(disk, policy, now):
            await _quietly("not taken", disk.id, _take(store, disk, policy, now))
    for snapshot in (found.value for found in await store.list(Snapshot)):
        if is_over(snapshot, now):
            caller = _caller(snapshot.account)
            await _quietly("not deleted", snapshot.id, delete_snapshot(store, caller, snapshot.id, force=True))


async def _quietly(what: str, identifier: str, request: Awaitable[None]) -> None:
    """Carry a request out; one that is refused now (the disk is busy, an image stands on it) is made again later."""
    try:
        await request
    except ApiError as refusal:
        _log.info(f"automatic snapshot {what}", id=identifier, code=refusal.code, reason=refusal.message)


def _caller(account: str) -> Caller:
    return Caller(account=account, request_id="calendar")


async def _take(store: Store, disk: Disk, policy: AutoSnapshotPolicy, now: dt.datetime) -> None:
    caller = _caller(disk.account)
    point = last_point(policy, now)

    async def body(unit: Unit) -> None:
        current = await unit.get(Disk, disk.id)
        present = await unit.get(AutoSnapshotPolicy, policy.id)
        if current is None or present is None or current.policy != present.id or not is_due(current, present, now):
            return
        snapshot = await add_snapshot(
            unit,
            caller,
            current,
            name=f"auto2.0_{point:%Y%m%d}_{present.id}",
            policy=present.id,
            retention_days=max(0, present.retention_days),
        )
        since = point.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        unit.put(msgspec.structs.replace(current, policy_since=since))
        unit.add(new_job(caller, "create_snapshot", snapshot.id))
        _log.info("automatic snapshot", disk=current.id, policy=present.id, point=since, snapshot=snapshot.id)

    await transact(store, caller, body, type(None))
