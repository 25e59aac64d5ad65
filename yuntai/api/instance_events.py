"""Actions on what happens to instances: their history of events, rehearsals, and what is to be done then."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import paged
from yuntai.api.registry import ECS, PAGES, TOKENS, Call, action
from yuntai.control.requests import instance_events
from yuntai.control.requests.instance_events import EventFilter
from yuntai.model.compute import InstanceEvent

_CYCLE_CODES = {
    "Scheduled": 24, "Avoided": 25, "Executing": 26, "Executed": 27, "Canceled": 28, "Failed": 29, "Inquiring": 30,
}  # fmt: skip
_TYPE_CODES = {
    "SystemMaintenance.Reboot": 1, "SystemMaintenance.Redeploy": 2, "SystemMaintenance.Stop": 3,
    "SystemFailure.Reboot": 4, "SystemFailure.Redeploy": 5, "SystemFailure.Stop": 6, "InstanceFailure.Reboot": 7,
}  # fmt: skip
"""Numbers beside the names, as the public answer has them; only the names have a meaning."""
_EVENT = """
    EventCycleStatus{Code:i Name} EventFinishTime EventId EventPublishTime EventType{Code:i Name}
    ExtendedAttribute{CanAccept Code Device DiskId HostId HostType
    InactiveDisks{InactiveDisk[]{CreationTime DeviceCategory DeviceSize DeviceType ReleaseTime}} InitialNotBefore
    MetricName MetricValue MigrationOptions{MigrationOption[]} OnlineRepairPolicy PunishDomain PunishType PunishUrl Rack
    ResponseResult} ImpactLevel InstanceId NotBefore Reason ReasonCode ResourceType
"""


@action(
    ECS,
    "DescribeInstanceHistoryEvents",
    f"""InstanceId EventId[] EventType InstanceEventType[] EventCycleStatus InstanceEventCycleStatus[] ResourceType
    ResourceId[] ImpactLevel EventPublishTime{{Start End}} NotBefore{{Start End}}{PAGES}{TOKENS}""",
    f"InstanceSystemEventSet{{InstanceSystemEventType[]{{{_EVENT}}}}} NextToken PageNumber:i PageSize:i TotalCount:i",
)
async def describe_instance_history_events(call: Call) -> dict[str, Any]:
    """List events that are over, or those in the states that are asked for."""
    wanted = EventFilter(
        instances=tuple(one for one in (call.text("InstanceId"), *call.texts("ResourceId")) if one),
        ids=call.texts("EventId"),
        types=call.texts("InstanceEventType") or _one(call.text("EventType")),
        cycles=call.texts("InstanceEventCycleStatus") or _one(call.text("EventCycleStatus")),
        published=_span(call, "EventPublishTime"),
        not_before=_span(call, "NotBefore"),
    )
    page = await instance_events.describe_events(call.context.reads, call.caller, wanted, call.paging())
    return paged(page, "InstanceSystemEventSet", "InstanceSystemEventType", (_row(event) for event in page.items))


def _one(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _span(call: Call, name: str) -> tuple[str, str]:
    given = call.args.get(name, {})
    return given.get("Start", ""), given.get("End", "")


def _row(event: InstanceEvent) -> dict[str, Any]:
    return {
        "EventCycleStatus": {"Code": _CYCLE_CODES[event.cycle], "Name": event.cycle},
        "EventFinishTime": event.finished,
        "EventId": event.id,
        "EventPublishTime": event.published,
        "EventType": {"Code": _TYPE_CODES.get(event.type, 0), "Name": event.type},
        "ImpactLevel": "",
        "InstanceId": event.instance,
        "NotBefore": event.not_before,
        "Reason": event.reason,
        "ResourceType": "instance",
    }


@action(
    ECS,
    "CreateSimulatedSystemEvents",
    "InstanceId[] EventType! NotBefore! TriggerRealOps:b",
    "EventIdSet{EventId[]}",
)
async def create_simulated_system_events(call: Call) -> dict[str, Any]:
    """Rehearse events: they are listed as real ones are, and nothing else happens."""
    made = await instance_events.create_simulated(
        call.context.writes,
        call.caller,
        call.texts("InstanceId"),
        call.text("EventType"),
        call.text("NotBefore"),
        real=bool(call.args.get("TriggerRealOps", False)),
    )
    return {"EventIdSet": {"EventId": list(made)}}


@action(ECS, "CancelSimulatedSystemEvents", "EventId[]")
async def cancel_simulated_system_events(call: Call) -> dict[str, Any]:
    """End rehearsals that are not over."""
    await instance_events.cancel_simulated(call.context.writes, call.caller, call.texts("EventId"))
    return {}


@action(
    ECS,
    "ModifyInstanceMaintenanceAttributes",
    "InstanceId[] ActionOnMaintenance MaintenanceWindow[]{StartTime! EndTime!} NotifyOnMaintenance:b",
)
async def modify_instance_maintenance_attributes(call: Call) -> dict[str, Any]:
    """Say what is to become of instances when their host fails."""
    windows = call.args.get("MaintenanceWindow")
    await instance_events.modify_maintenance(
        call.context.writes,
        call.caller,
        call.texts("InstanceId"),
        action=call.text("ActionOnMaintenance"),
        windows=None if windows is None else [(one["StartTime"], one["EndTime"]) for one in windows],
        notify=call.args.get("NotifyOnMaintenance"),
    )
    return {}
