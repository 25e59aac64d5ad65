"""Requests on what happens to instances unasked: its history, rehearsals of it, and what their owners wish then."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Literal, cast, get_args

import msgspec

from yuntai.control import errors
from yuntai.control.requests.base import decide, mine, owned, paginate, transact
from yuntai.control.requests.disks import need_instance
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Instance, InstanceEvent
from yuntai.model.lifecycle import INSTANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.control.requests.types import Caller, Page, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store

Cycle = Literal["Scheduled", "Executing", "Executed", "Avoided", "Canceled", "Failed", "Inquiring"]
Action = Literal["Stop", "AutoRecover", "AutoRedeploy"]

INSTANCES_MAX = 100
REHEARSALS_MAX = 200
HISTORY_DAYS = 30
WINDOWS_MAX = 8
FINISHED = ("Avoided", "Executed", "Canceled", "Failed")
SIMULATED_TYPES = (
    "SystemMaintenance.Reboot", "SystemMaintenance.Stop", "SystemMaintenance.Redeploy", "SystemFailure.Reboot",
    "SystemFailure.Stop", "SystemFailure.Redeploy", "InstanceFailure.Reboot",
)  # fmt: skip
_PLANNED = "SystemMaintenance."
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_OF_DAY = re.compile(r"([01]\d|2[0-3]):00:00")


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What DescribeInstanceHistoryEvents may be asked for; what is empty does not matter."""

    instances: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    cycles: tuple[str, ...] = ()
    published: tuple[str, str] = ("", "")
    not_before: tuple[str, str] = ("", "")


def as_of(event: InstanceEvent, instance: Instance | None, now: str) -> InstanceEvent:
    """Return the event as it is now. A rehearsal goes on by the clock alone, so nobody has to write that it does.

    A planned one is avoided when the instance was started anew before its time, as the real ones can be.
    """
    if not event.simulated or event.cycle not in ("Scheduled", "Executing"):
        return event
    started = instance.started if instance is not None else ""
    if event.cycle == "Scheduled" and event.published < started < event.not_before:
        return msgspec.structs.replace(event, cycle="Avoided", finished=started)
    if now >= event.not_before:
        return msgspec.structs.replace(event, cycle="Executed", finished=event.not_before)
    return event


async def describe_events(store: Store, caller: Caller, wanted: EventFilter, paging: Paging) -> Page[InstanceEvent]:
    """DescribeInstanceHistoryEvents: what is over, unless other states are asked for."""
    for field, value in (("InstanceEventCycleStatus", one) for one in wanted.cycles):
        if value not in get_args(Cycle):
            raise errors.invalid(field, value, f"use one of {', '.join(get_args(Cycle))}")
    for field, times in (("EventPublishTime", wanted.published), ("NotBefore", wanted.not_before)):
        for end, text in zip(("Start", "End"), times, strict=True):
            if text:
                _time(f"{field}.{end}", text)
    now = now_utc()
    since = (dt.datetime.now(dt.UTC) - dt.timedelta(days=HISTORY_DAYS)).strftime(_TIME)
    instances = {one.id: one for one in await mine(store, Instance, caller)}
    events = [as_of(one, instances.get(one.instance), now) for one in await mine(store, InstanceEvent, caller)]
    return paginate((one for one in events if _matches(one, wanted, since)), paging)


def _matches(event: InstanceEvent, wanted: EventFilter, since: str) -> bool:
    return (
        event.cycle in (wanted.cycles or FINISHED)
        and (event.cycle not in FINISHED or event.finished >= since)
        and (not wanted.instances or event.instance in wanted.instances)
        and (not wanted.ids or event.id in wanted.ids)
        and (not wanted.types or event.type in wanted.types)
        and _within(event.published, wanted.published)
        and _within(event.not_before, wanted.not_before)
    )


def _within(moment: str, span: tuple[str, str]) -> bool:
    return (not span[0] or moment >= span[0]) and (not span[1] or moment <= span[1])


def _time(field: str, text: str) -> str:
    """Return a time as the API takes it; seconds may be left out."""
    for form in (_TIME, "%Y-%m-%dT%H:%MZ"):
        try:
            return dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC).strftime(_TIME)
        except ValueError:
            continue
    raise errors.invalid(field, text, "write it in UTC as 2026-01-31T08:00:00Z")


async def create_simulated(
    store: Store, caller: Caller, instances: Sequence[str], event_type: str, not_before: str, *, real: bool
) -> tuple[str, ...]:
    """CreateSimulatedSystemEvents: nothing is done to the instances. Return the events' ids in order."""
    if event_type not in SIMULATED_TYPES:
        raise errors.invalid("EventType", event_type, f"use one of {', '.join(SIMULATED_TYPES)}")
    if real:
        raise errors.invalid("TriggerRealOps", "true", "leave it out: only the notices are rehearsed here")
    moment = _time("NotBefore", not_before)
    if moment <= now_utc():
        raise errors.invalid("NotBefore", not_before, "choose a time that is to come")
    ids = _few("InstanceId", instances)
    planned = event_type.startswith(_PLANNED)

    async def body(unit: Unit) -> tuple[str, ...]:
        now = now_utc()
        there = [one for one in await unit.list(InstanceEvent) if one.account == caller.account and one.simulated]
        used = sum(as_of(one, None, now).cycle in ("Scheduled", "Executing") for one in there)
        if used + len(ids) > REHEARSALS_MAX:
            raise errors.quota(
                "QuotaExceed.SimulatedEvents", "simulated events", REHEARSALS_MAX, used, len(ids)
            )  # fmt: skip
        made = []
        for instance_id in ids:
            await need_instance(unit, caller, instance_id)
            event = InstanceEvent(
                id=new_id("e"),
                account=caller.account,
                instance=instance_id,
                type=event_type,
                cycle="Scheduled" if planned else "Executing",
                reason="a rehearsal",
                published=now,
                not_before=moment,
                simulated=True,
            )
            unit.add(event)
            made.append(event.id)
        return tuple(made)

    return await transact(store, caller, body, tuple[str, ...])


async def cancel_simulated(store: Store, caller: Caller, events: Sequence[str]) -> None:
    """CancelSimulatedSystemEvents: those that have not ended."""
    ids = _few("EventId", events)

    async def body(unit: Unit) -> None:
        now = now_utc()
        for event_id in ids:
            event = await owned(
                unit, InstanceEvent, event_id, caller, field="EventId", what="EventId", code="InvalidEventId.NotFound"
            )
            if not event.simulated:
                raise errors.invalid("EventId", event_id, "only simulated events can be canceled")
            current = as_of(event, await unit.get(Instance, event.instance), now)
            if current.cycle not in ("Scheduled", "Executing"):
                raise errors.invalid(
                    "EventId", event_id, f"it is {current.cycle}: only one that is to come, or goes on"
                )
            unit.put(msgspec.structs.replace(event, cycle="Canceled", finished=now))

    await transact(store, caller, body, type(None))


async def modify_maintenance(
    store: Store,
    caller: Caller,
    instances: Sequence[str],
    *,
    action: str = "",
    windows: Sequence[tuple[str, str]] | None = None,
    notify: bool | None = None,
) -> None:
    """ModifyInstanceMaintenanceAttributes: what is to become of instances when their host fails or is emptied."""
    if action not in ("", *get_args(Action)):
        raise errors.invalid("ActionOnMaintenance", action, f"use one of {', '.join(get_args(Action))}")
    if windows is not None:
        _check_windows(windows)
    ids = _few("InstanceId", instances)

    async def body(unit: Unit) -> None:
        for instance_id in ids:
            instance = await need_instance(unit, caller, instance_id)
            decide(INSTANCE, instance.status, "modify", instance_id)
            unit.put(
                msgspec.structs.replace(
                    instance,
                    action_on_maintenance=cast("Action", action) if action else instance.action_on_maintenance,
                    maintenance_windows=instance.maintenance_windows if windows is None else tuple(windows),
                    notify_on_maintenance=instance.notify_on_maintenance if notify is None else notify,
                )
            )

    await transact(store, caller, body, type(None))


def _check_windows(windows: Sequence[tuple[str, str]]) -> None:
    if len(windows) > WINDOWS_MAX:
        raise errors.invalid("MaintenanceWindow", len(windows), f"give at most {WINDOWS_MAX}")
    for number, (start, end) in enumerate(windows, start=1):
        for field, text in (("StartTime", start), ("EndTime", end)):
            if not _OF_DAY.fullmatch(text):
                raise errors.invalid(f"MaintenanceWindow.{number}.{field}", text, "use a full hour, such as 02:00:00")
        if start >= end:
            raise errors.invalid(f"MaintenanceWindow.{number}.EndTime", end, f"choose one after {start}")


def _few(field: str, given: Sequence[str]) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(given))
    if not ids:
        raise errors.missing(field)
    if len(ids) > INSTANCES_MAX:
        raise errors.invalid(field, len(ids), f"name at most {INSTANCES_MAX}")
    return ids
