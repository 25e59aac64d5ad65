"""Actions on automatic snapshot policies. Some of their parameters are spelled with a small letter first."""

from __future__ import annotations

from typing import Any

import msgspec

from yuntai.api.common import paged, tag_set
from yuntai.api.registry import ECS, PAGES, TAGS, TOKENS, Call, action
from yuntai.control.requests import auto_snapshots
from yuntai.control.requests.types import PolicyDetail

_POLICY = """
    AssociationType AutoSnapshotPolicyId AutoSnapshotPolicyName CopiedSnapshotsRetentionDays:i
    CopyEncryptionConfiguration{Encrypted:b KMSKeyId} CreationTime DiskNums:i EnableCrossRegionCopy:b RegionId
    RepeatWeekdays ResourceGroupId RetentionDays:i Status Tags{Tag[]{TagKey TagValue}} TargetCopyRegions
    TargetTags{TargetTag[]{TagKey TagValue}} TimePoints Type VolumeNums:i
"""


def _texts(numbers: tuple[int, ...]) -> str:
    """Return ``["1","7"]``: these lists travel as JSON in a text, in both directions."""
    return msgspec.json.encode([str(number) for number in numbers]).decode()


@action(
    ECS,
    "CreateAutoSnapshotPolicy",
    f"timePoints!:j repeatWeekdays!:j retentionDays!:i autoSnapshotPolicyName{TAGS}",
    "AutoSnapshotPolicyId",
)
async def create_auto_snapshot_policy(call: Call) -> dict[str, Any]:
    """Make a policy; ApplyAutoSnapshotPolicy gives it to disks."""
    policy_id = await auto_snapshots.create_policy(
        call.context.writes,
        call.caller,
        time_points=call.texts("timePoints"),
        weekdays=call.texts("repeatWeekdays"),
        retention_days=call.args["retentionDays"],
        name=call.text("autoSnapshotPolicyName"),
        tags=call.tags(),
    )
    return {"AutoSnapshotPolicyId": policy_id}


@action(
    ECS,
    "ModifyAutoSnapshotPolicyEx",
    "autoSnapshotPolicyId! timePoints:j repeatWeekdays:j retentionDays:i autoSnapshotPolicyName",
)
async def modify_auto_snapshot_policy(call: Call) -> dict[str, Any]:
    """Change a policy from its next time on."""
    await auto_snapshots.modify_policy(
        call.context.writes,
        call.caller,
        call.text("autoSnapshotPolicyId"),
        time_points=call.texts("timePoints"),
        weekdays=call.texts("repeatWeekdays"),
        retention_days=call.args.get("retentionDays"),
        name=call.args.get("autoSnapshotPolicyName"),
    )
    return {}


@action(ECS, "DeleteAutoSnapshotPolicy", "autoSnapshotPolicyId!")
async def delete_auto_snapshot_policy(call: Call) -> dict[str, Any]:
    """Delete a policy; its snapshots stay for as long as they were to."""
    await auto_snapshots.delete_policy(call.context.writes, call.caller, call.text("autoSnapshotPolicyId"))
    return {}


@action(ECS, "ApplyAutoSnapshotPolicy", "autoSnapshotPolicyId! diskIds!:j")
async def apply_auto_snapshot_policy(call: Call) -> dict[str, Any]:
    """Give disks a policy, in place of the one that they had."""
    await auto_snapshots.apply_policy(
        call.context.writes, call.caller, call.text("autoSnapshotPolicyId"), call.texts("diskIds")
    )
    return {}


@action(ECS, "CancelAutoSnapshotPolicy", "autoSnapshotPolicyId diskIds!:j")
async def cancel_auto_snapshot_policy(call: Call) -> dict[str, Any]:
    """Take their policy from disks."""
    await auto_snapshots.cancel_policy(
        call.context.writes, call.caller, call.texts("diskIds"), call.text("autoSnapshotPolicyId")
    )
    return {}


def _item(call: Call, detail: PolicyDetail) -> dict[str, Any]:
    policy = detail.policy
    return {
        "AssociationType": "ResourceId",
        "AutoSnapshotPolicyId": policy.id,
        "AutoSnapshotPolicyName": policy.name,
        "CreationTime": policy.created,
        "DiskNums": len(detail.disks),
        "RegionId": call.context.region,
        "RepeatWeekdays": _texts(policy.weekdays),
        "RetentionDays": policy.retention_days,
        "Status": "Normal",
        "Tags": tag_set(policy.tags),
        "TimePoints": _texts(policy.time_points),
        "Type": "Custom",
        "VolumeNums": len(detail.disks),
    }


@action(
    ECS,
    "DescribeAutoSnapshotPolicyEx",
    f"AutoSnapshotPolicyId AutoSnapshotPolicyName{TAGS}{PAGES}",
    f"AutoSnapshotPolicies{{AutoSnapshotPolicy[]{{{_POLICY}}}}} PageNumber:i PageSize:i TotalCount:i",
)
async def describe_auto_snapshot_policies(call: Call) -> dict[str, Any]:
    """List policies."""
    page = await auto_snapshots.describe_policies(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        policy_id=call.text("AutoSnapshotPolicyId"),
        name=call.text("AutoSnapshotPolicyName"),
        tags=call.tag_filter(),
    )
    rows = (_item(call, detail) for detail in page.items)
    return paged(page, "AutoSnapshotPolicies", "AutoSnapshotPolicy", rows, token=False)


@action(
    ECS,
    "DescribeAutoSnapshotPolicyAssociations",
    f"AutoSnapshotPolicyId DiskId{TOKENS}",
    "AutoSnapshotPolicyAssociations{AutoSnapshotPolicyAssociation[]{AutoSnapshotPolicyId DiskId}} NextToken",
)
async def describe_auto_snapshot_policy_associations(call: Call) -> dict[str, Any]:
    """List which disk has which policy."""
    page = await auto_snapshots.describe_associations(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        policy_id=call.text("AutoSnapshotPolicyId"),
        disk_id=call.text("DiskId"),
    )
    rows = [{"AutoSnapshotPolicyId": disk.policy, "DiskId": disk.id} for disk in page.items]
    return {
        "AutoSnapshotPolicyAssociations": {"AutoSnapshotPolicyAssociation": rows},
        "NextToken": page.next_token,
    }
