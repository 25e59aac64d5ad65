"""Actions on snapshots."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import paged, tag_set
from yuntai.api.registry import ECS, PAGES, TAGS, TOKENS, Call, action
from yuntai.control.requests import snapshots
from yuntai.model.compute import Disk, Image, Snapshot

_SNAPSHOT = """
    Available:b Category CreationTime Description Encrypted:b FullSnapshotSizeInBytes:i InstantAccess:b
    InstantAccessRetentionDays:i KMSKeyId LastModifiedTime ProductCode Progress RegionId RemainTime:i ResourceGroupId
    RetentionDays:i SnapshotId SnapshotLinkId SnapshotName SnapshotSN SnapshotType SourceDiskId SourceDiskSize
    SourceDiskType SourceRegionId SourceSnapshotId SourceStorageType Status Tags{Tag[]{TagKey TagValue}} Usage
"""


async def _users(call: Call) -> tuple[set[str], set[tuple[str, int]]]:
    """Return what stands on snapshots: the ids that disks came from, and the nodes that images are."""
    disks = {one.value.source_snapshot for one in await call.context.reads.list(Disk)}
    images = set()
    for one in await call.context.reads.list(Image):
        images |= {(one.value.volume, one.value.node), *((disk.volume, disk.node) for disk in one.value.data_disks)}
    return disks, images


def _item(call: Call, snapshot: Snapshot, disks: set[str], images: set[tuple[str, int]]) -> dict[str, Any]:
    uses = ["image"] if (snapshot.volume, snapshot.node) in images else []
    uses += ["disk"] if snapshot.id in disks else []
    ready = snapshot.status == "accomplished"
    return {
        "Available": ready,
        "Category": "standard",
        "CreationTime": snapshot.created,
        "Description": snapshot.description,
        "LastModifiedTime": snapshot.created,
        "Progress": f"{100 if ready else snapshot.progress}%",
        "RegionId": call.context.region,
        "RetentionDays": snapshot.retention_days,
        "SnapshotId": snapshot.id,
        "SnapshotLinkId": snapshots.link_of(snapshot.disk),
        "SnapshotName": snapshot.name,
        "SnapshotType": "auto" if snapshot.policy else "user",
        "SourceDiskId": snapshot.disk,
        "SourceDiskSize": str(snapshot.size_gib),
        "SourceDiskType": snapshot.disk_kind,
        "SourceRegionId": call.context.region,
        "SourceStorageType": "disk",
        "Status": "progressing" if snapshot.status == "deleting" else snapshot.status,
        "Tags": tag_set(snapshot.tags),
        "Usage": "_".join(uses) or "none",
    }


@action(ECS, "CreateSnapshot", f"DiskId! SnapshotName Description RetentionDays:i ClientToken{TAGS}", "SnapshotId")
async def create_snapshot(call: Call) -> dict[str, Any]:
    """Take a snapshot of a disk while it is used."""
    snapshot_id = await snapshots.create_snapshot(
        call.context.writes,
        call.caller,
        call.text("DiskId"),
        name=call.text("SnapshotName"),
        description=call.text("Description"),
        tags=call.tags(),
        retention_days=call.args.get("RetentionDays", 0),
        client_token=call.text("ClientToken"),
    )
    return {"SnapshotId": snapshot_id}


@action(ECS, "DeleteSnapshot", "SnapshotId! Force:b")
async def delete_snapshot(call: Call) -> dict[str, Any]:
    """Delete a snapshot; with Force also one that disks were made of, even while they still read from it."""
    await snapshots.delete_snapshot(
        call.context.writes, call.caller, call.text("SnapshotId"), force=call.args.get("Force", False)
    )
    return {}


@action(ECS, "ModifySnapshotAttribute", "SnapshotId! SnapshotName Description:t RetentionDays:i")
async def modify_snapshot_attribute(call: Call) -> dict[str, Any]:
    """Change a snapshot's name or description."""
    await snapshots.modify_snapshot_attribute(
        call.context.writes,
        call.caller,
        call.text("SnapshotId"),
        name=call.args.get("SnapshotName"),
        description=call.args.get("Description"),
        retention_days=call.args.get("RetentionDays"),
    )
    return {}


@action(
    ECS,
    "DescribeSnapshots",
    f"""SnapshotIds:j DiskId InstanceId SnapshotName SnapshotLinkId Status SourceDiskType
    SnapshotType{TAGS}{PAGES}{TOKENS}""",
    f"NextToken PageNumber:i PageSize:i Snapshots{{Snapshot[]{{{_SNAPSHOT}}}}} TotalCount:i",
)
async def describe_snapshots(call: Call) -> dict[str, Any]:
    """List snapshots, filtered and in pages."""
    page = await snapshots.describe_snapshots(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=call.texts("SnapshotIds"),
        disk_id=call.text("DiskId"),
        instance_id=call.text("InstanceId"),
        name=call.text("SnapshotName"),
        status="" if call.text("Status").lower() == "all" else call.text("Status"),
        kind=call.text("SourceDiskType").lower(),
        origin=call.text("SnapshotType").lower(),
        link=call.text("SnapshotLinkId"),
        tags=call.tag_filter(),
    )
    disks, images = await _users(call)
    rows = (_item(call, snapshot, disks, images) for snapshot in page.items)
    return paged(page, "Snapshots", "Snapshot", rows)
