"""The operator's look at failed hosts: why, what was moved, what waits for room, how long it took."""

from __future__ import annotations

from typing import Any

from yuntai.api.operator_hosts import jailed_until
from yuntai.api.registry import YUNTAI, Call, action
from yuntai.model.cluster import Host, HostFailure


@action(
    YUNTAI,
    "DescribeFailovers",
    answer="""Failovers{Failover[]{Back Began Downs:i Ended HostId JailedUntil Judged Left[]{InstanceId Why} Moved:i
    Stages[]{Ms:i Stage} State Status StorageDeadSince Waiting:i Why}}""",
    operator=True,
)
async def describe_failovers(call: Call) -> dict[str, Any]:
    """List the last failure of each host that ever failed, the latest first."""
    hosts = {one.value.id: one.value for one in await call.context.reads.list(Host)}
    failures = [one.value for one in await call.context.reads.list(HostFailure)]
    failures.sort(key=lambda one: one.judged, reverse=True)
    return {"Failovers": {"Failover": [_row(one, hosts.get(one.id)) for one in failures]}}


def _row(one: HostFailure, host: Host | None) -> dict[str, Any]:
    return {
        "Back": one.back,
        "Began": one.began,
        "Downs": len(host.downs) if host is not None else 0,
        "Ended": one.ended,
        "HostId": one.id,
        "JailedUntil": jailed_until(host) if host is not None else "",
        "Judged": one.judged,
        "Left": [{"InstanceId": instance, "Why": why} for instance, why in one.left],
        "Moved": one.moved,
        "Stages": [{"Stage": stage, "Ms": took_ms} for stage, took_ms in sorted(one.stages_ms.items(), key=_by_time)],
        "State": one.state,
        "Status": host.status if host is not None else "removed",
        "StorageDeadSince": host.storage_dead_since if host is not None else "",
        "Waiting": one.waiting,
        "Why": one.why,
    }


def _by_time(stage: tuple[str, int]) -> int:
    return stage[1]
