"""Start, stop, reboot and delete, one instance or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests.base import decide, new_job, transact
from yuntai.control.requests.disks import need_instance
from yuntai.control.requests.types import InstanceResponse
from yuntai.model.base import now_utc
from yuntai.model.cluster import Job
from yuntai.model.compute import Disk
from yuntai.model.lifecycle import INSTANCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yuntai.control.requests.types import Caller
    from yuntai.control.unit import Unit
    from yuntai.model.compute import Instance, InstanceStatus
    from yuntai.state import Store

    _Change = Callable[[Unit, Caller, str], Awaitable[InstanceResponse]]

TOGETHER_MAX = 40  # three writes each fit one transaction


def _move(instance: Instance, status: str, job: Job, **changes: Any) -> Instance:
    return msgspec.structs.replace(instance, status=cast("InstanceStatus", status), job=job.id, reason="", **changes)


async def _start(unit: Unit, caller: Caller, instance_id: str) -> InstanceResponse:
    instance = await need_instance(unit, caller, instance_id)
    move = decide(INSTANCE, instance.status, "start", instance_id)
    for disk in await unit.list(Disk):
        if disk.instance == instance_id and disk.status == "ReIniting":
            raise ApiError(
                "IncorrectDiskStatus",
                f"The disk {disk.id} is being given other contents; start {instance_id} when that is done.",
                errors.FORBIDDEN,
            )
    begin_start(unit, caller, instance)
    return _response(instance, move.state)


def begin_start(unit: Unit, caller: Caller, instance: Instance) -> None:
    """Have an instance started that may be."""
    move = decide(INSTANCE, instance.status, "start", instance.id)
    job = new_job(caller, move.wants, instance.id)
    unit.put(_move(instance, move.state, job, force_stop=False, stopped_mode="Not-applicable"))
    unit.add(job)


def _stop(*, force: bool, stopped_mode: str) -> _Change:
    if stopped_mode not in ("", "KeepCharging", "StopCharging"):
        raise errors.invalid("StoppedMode", stopped_mode, "use KeepCharging")

    async def change(unit: Unit, caller: Caller, instance_id: str) -> InstanceResponse:
        instance = await need_instance(unit, caller, instance_id)
        move = decide(INSTANCE, instance.status, "force_stop" if force else "stop", instance_id)
        job = new_job(caller, move.wants, instance_id)
        unit.put(_move(instance, move.state, job, desired="stopped", force_stop=force, stopped_mode="KeepCharging"))
        unit.add(job)
        return _response(instance, move.state)

    return change


def _reboot(*, force: bool) -> _Change:
    async def change(unit: Unit, caller: Caller, instance_id: str) -> InstanceResponse:
        instance = await need_instance(unit, caller, instance_id)
        move = decide(INSTANCE, instance.status, "reboot", instance_id)
        job = new_job(caller, move.wants, instance_id)
        unit.put(
            _move(instance, move.state, job, desired="running", reboot_seq=instance.reboot_seq + 1, force_stop=force)
        )
        unit.add(job)
        return _response(instance, move.state)

    return change


def _delete(*, force: bool) -> _Change:
    async def change(unit: Unit, caller: Caller, instance_id: str) -> InstanceResponse:
        instance = await need_instance(unit, caller, instance_id)
        move = decide(INSTANCE, instance.status, "force_delete" if force else "delete", instance_id)
        if instance.deletion_protection:
            raise ApiError(
                "InvalidOperation.DeletionProtection",
                f"The instance {instance_id} is protected against deletion; "
                "set DeletionProtection=false with ModifyInstanceAttribute first.",
                errors.FORBIDDEN,
            )
        if instance.status == "Pending" and await _abort_creation(unit, instance):
            # The job that makes it undoes what it did so far, and that is the deletion.
            unit.put(msgspec.structs.replace(instance, status="Deleting", desired="deleted"))
            return _response(instance, move.state)
        job = new_job(caller, move.wants, instance_id)
        unit.put(_move(instance, move.state, job, desired="deleted", force_stop=force))
        unit.add(job)
        return _response(instance, move.state)

    return change


async def _abort_creation(unit: Unit, instance: Instance) -> bool:
    job = await unit.get(Job, instance.job)
    if job is None or job.action != "create_instance" or job.state in ("done", "failed"):
        return False
    if job.state != "undoing":
        unit.put(
            msgspec.structs.replace(
                job, state="undoing", attempts=0, error="aborted: the instance was deleted meanwhile", updated=now_utc()
            )
        )
    return True


def _response(instance: Instance, status: str) -> InstanceResponse:
    return InstanceResponse(instance_id=instance.id, previous_status=instance.status, current_status=status)


async def _one(store: Store, caller: Caller, instance_id: str, change: _Change, *, dry_run: bool) -> InstanceResponse:
    async def body(unit: Unit) -> InstanceResponse:
        return await change(unit, caller, instance_id)

    return await transact(store, caller, body, InstanceResponse, dry_run=dry_run)


async def _several(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    change: _Change,
    *,
    all_together: bool,
    dry_run: bool,
    action: str = "",
    token: str = "",
) -> list[InstanceResponse]:
    ids = tuple(dict.fromkeys(instance_ids))
    if not ids:
        raise errors.missing("InstanceId.N")
    if all_together and len(ids) > TOGETHER_MAX:
        raise errors.invalid("InstanceId.N", f"{len(ids)} ids", f"give at most {TOGETHER_MAX} in one call")
    if not all_together:
        return [await _each(store, caller, instance_id, change, dry_run=dry_run) for instance_id in ids]

    async def body(unit: Unit) -> list[InstanceResponse]:
        return [await change(unit, caller, instance_id) for instance_id in ids]

    return await transact(
        store, caller, body, list[InstanceResponse], action=action, token=token, arguments=ids, dry_run=dry_run
    )


async def _each(store: Store, caller: Caller, instance_id: str, change: _Change, *, dry_run: bool) -> InstanceResponse:
    try:
        return await _one(store, caller, instance_id, change, dry_run=dry_run)
    except ApiError as error:
        return InstanceResponse(
            instance_id=instance_id,
            previous_status="",
            current_status="",
            code=error.code,
            message=error.message,
            http_status=error.http_status,
        )


async def start_instance(store: Store, caller: Caller, instance_id: str, *, dry_run: bool = False) -> None:
    """StartInstance."""
    await _one(store, caller, instance_id, _start, dry_run=dry_run)


async def stop_instance(
    store: Store,
    caller: Caller,
    instance_id: str,
    *,
    force: bool = False,
    stopped_mode: str = "",
    dry_run: bool = False,
) -> None:
    """StopInstance; ``force`` cuts the power instead of asking the guest."""
    await _one(store, caller, instance_id, _stop(force=force, stopped_mode=stopped_mode), dry_run=dry_run)


async def reboot_instance(
    store: Store, caller: Caller, instance_id: str, *, force: bool = False, dry_run: bool = False
) -> None:
    """RebootInstance."""
    await _one(store, caller, instance_id, _reboot(force=force), dry_run=dry_run)


async def delete_instance(
    store: Store, caller: Caller, instance_id: str, *, force: bool = False, dry_run: bool = False
) -> None:
    """DeleteInstance; ``force`` also one that is not Stopped, and one that is still being made."""
    await _one(store, caller, instance_id, _delete(force=force), dry_run=dry_run)


async def start_instances(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    *,
    all_together: bool = True,
    dry_run: bool = False,
) -> list[InstanceResponse]:
    """StartInstances. ``all_together``: one failure raises and nothing is done; else each answers for itself."""
    return await _several(store, caller, instance_ids, _start, all_together=all_together, dry_run=dry_run)


async def stop_instances(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    *,
    force: bool = False,
    stopped_mode: str = "",
    all_together: bool = True,
    dry_run: bool = False,
) -> list[InstanceResponse]:
    """StopInstances."""
    change = _stop(force=force, stopped_mode=stopped_mode)
    return await _several(store, caller, instance_ids, change, all_together=all_together, dry_run=dry_run)


async def reboot_instances(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    *,
    force: bool = False,
    all_together: bool = True,
    dry_run: bool = False,
) -> list[InstanceResponse]:
    """RebootInstances."""
    change = _reboot(force=force)
    return await _several(store, caller, instance_ids, change, all_together=all_together, dry_run=dry_run)


async def delete_instances(
    store: Store,
    caller: Caller,
    instance_ids: tuple[str, ...],
    *,
    force: bool = False,
    client_token: str = "",
    dry_run: bool = False,
) -> None:
    """DeleteInstances: all or none."""
    await _several(
        store,
        caller,
        instance_ids,
        _delete(force=force),
        all_together=True,
        dry_run=dry_run,
        action="DeleteInstances",
        token=client_token,
    )
