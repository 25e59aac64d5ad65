"""Live migration on request: by the operator, by a drain, and by a tenant who changes where the instance may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests.base import ATTEMPTS_MAX, new_job, transact
from yuntai.control.requests.dedicated_hosts import need_dedicated_host
from yuntai.control.requests.deployment_sets import check_group, need_deployment_set
from yuntai.control.requests.disks import need_instance
from yuntai.control.requests.types import Caller
from yuntai.control.unit import Unit
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance, Migration

if TYPE_CHECKING:
    from yuntai.model.cluster import Job
    from yuntai.state import Store

ACTION = "migrate_instance"


def begin_migration(
    unit: Unit, caller: Caller, instance: Instance, *, to: str = "", reason: str = "operator", **arguments: Any
) -> Job:
    """Put the job that moves a running instance into ``unit``; raise where it cannot be moved now."""
    if instance.status != "Running" or instance.job:
        raise ApiError(
            "IncorrectInstanceStatus",
            f"The instance {instance.id} is {instance.status}"
            f"{f' and {instance.job} works on it' if instance.job else ''}: "
            "only a running instance that nothing else is done with can be migrated; wait, or start it.",
            errors.FORBIDDEN,
        )
    job = new_job(caller, ACTION, instance.id, to=to, reason=reason, **arguments)
    unit.put(msgspec.structs.replace(instance, job=job.id))
    unit.add(job)
    return job


async def migrate(
    store: Store, request_id: str, instance_id: str, *, to: str = "", post_copy: bool = False, reason: str = "operator"
) -> str:
    """Begin to migrate an instance of whatever account, to a host or to the best one; return the job's id."""

    async def body(unit: Unit) -> str:
        instance = await _any_instance(unit, instance_id)
        if to and await unit.get(Host, to) is None:
            raise errors.not_found("host", to, "InvalidHostId.NotFound")
        if to and to == instance.host:
            raise errors.invalid("HostId", to, f"{instance_id} is there already; name another host, or none")
        caller = Caller(account=instance.account, request_id=request_id)
        return begin_migration(unit, caller, instance, to=to, reason=reason, post_copy=post_copy).id

    return await _commit(store, body)


async def cancel(store: Store, instance_id: str) -> None:
    """End the migration of an instance, if it has not come so far that the guest runs at the destination."""

    async def body(unit: Unit) -> str:
        await _any_instance(unit, instance_id)
        found = await unit.get(Migration, instance_id)
        if found is None:
            raise ApiError(
                "InvalidOperation.NoMigration", f"The instance {instance_id} is not being migrated.", errors.FORBIDDEN
            )
        if found.phase == "finish":
            raise ApiError(
                "InvalidOperation.NoMigration",
                f"The instance {instance_id} runs on {found.destination} already; migrate it back instead.",
                errors.FORBIDDEN,
            )
        if not found.cancel:
            unit.put(msgspec.structs.replace(found, cancel=True))
        return ""

    await _commit(store, body)


async def _any_instance(unit: Unit, instance_id: str) -> Instance:
    if not instance_id:
        raise errors.missing("InstanceId")
    instance = await unit.get(Instance, instance_id) if instance_id.isprintable() else None
    if instance is None:
        raise errors.not_found("instance", instance_id, "InvalidInstanceId.NotFound")
    return instance


async def _commit(store: Store, body: Any) -> str:
    for _ in range(ATTEMPTS_MAX):
        unit = Unit(store)
        answer = str(await body(unit))
        if await unit.commit():
            return answer
    raise ApiError("OperationConflict", "The instance kept changing; try again.", errors.CONFLICT)


async def modify_deployment(
    store: Store,
    caller: Caller,
    instance_id: str,
    *,
    live: bool,
    deployment_set: str = "",
    group: int | None = None,
    dedicated_host: str = "",
    leave_set: bool = False,
) -> None:
    """Change where an instance may be. A stopped one is placed so at its next start, a running one is moved live."""

    async def body(unit: Unit) -> None:
        instance = await need_instance(unit, caller, instance_id)
        changes: dict[str, Any] = {}
        if deployment_set:
            one = await need_deployment_set(unit, caller, deployment_set)
            changes |= {"deployment_set": one.id, "deployment_set_group": check_group(one, group)}
        elif leave_set:
            changes |= {"deployment_set": "", "deployment_set_group": 0}
        if dedicated_host:
            changes["dedicated_host"] = (await need_dedicated_host(unit, caller, dedicated_host)).id
        if not changes:
            raise errors.missing("DeploymentSetId")
        before = {name: getattr(instance, name) for name in changes}
        if before == changes:
            return
        changed = msgspec.structs.replace(instance, **changes)
        if instance.status == "Stopped" and not instance.job:
            unit.put(changed)
        elif live:
            begin_migration(unit, caller, changed, reason="deployment", before=before)
        else:
            raise ApiError(
                "IncorrectInstanceStatus",
                f"The instance {instance_id} is {instance.status}: stop it first, "
                "or have it moved while it runs with MigrationType=live.",
                errors.FORBIDDEN,
            )

    await transact(store, caller, body, type(None))
