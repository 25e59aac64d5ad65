"""Actions on groups of snapshots, and on the chains that a disk's snapshots form."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import paged, vpc_tag_set
from yuntai.api.registry import ECS, PAGES, TAGS, TOKENS, YUNTAI, Call, action
from yuntai.control import errors
from yuntai.control.requests import snapshot_groups, snapshot_usage
from yuntai.control.requests.types import GroupDetail
from yuntai.model.compute import Disk, Snapshot
from yuntai.pangu.tree import Tree

_MEMBER = """
    Available:b InstantAccess:b InstantAccessRetentionDays:i Progress SnapshotId SourceDiskId SourceDiskType
    Tags{Tag[]{Key Value}}
"""
_GROUP = f"""
    CreationTime Description InstanceId Name ProgressStatus ResourceGroupId SnapshotGroupId
    Snapshots{{Snapshot[]{{{_MEMBER}}}}} Status Tags{{Tag[]{{Key Value}}}}
"""
_LINK = """
    Category InstanceId InstanceName InstantAccess:b RegionId SnapshotLinkId SourceDiskId SourceDiskName
    SourceDiskSize:i SourceDiskType TotalCount:i TotalSize:i
"""
_NODE = """
    Clones[] ExclusiveBytes:i Kind Node:i Parent:i SharedBytes:i SizeBytes:i SnapshotCreated SnapshotId SnapshotName
    State UsedBytes:i VolumeId
"""
_STATES = {"deleting": "progressing"}


@action(
    ECS,
    "CreateSnapshotGroup",
    f"InstanceId DiskId[] ExcludeDiskId[] Name Description ClientToken{TAGS}",
    "SnapshotGroupId",
)
async def create_snapshot_group(call: Call) -> dict[str, Any]:
    """Take snapshots of an instance's disks at one moment."""
    group_id = await snapshot_groups.create_snapshot_group(
        call.context.writes,
        call.caller,
        instance_id=call.text("InstanceId"),
        disk_ids=call.texts("DiskId"),
        exclude=call.texts("ExcludeDiskId"),
        name=call.text("Name"),
        description=call.text("Description"),
        tags=call.tags(),
        client_token=call.text("ClientToken"),
    )
    return {"SnapshotGroupId": group_id}


@action(
    ECS,
    "DeleteSnapshotGroup",
    "SnapshotGroupId!",
    "OperationProgressSet{OperationProgress[]{ErrorCode ErrorMsg OperationStatus RelatedItemSet{RelatedItem[]{Name "
    "Value}}}}",
)
async def delete_snapshot_group(call: Call) -> dict[str, Any]:
    """Delete the snapshots of a group; those that something stands on are named, and stay."""
    outcome = await snapshot_groups.delete_snapshot_group(
        call.context.writes, call.caller, call.text("SnapshotGroupId")
    )
    rows = [
        {
            "ErrorCode": one.code,
            "ErrorMsg": one.message,
            "OperationStatus": "Failed" if one.code else "Success",
            "RelatedItemSet": {"RelatedItem": [{"Name": "SnapshotId", "Value": one.snapshot}]},
        }
        for one in outcome
    ]
    return {"OperationProgressSet": {"OperationProgress": rows}}


@action(ECS, "ModifySnapshotGroup", "SnapshotGroupId! Name Description:t")
async def modify_snapshot_group(call: Call) -> dict[str, Any]:
    """Change a group's name or description."""
    await snapshot_groups.modify_snapshot_group(
        call.context.writes,
        call.caller,
        call.text("SnapshotGroupId"),
        name=call.args.get("Name"),
        description=call.args.get("Description"),
    )
    return {}


def _member(snapshot: Snapshot) -> dict[str, Any]:
    ready = snapshot.status == "accomplished"
    return {
        "Available": ready,
        "Progress": f"{100 if ready else snapshot.progress}%",
        "SnapshotId": snapshot.id,
        "SourceDiskId": snapshot.disk,
        "SourceDiskType": snapshot.disk_kind,
        "Tags": vpc_tag_set(snapshot.tags),
    }


def _group(detail: GroupDetail) -> dict[str, Any]:
    group = detail.group
    return {
        "CreationTime": group.created,
        "Description": group.description,
        "InstanceId": group.instance,
        "Name": group.name,
        "SnapshotGroupId": group.id,
        "Snapshots": {"Snapshot": [_member(snapshot) for snapshot in detail.snapshots]},
        "Status": _STATES.get(group.status, group.status),
        "Tags": vpc_tag_set(group.tags),
    }


@action(
    ECS,
    "DescribeSnapshotGroups",
    f"SnapshotGroupId[] InstanceId Name Status[]{TAGS}{TOKENS}",
    f"NextToken SnapshotGroups{{SnapshotGroup[]{{{_GROUP}}}}}",
)
async def describe_snapshot_groups(call: Call) -> dict[str, Any]:
    """List groups with their snapshots."""
    page = await snapshot_groups.describe_snapshot_groups(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=call.texts("SnapshotGroupId"),
        instance_id=call.text("InstanceId"),
        name=call.text("Name"),
        states=call.texts("Status"),
        tags=call.tag_filter(),
    )
    return {
        "NextToken": page.next_token,
        "SnapshotGroups": {"SnapshotGroup": [_group(detail) for detail in page.items]},
    }


@action(
    ECS,
    "DescribeSnapshotLinks",
    f"DiskIds:j SnapshotLinkIds:j InstanceId{PAGES}{TOKENS}",
    f"NextToken PageNumber:i PageSize:i SnapshotLinks{{SnapshotLink[]{{{_LINK}}}}} TotalCount:i",
)
async def describe_snapshot_links(call: Call) -> dict[str, Any]:
    """List the chains of snapshots, one for each disk."""
    page = await snapshot_usage.describe_links(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        disk_ids=call.texts("DiskIds"),
        link_ids=call.texts("SnapshotLinkIds"),
        instance_id=call.text("InstanceId"),
    )
    rows = (
        {
            "Category": "standard",
            "InstanceId": chain.instance.id if chain.instance else "",
            "InstanceName": chain.instance.name if chain.instance else "",
            "RegionId": call.context.region,
            "SnapshotLinkId": chain.id,
            "SourceDiskId": chain.disk_id,
            "SourceDiskName": chain.disk.name if chain.disk else "",
            "SourceDiskSize": chain.size_gib,
            "SourceDiskType": chain.disk_kind,
            "TotalCount": chain.count,
            "TotalSize": chain.used_bytes,
        }
        for chain in page.items
    )
    return paged(page, "SnapshotLinks", "SnapshotLink", rows)


@action(ECS, "DescribeSnapshotsUsage", "", "SnapshotCount:i SnapshotSize:i")
async def describe_snapshots_usage(call: Call) -> dict[str, Any]:
    """Count the account's snapshots and their bytes, as the block store counted them last."""
    count, used = await snapshot_usage.describe_usage(call.context.reads, call.caller)
    return {"SnapshotCount": count, "SnapshotSize": used}


def _nodes(tree: Tree, snapshots: dict[tuple[str, int], Snapshot]) -> list[dict[str, Any]]:
    rows = []
    for node in tree.nodes:
        snapshot = snapshots.get((tree.volume, node.node))
        rows.append(
            {
                "Clones": list(node.clones),
                "ExclusiveBytes": node.exclusive_bytes,
                "Kind": node.kind,
                "Node": node.node,
                "Parent": node.parent,
                "SharedBytes": node.shared_bytes,
                "SizeBytes": node.size_bytes,
                "SnapshotCreated": snapshot.created if snapshot else "",
                "SnapshotId": snapshot.id if snapshot else "",
                "SnapshotName": snapshot.name if snapshot else "",
                "State": node.state,
                "UsedBytes": node.used_bytes,
                "VolumeId": tree.volume,
            }
        )
    return rows


@action(
    YUNTAI,
    "DescribeSnapshotTree",
    "DiskId! Fresh:b",
    f"Counted Current:b DiskId GarbageBytes:i Nodes[]{{{_NODE}}} UsedBytes:i",
)
async def describe_snapshot_tree(call: Call) -> dict[str, Any]:
    """Show a disk's snapshots as a tree with what each occupies; with Fresh they are counted now."""
    disk_id = call.text("DiskId")
    snapshots = [one.value for one in await call.context.reads.list(Snapshot) if one.value.disk == disk_id]
    mine = [snapshot for snapshot in snapshots if snapshot.account == call.caller.account]
    volumes = {snapshot.volume for snapshot in mine if snapshot.status != "failed"}
    found = await call.context.reads.get(Disk, disk_id)
    if found is not None and found.value.account == call.caller.account:
        volumes.add(found.value.volume)
    elif not mine:
        raise errors.not_found("disk", disk_id, "InvalidDiskId.NotFound")
    trees = [await call.context.volumes.tree(one, fresh=call.args.get("Fresh", False)) for one in sorted(volumes)]
    by_node = {(snapshot.volume, snapshot.node): snapshot for snapshot in mine if snapshot.node}
    return {
        "Counted": min((tree.counted for tree in trees), default=""),
        "Current": all(tree.current for tree in trees),
        "DiskId": disk_id,
        "GarbageBytes": sum(tree.garbage_bytes for tree in trees),
        "Nodes": [row for tree in trees for row in _nodes(tree, by_node)],
        "UsedBytes": sum(tree.used_bytes for tree in trees),
    }
