"""Actions on images."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import account_number, paged, tag_set
from yuntai.api.errors import invalid_parameter
from yuntai.api.registry import ECS, PAGES, TAGS, Call, action
from yuntai.control.requests import images
from yuntai.model.compute import Image, Instance

_IMAGE = """
    Architecture BootMode CreationTime Description
    DetectionOptions{Items{Item[]{Name RiskCode RiskLevel Value}} Status}
    DiskDeviceMappings{DiskDeviceMapping[]{Device Encrypted:b Format ImportOSSBucket ImportOSSObject Progress
    RemainTime:i Size SnapshotId Type}}
    Features{CpuOnlineDowngrade CpuOnlineUpgrade ImdsSupport MemoryOnlineDowngrade MemoryOnlineUpgrade NvmeSupport}
    ImageFamily ImageId ImageName ImageOwnerAlias ImageOwnerId:i ImageVersion IsCopied:b IsPublic:b IsSelfShared
    IsSubscribed:b IsSupportCloudinit:b IsSupportIoOptimized:b LicenseType LoginAsNonRootSupported:b OSName OSNameEn
    OSType Platform ProductCode Progress ResourceGroupId SecureBootOptions{SecureBootSupport} Size:i Status
    SupplierName Tags{Tag[]{TagKey TagValue}} Usable:b Usage
"""
_STATUS = {"Deleting": "UnAvailable"}


def _item(image: Image, used: set[str]) -> dict[str, Any]:
    ready = image.status == "Available"
    system = {
        "Device": "/dev/xvda",
        "Format": "RAW",
        "Progress": f"{100 if ready else image.progress}%",
        "Size": str(image.size_gib),
        "SnapshotId": image.source_snapshot,
        "Type": "system",
    }
    data = [
        {
            "Device": one.device,
            "Format": "RAW",
            "Progress": system["Progress"],
            "Size": str(one.size_gib),
            "SnapshotId": one.snapshot,
            "Type": "data",
        }
        for one in image.data_disks
    ]
    return {
        "Architecture": image.architecture,
        "BootMode": "BIOS",
        "CreationTime": image.created,
        "Description": image.description,
        "DiskDeviceMappings": {"DiskDeviceMapping": [system, *data]},
        "ImageId": image.id,
        "ImageName": image.name,
        "ImageOwnerAlias": image.owner_alias,
        "ImageOwnerId": account_number(image.account),
        "IsPublic": not image.account,
        "IsSupportCloudinit": image.os_type == "linux",
        "IsSupportIoOptimized": True,
        "LicenseType": "Auto",
        "OSName": image.os_name,
        "OSNameEn": image.os_name,
        "OSType": image.os_type,
        "Platform": image.os_name.split(" ", maxsplit=1)[0],
        "Progress": f"{100 if ready else image.progress}%",
        "Size": image.size_gib,
        "Status": _STATUS.get(image.status, image.status),
        "Tags": tag_set(image.tags),
        "Usable": ready,
        "Usage": "instance" if image.id in used else "none",
    }


@action(
    ECS,
    "CreateImage",
    f"""SnapshotId InstanceId ImageName Description Platform ClientToken DryRun:b
    DiskDeviceMapping[]{{SnapshotId DiskType Size:i Device}}{TAGS}""",
    "ImageId",
)
async def create_image(call: Call) -> dict[str, Any]:
    """Make an image of an instance, or of the snapshot of a system disk."""
    mapped = [one for one in call.args.get("DiskDeviceMapping", ()) if one.get("SnapshotId")]
    system = [one["SnapshotId"] for one in mapped if one.get("DiskType", "") == "system"]
    data = [one["SnapshotId"] for one in mapped if one.get("DiskType", "") != "system"]
    if not system and not call.text("SnapshotId") and not call.text("InstanceId"):
        system, data = data[:1], data[1:]  # the first one is the system disk's unless another is named as such
    if len(system) > 1:
        raise invalid_parameter("DiskDeviceMapping", "an image has one system disk; name one snapshot with that type")
    image_id = await images.create_image(
        call.context.writes,
        call.caller,
        snapshot_id=call.text("SnapshotId") or next(iter(system), ""),
        data_snapshots=tuple(data),
        instance_id=call.text("InstanceId"),
        name=call.text("ImageName"),
        description=call.text("Description"),
        os_name=call.text("Platform"),
        tags=call.tags(),
        client_token=call.text("ClientToken"),
        dry_run=call.args.get("DryRun", False),
    )
    return {"ImageId": image_id}


@action(ECS, "DeleteImage", "ImageId! Force:b DryRun:b")
async def delete_image(call: Call) -> dict[str, Any]:
    """Delete an image of the caller's own."""
    await images.delete_image(
        call.context.writes,
        call.caller,
        call.text("ImageId"),
        dry_run=call.args.get("DryRun", False),
    )
    return {}


@action(ECS, "ModifyImageAttribute", "ImageId! ImageName Description:t")
async def modify_image_attribute(call: Call) -> dict[str, Any]:
    """Change an image's name or description."""
    await images.modify_image_attribute(
        call.context.writes,
        call.caller,
        call.text("ImageId"),
        name=call.args.get("ImageName"),
        description=call.args.get("Description"),
    )
    return {}


@action(
    ECS,
    "DescribeImages",
    f"ImageId ImageName ImageOwnerAlias SnapshotId Status{TAGS}{PAGES}",
    f"Images{{Image[]{{{_IMAGE}}}}} PageNumber:i PageSize:i RegionId TotalCount:i",
)
async def describe_images(call: Call) -> dict[str, Any]:
    """List public images and the caller's; those that are Available unless Status asks for others."""
    page = await images.describe_images(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=tuple(part.strip() for part in call.text("ImageId").split(",") if part.strip()),
        name=call.text("ImageName"),
        status=call.text("Status") or "Available",
        owner_alias=call.text("ImageOwnerAlias"),
        snapshot_id=call.text("SnapshotId"),
        tags=call.tag_filter(),
    )
    used = {one.value.image for one in await call.context.reads.list(Instance)}
    rows = (_item(image, used) for image in page.items)
    return {**paged(page, "Images", "Image", rows, token=False), "RegionId": call.context.region}
