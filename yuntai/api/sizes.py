"""Actions that change the size of an instance, and the limits of vCPUs and disks."""

from __future__ import annotations

from typing import Any

from yuntai.api.errors import invalid_parameter, missing_parameter
from yuntai.api.registry import ECS, YUNTAI, Call, action
from yuntai.control.requests import sizes

_RECOVER = {"": (), "IOPS": ("iops",), "Throughput": ("throughput",), "All": ("iops", "throughput")}


@action(ECS, "ModifyInstanceSpec", "InstanceId! InstanceType! ClientToken DryRun:b Async:b ModifyMode")
async def modify_instance_spec(call: Call) -> dict[str, Any]:
    """Give a stopped instance another type."""
    await sizes.modify_instance_spec(
        call.context.writes,
        call.caller,
        call.text("InstanceId"),
        call.text("InstanceType"),
        client_token=call.text("ClientToken"),
        dry_run=call.args.get("DryRun", False),
    )
    return {}


@action(
    ECS,
    "ModifyDiskSpec",
    "DiskId! DiskCategory PerformanceLevel PerformanceControlOptions{IOPS:i Throughput:i Recover} DryRun:b",
    "OrderId TaskId",
)
async def modify_disk_spec(call: Call) -> dict[str, Any]:
    """Limit what a disk may do in a second, in operations and MiB; Recover (IOPS, Throughput, All) ends a limit."""
    for unchangeable in ("DiskCategory", "PerformanceLevel"):
        if call.text(unchangeable):
            raise invalid_parameter(unchangeable, "all disks are of one kind here; leave it out")
    given: dict[str, Any] = call.args.get("PerformanceControlOptions", {})
    recover = str(given.get("Recover", ""))
    if recover not in _RECOVER:
        raise invalid_parameter("PerformanceControlOptions.Recover", "use IOPS, Throughput or All")
    ended = _RECOVER[recover]
    iops = 0 if "iops" in ended else given.get("IOPS")
    throughput = 0 if "throughput" in ended else given.get("Throughput")
    if iops is None and throughput is None:
        raise missing_parameter("PerformanceControlOptions")
    await sizes.limit_disk(
        call.context.writes,
        call.caller,
        call.text("DiskId"),
        iops_max=iops,
        mib_per_s_max=throughput,
        dry_run=call.args.get("DryRun", False),
    )
    return {}


@action(YUNTAI, "LimitDisk", "DiskId! Iops:i MibPerS:i", operator=True)
async def limit_disk(call: Call) -> dict[str, Any]:
    """Limit a disk of any account; 0 = no limit."""
    iops, throughput = call.args.get("Iops"), call.args.get("MibPerS")
    if iops is None and throughput is None:
        raise missing_parameter("Iops")
    await sizes.limit_any_disk(call.context.writes, call.text("DiskId"), iops_max=iops, mib_per_s_max=throughput)
    return {}


@action(YUNTAI, "LimitInstance", "InstanceId! VcpuPercent!:i", operator=True)
async def limit_instance(call: Call) -> dict[str, Any]:
    """Limit each vCPU of an instance to so much of one CPU; 0 = no limit."""
    await sizes.limit_vcpus(call.context.writes, call.text("InstanceId"), call.args["VcpuPercent"])
    return {}
