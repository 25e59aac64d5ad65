"""The operator's actions on live migration: begin, look, cancel."""

from __future__ import annotations

from typing import Any

from yuntai.api.registry import YUNTAI, Call, action
from yuntai.control.requests import migrations
from yuntai.model.cluster import Job
from yuntai.model.compute import Instance, Migration, MigrationProgress

_MIGRATION = """Cancel:b Destination DirtyBytesPerSecond:i DowntimeMs:f Error EtaSeconds:f InstanceId JobId Phase
    RemainingBytes:i Source Stage State ThrottlePercent:i TransferredBytes:i WaitsFor"""


@action(YUNTAI, "MigrateInstance", "InstanceId! HostId PostCopy:b", "InstanceId JobId", operator=True)
async def migrate_instance(call: Call) -> dict[str, Any]:
    """Move a running instance to a host, or to the best one."""
    instance_id = call.text("InstanceId")
    job = await migrations.migrate(
        call.context.writes,
        call.caller.request_id,
        instance_id,
        to=call.text("HostId"),
        post_copy=bool(call.args.get("PostCopy")),
    )
    return {"InstanceId": instance_id, "JobId": job}


@action(YUNTAI, "CancelMigration", "InstanceId!", "InstanceId", operator=True)
async def cancel_migration(call: Call) -> dict[str, Any]:
    """End a migration; the guest goes on where it is."""
    await migrations.cancel(call.context.writes, call.text("InstanceId"))
    return {"InstanceId": call.text("InstanceId")}


@action(
    YUNTAI,
    "DescribeMigration",
    "InstanceId! JobId",
    f"Error Host InstanceId JobState Migration{{{_MIGRATION}}}",
    operator=True,
)
async def describe_migration(call: Call) -> dict[str, Any]:
    """Show how far a migration is, or how the job that was named has ended."""
    store, instance_id = call.context.writes, call.text("InstanceId")
    instance = await store.need(Instance, instance_id)
    job = await _job(call)
    found = await store.get(Migration, instance_id)
    shown: dict[str, Any] = {}
    if found is not None:
        migration = found.value
        here, there = [
            one.value if (one := await store.get(MigrationProgress, f"{instance_id}.{host}")) is not None else None
            for host in (migration.source, migration.destination)
        ]
        shown = {
            "Cancel": migration.cancel,
            "Destination": migration.destination,
            "DirtyBytesPerSecond": here.dirty_bytes_per_s if here else 0,
            "DowntimeMs": there.downtime_ms if there else -1.0,
            "Error": (here.error if here else "") or (there.error if there else ""),
            "EtaSeconds": here.eta_s if here else -1.0,
            "InstanceId": instance_id,
            "JobId": migration.job,
            "Phase": migration.phase,
            "RemainingBytes": here.remaining_bytes if here else 0,
            "Source": migration.source,
            "Stage": here.stage if here else "",
            "State": here.state if here else "preparing",
            "ThrottlePercent": here.throttle_percent if here else 0,
            "TransferredBytes": here.transferred_bytes if here else 0,
            "WaitsFor": _waits_for(migration, here, there),
        }
    return {
        "Error": job.error if job else "",
        "Host": instance.value.host,
        "InstanceId": instance_id,
        "JobState": job.state if job else "",
        "Migration": shown,
    }


def _waits_for(migration: Migration, here: MigrationProgress | None, there: MigrationProgress | None) -> str:
    if migration.phase == "finish" and here is not None and here.state == "moving":
        return f"{migration.source} lets go of the guest"
    return there.waits_for if there is not None else ""


async def _job(call: Call) -> Job | None:
    if not call.text("JobId"):
        return None
    found = await call.context.writes.get(Job, call.text("JobId"))
    return found.value if found is not None else None
