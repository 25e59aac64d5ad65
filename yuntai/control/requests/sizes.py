"""Another size of an instance, and limits of its vCPUs and disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors, instance_types
from yuntai.control.errors import ApiError
from yuntai.control.placer import fleet_of
from yuntai.control.requests import quotas
from yuntai.control.requests.base import decide, transact
from yuntai.control.requests.disks import need_disk, need_instance
from yuntai.control.scheduler import request_of
from yuntai.model.compute import Disk, Instance
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.lifecycle_storage import DISK
from yuntai.state import NotFound

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller
    from yuntai.control.unit import Unit
    from yuntai.state import Store

IOPS_MAX = 1_000_000
MIB_PER_S_MAX = 16_384
MIB = 1 << 20


async def modify_instance_spec(
    store: Store, caller: Caller, instance_id: str, type_id: str, *, client_token: str = "", dry_run: bool = False
) -> None:
    """ModifyInstanceSpec: of a stopped instance; it has the new size when it is started."""

    async def body(unit: Unit) -> None:
        instance = await need_instance(unit, caller, instance_id)
        kind = await instance_types.need(unit, type_id)
        decide(INSTANCE, instance.status, "modify_spec", instance.id)
        if instance.instance_type == kind.id and (instance.cpu, instance.memory_mib) == (kind.cpu, kind.memory_mib):
            return
        if 1 + len(instance.ports) > kind.nics:
            raise ApiError(
                "InvalidInstanceType.EniCountExceeded",
                f"{instance.id} has {1 + len(instance.ports)} network cards and {kind.id} allows {kind.nics}; "
                "detach some first.",
                errors.FORBIDDEN,
            )
        await quotas.need(unit, caller.account, vcpus=max(0, kind.cpu - instance.cpu))
        changed = msgspec.structs.replace(
            instance, instance_type=kind.id, cpu=kind.cpu, memory_mib=kind.memory_mib, reason=""
        )
        if kind.cpu > instance.cpu or kind.memory_mib > instance.memory_mib:
            placement = (await fleet_of(unit)).choose(request_of(changed))
            if not placement.host:
                raise ApiError(
                    "OperationDenied.NoStock",
                    f"{instance.id} as {kind.id} fits nowhere now: {placement.reason}; use a smaller type or try "
                    "later.",
                    errors.FORBIDDEN,
                )
        unit.put(changed)

    await transact(
        store,
        caller,
        body,
        type(None),
        action="ModifyInstanceSpec",
        token=client_token,
        arguments=[instance_id, type_id],
        dry_run=dry_run,
    )


async def limit_disk(
    store: Store,
    caller: Caller,
    disk_id: str,
    *,
    iops_max: int | None = None,
    mib_per_s_max: int | None = None,
    dry_run: bool = False,
) -> None:
    """ModifyDiskSpec's performance control: 0 = no limit, ``None`` = as it is. A running guest feels it at once."""
    _check("PerformanceControlOptions.IOPS", iops_max, IOPS_MAX)
    _check("PerformanceControlOptions.Throughput", mib_per_s_max, MIB_PER_S_MAX)

    async def body(unit: Unit) -> None:
        disk = await need_disk(unit, caller, disk_id)
        decide(DISK, disk.status, "modify", disk.id)
        unit.put(_limited(disk, iops_max, mib_per_s_max))

    await transact(store, caller, body, type(None), dry_run=dry_run)


async def limit_any_disk(store: Store, disk_id: str, *, iops_max: int | None, mib_per_s_max: int | None) -> None:
    """Set the limits of a disk of any account: the operator's way."""
    _check("Iops", iops_max, IOPS_MAX)
    _check("MibPerS", mib_per_s_max, MIB_PER_S_MAX)
    try:
        await store.update(Disk, disk_id, lambda disk: _limited(disk, iops_max, mib_per_s_max))
    except NotFound as error:
        raise errors.not_found("disk", disk_id, "InvalidDiskId.NotFound") from error


async def limit_vcpus(store: Store, instance_id: str, percent: int) -> None:
    """Set how much of one CPU each vCPU of an instance may use, 0 = no limit; a running guest feels it at once."""
    if not 0 <= percent <= 100:
        raise errors.invalid("VcpuPercent", percent, "use 1 to 100 percent of one CPU for each vCPU, or 0 for no limit")
    try:
        await store.update(Instance, instance_id, lambda one: msgspec.structs.replace(one, vcpu_quota_percent=percent))
    except NotFound as error:
        raise errors.not_found("InstanceId", instance_id, "InvalidInstanceId.NotFound") from error


def _limited(disk: Disk, iops_max: int | None, mib_per_s_max: int | None) -> Disk:
    return msgspec.structs.replace(
        disk,
        iops_max=disk.iops_max if iops_max is None else iops_max,
        bytes_per_s_max=disk.bytes_per_s_max if mib_per_s_max is None else mib_per_s_max * MIB,
    )


def _check(field: str, value: int | None, most: int) -> None:
    if value is not None and not 0 <= value <= most:
        raise errors.invalid(field, value, f"use 1 to {most}, or 0 for no limit")
