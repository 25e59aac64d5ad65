"""Actions on disks."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import NEVER, paged, tag_set
from yuntai.api.errors import missing_parameter
from yuntai.api.registry import ECS, PAGES, TAGS, TOKENS, Call, action
from yuntai.control.requests import disks, restore
from yuntai.control.requests.types import DiskDetail, DiskFilter

_DISK = """
    AttachedTime Attachments{Attachment[]{AttachedTime Device InstanceId}} AutoSnapshotPolicyId BdfId BurstingEnabled:b
    Category CreationTime DataSource{Id Type} DeleteAutoSnapshot:b DeleteWithInstance:b Description DetachedTime Device
    DiskChargeType DiskId DiskName EnableAutoSnapshot:b EnableAutomatedSnapshotPolicy:b Encrypted:b ExpiredTime IOPS:i
    IOPSRead:i IOPSWrite:i ImageId InstanceId KMSKeyId MountInstanceNum:i
    MountInstances{MountInstance[]{AttachedTime Device InstanceId}} MultiAttach
    OperationLocks{OperationLock[]{LockReason}} PerformanceLevel Placement{ZoneIds} Portable:b ProductCode
    ProvisionedIops:i RegionId ResourceGroupId SerialNumber Size:i SourceDiskId SourceSnapshotId Status
    StorageClusterId StorageSetId StorageSetPartitionNumber:i
    Tags{Tag[]{TagKey TagValue}} Throughput:i ThroughputRead:i ThroughputWrite:i Type ZoneId
"""


def _item(call: Call, detail: DiskDetail) -> dict[str, Any]:
    disk = detail.disk
    mounts = [{"AttachedTime": disk.attached_time, "Device": disk.device, "InstanceId": disk.instance}]
    return {
        "AttachedTime": disk.attached_time,
        "Attachments": {"Attachment": mounts if disk.instance else []},
        "AutoSnapshotPolicyId": disk.policy,
        "Category": disk.category,
        "CreationTime": disk.created,
        "DeleteWithInstance": disk.delete_with_instance,
        "Description": disk.description,
        "DetachedTime": disk.detached_time,
        "Device": disk.device,
        "DiskChargeType": "PostPaid",
        "DiskId": disk.id,
        "DiskName": disk.name,
        "EnableAutoSnapshot": True,
        "EnableAutomatedSnapshotPolicy": bool(disk.policy),
        "ExpiredTime": NEVER,
        "IOPS": disk.iops_max,
        "ImageId": disk.source_image,
        "InstanceId": disk.instance,
        "MultiAttach": "Disabled",
        "Portable": disk.kind == "data",
        "RegionId": call.context.region,
        "SerialNumber": disk.id.removeprefix("d-"),
        "Size": disk.size_gib,
        "SourceSnapshotId": disk.source_snapshot,
        "Status": "Detaching" if disk.status == "Deleting" else disk.status,
        "Tags": tag_set(disk.tags),
        "Throughput": disk.bytes_per_s_max >> 20,
        "Type": disk.kind,
        "ZoneId": disk.zone,
    }


@action(
    ECS,
    "CreateDisk",
    f"Size:i SnapshotId DiskCategory DiskName Description ZoneId ClientToken DryRun:b{TAGS}",
    "DiskId OrderId",
)
async def create_disk(call: Call) -> dict[str, Any]:
    """Create a disk from a size, a snapshot, or both."""
    disk_id = await disks.create_disk(
        call.context.writes,
        call.caller,
        size_gib=call.args.get("Size"),
        snapshot_id=call.text("SnapshotId"),
        category=call.text("DiskCategory"),
        name=call.text("DiskName"),
        description=call.text("Description"),
        zone_id=call.text("ZoneId"),
        tags=call.tags(),
        client_token=call.text("ClientToken"),
        dry_run=call.args.get("DryRun", False),
    )
    return {"DiskId": disk_id}


@action(ECS, "AttachDisk", "InstanceId! DiskId! DeleteWithInstance:b")
async def attach_disk(call: Call) -> dict[str, Any]:
    """Attach a disk to an instance, running or stopped."""
    await disks.attach_disk(
        call.context.writes,
        call.caller,
        call.text("InstanceId"),
        call.text("DiskId"),
        delete_with_instance=call.args.get("DeleteWithInstance"),
    )
    return {}


@action(ECS, "DetachDisk", "InstanceId! DiskId! DeleteWithInstance:b")
async def detach_disk(call: Call) -> dict[str, Any]:
    """Detach a disk from its instance."""
    await disks.detach_disk(
        call.context.writes,
        call.caller,
        call.text("InstanceId"),
        call.text("DiskId"),
        delete_with_instance=call.args.get("DeleteWithInstance"),
    )
    return {}


@action(ECS, "DeleteDisk", "DiskId!")
async def delete_disk(call: Call) -> dict[str, Any]:
    """Release a disk that no instance uses."""
    await disks.delete_disk(call.context.writes, call.caller, call.text("DiskId"))
    return {}


@action(ECS, "ResizeDisk", "DiskId! NewSize!:i Type ClientToken", "OrderId")
async def resize_disk(call: Call) -> dict[str, Any]:
    """Make a disk larger, under a running guest too."""
    await disks.resize_disk(
        call.context.writes,
        call.caller,
        call.text("DiskId"),
        call.args["NewSize"],
        client_token=call.text("ClientToken"),
    )
    return {}


@action(ECS, "ResetDisk", "DiskId! SnapshotId! DryRun:b")
async def reset_disk(call: Call) -> dict[str, Any]:
    """Roll a disk back to one of its snapshots while its instance is stopped."""
    await restore.reset_disk(
        call.context.writes,
        call.caller,
        call.text("DiskId"),
        call.text("SnapshotId"),
        dry_run=call.args.get("DryRun", False),
    )
    return {}


@action(ECS, "ReInitDisk", "DiskId! KeyPairName Password AutoStartInstance:b")
async def reinit_disk(call: Call) -> dict[str, Any]:
    """Make a disk what it was when it was new, while its instance is stopped."""
    await restore.reinit_disk(
        call.context.writes,
        call.caller,
        call.text("DiskId"),
        key_pair=call.text("KeyPairName"),
        password=call.text("Password"),
        start=call.args.get("AutoStartInstance", False),
    )
    return {}


@action(ECS, "ModifyDiskAttribute", "DiskId DiskIds[] DiskName Description:t DeleteWithInstance:b")
async def modify_disk_attribute(call: Call) -> dict[str, Any]:
    """Change what may change of one or more disks."""
    ids = (*((call.text("DiskId"),) if call.text("DiskId") else ()), *call.texts("DiskIds"))
    if not ids:
        raise missing_parameter("DiskId")
    for disk_id in dict.fromkeys(ids):
        await disks.modify_disk_attribute(
            call.context.writes,
            call.caller,
            disk_id,
            name=call.args.get("DiskName"),
            description=call.args.get("Description"),
            delete_with_instance=call.args.get("DeleteWithInstance"),
        )
    return {}


@action(
    ECS,
    "DescribeDisks",
    f"DiskIds:j DiskName Status DiskType Category InstanceId SnapshotId ZoneId{TAGS}{PAGES}{TOKENS}",
    f"Disks{{Disk[]{{{_DISK}}}}} NextToken PageNumber:i PageSize:i TotalCount:i",
)
async def describe_disks(call: Call) -> dict[str, Any]:
    """List disks, filtered and in pages."""
    wanted = DiskFilter(
        ids=call.texts("DiskIds"),
        name=call.text("DiskName"),
        status=call.text("Status"),
        kind="" if call.text("DiskType").lower() == "all" else call.text("DiskType").lower(),
        category="" if call.text("Category").lower() == "all" else call.text("Category"),
        instance_id=call.text("InstanceId"),
        snapshot_id=call.text("SnapshotId"),
        zone_id=call.text("ZoneId"),
        tags=call.tag_filter(),
    )
    page = await disks.describe_disks(call.context.reads, call.caller, wanted, call.paging())
    return paged(page, "Disks", "Disk", (_item(call, detail) for detail in page.items))
