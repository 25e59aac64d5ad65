"""Actions on security groups and their rules."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import paged, tag_set
from yuntai.api.errors import missing_parameter
from yuntai.api.registry import ECS, PAGES, TAGS, TOKENS, Call, action
from yuntai.control.requests import security_groups
from yuntai.control.requests.types import RuleSpec
from yuntai.model.network import Port, Rule, SecurityGroup

_GROUP = """
    AvailableInstanceAmount:i CreationTime Description EcsCount:i GroupToGroupRuleCount:i ResourceGroupId RuleCount:i
    SecurityGroupId SecurityGroupName SecurityGroupType ServiceID:i ServiceManaged:b Tags{Tag[]{TagKey TagValue}} VpcId
"""
_PERMISSION = """
    CreateTime Description DestCidrIp DestGroupId DestGroupName DestGroupOwnerAccount DestPrefixListId
    DestPrefixListName Direction IpProtocol Ipv6DestCidrIp Ipv6SourceCidrIp NicType Policy PortRange PortRangeListId
    PortRangeListName Priority SecurityGroupRuleId SourceCidrIp SourceGroupId SourceGroupName SourceGroupOwnerAccount
    SourcePortRange SourcePrefixListId SourcePrefixListName
"""
_RULE = "Description DestCidrIp DestGroupId IpProtocol Policy PortRange Priority SourceCidrIp SourceGroupId"
_RULES = f"SecurityGroupId! ClientToken {_RULE} Permissions[]{{{_RULE}}}"
MEMBERS_MAX = 6000
"""What a group may hold, as far as clients are told."""


def _item(group: SecurityGroup, members: int) -> dict[str, Any]:
    return {
        "AvailableInstanceAmount": max(0, MEMBERS_MAX - members),
        "CreationTime": group.created,
        "Description": group.description,
        "EcsCount": members,
        "GroupToGroupRuleCount": sum(1 for rule in group.rules if rule.group),
        "RuleCount": len(group.rules),
        "SecurityGroupId": group.id,
        "SecurityGroupName": group.name,
        "SecurityGroupType": group.kind,
        "Tags": tag_set(group.tags),
        "VpcId": group.vpc,
    }


def _permission(call: Call, rule: Rule, names: dict[str, str]) -> dict[str, Any]:
    side = "Source" if rule.direction == "ingress" else "Dest"
    return {
        "CreateTime": rule.created,
        "Description": rule.description,
        "Direction": rule.direction,
        "IpProtocol": rule.protocol.upper(),
        "NicType": "intranet",
        "Policy": rule.policy.capitalize(),
        "PortRange": rule.port_range,
        "Priority": str(rule.priority),
        "SecurityGroupRuleId": rule.id,
        f"{side}CidrIp": rule.cidr,
        f"{side}GroupId": rule.group,
        f"{side}GroupName": names.get(rule.group, ""),
        f"{side}GroupOwnerAccount": call.caller.account if rule.group else "",
    }


@action(
    ECS,
    "CreateSecurityGroup",
    f"VpcId SecurityGroupName Description SecurityGroupType ClientToken{TAGS}",
    "SecurityGroupId",
)
async def create_security_group(call: Call) -> dict[str, Any]:
    """Create a group that refuses what comes in and allows what goes out."""
    group_id = await security_groups.create_security_group(
        call.context.writes,
        call.caller,
        vpc_id=call.text("VpcId"),
        name=call.text("SecurityGroupName"),
        description=call.text("Description"),
        kind=call.text("SecurityGroupType") or "normal",
        tags=call.tags(),
        client_token=call.text("ClientToken"),
    )
    return {"SecurityGroupId": group_id}


@action(ECS, "DeleteSecurityGroup", "SecurityGroupId!")
async def delete_security_group(call: Call) -> dict[str, Any]:
    """Delete a group without members."""
    await security_groups.delete_security_group(call.context.writes, call.caller, call.text("SecurityGroupId"))
    return {}


@action(ECS, "ModifySecurityGroupAttribute", "SecurityGroupId! SecurityGroupName Description:t")
async def modify_security_group_attribute(call: Call) -> dict[str, Any]:
    """Change a group's name or description."""
    await security_groups.modify_security_group_attribute(
        call.context.writes,
        call.caller,
        call.text("SecurityGroupId"),
        name=call.args.get("SecurityGroupName"),
        description=call.args.get("Description"),
    )
    return {}


@action(ECS, "ModifySecurityGroupPolicy", "SecurityGroupId! InnerAccessPolicy! ClientToken")
async def modify_security_group_policy(call: Call) -> dict[str, Any]:
    """Say whether members of a group reach each other."""
    await security_groups.modify_security_group_policy(
        call.context.writes, call.caller, call.text("SecurityGroupId"), call.text("InnerAccessPolicy")
    )
    return {}


def _spec(given: dict[str, Any], side: str) -> RuleSpec:
    return RuleSpec(
        protocol=given.get("IpProtocol", ""),
        port_range=given.get("PortRange", ""),
        cidr=given.get(f"{side}CidrIp", ""),
        group=given.get(f"{side}GroupId", ""),
        policy=given.get("Policy", ""),
        priority=given.get("Priority", ""),
        description=given.get("Description", ""),
    )


def _specs(call: Call, direction: str) -> tuple[RuleSpec, ...]:
    """Read rules given as ``Permissions.N.*``, or one given flat."""
    side = "Source" if direction == "ingress" else "Dest"
    permissions = call.args.get("Permissions", ())
    if permissions:
        return tuple(_spec(one, side) for one in permissions)
    return (_spec(call.args, side),) if "IpProtocol" in call.args or "PortRange" in call.args else ()


async def _authorize(call: Call, direction: str) -> dict[str, Any]:
    rules = _specs(call, direction)
    if not rules:
        raise missing_parameter("IpProtocol")
    await security_groups.authorize(
        call.context.writes,
        call.caller,
        call.text("SecurityGroupId"),
        direction,
        rules,
        client_token=call.text("ClientToken"),
    )
    return {}


async def _revoke(call: Call, direction: str) -> dict[str, Any]:
    rules, rule_ids = _specs(call, direction), call.texts("SecurityGroupRuleId")
    if not rules and not rule_ids:
        raise missing_parameter("IpProtocol")
    await security_groups.revoke(
        call.context.writes,
        call.caller,
        call.text("SecurityGroupId"),
        direction,
        specs=rules,
        rule_ids=rule_ids,
        client_token=call.text("ClientToken"),
    )
    return {}


@action(ECS, "AuthorizeSecurityGroup", _RULES)
async def authorize_security_group(call: Call) -> dict[str, Any]:
    """Add rules for what comes in."""
    return await _authorize(call, "ingress")


@action(ECS, "AuthorizeSecurityGroupEgress", _RULES)
async def authorize_security_group_egress(call: Call) -> dict[str, Any]:
    """Add rules for what goes out."""
    return await _authorize(call, "egress")


@action(ECS, "RevokeSecurityGroup", f"{_RULES} SecurityGroupRuleId[]")
async def revoke_security_group(call: Call) -> dict[str, Any]:
    """Take away rules for what comes in."""
    return await _revoke(call, "ingress")


@action(ECS, "RevokeSecurityGroupEgress", f"{_RULES} SecurityGroupRuleId[]")
async def revoke_security_group_egress(call: Call) -> dict[str, Any]:
    """Take away rules for what goes out."""
    return await _revoke(call, "egress")


@action(ECS, "JoinSecurityGroup", "SecurityGroupId! InstanceId!")
async def join_security_group(call: Call) -> dict[str, Any]:
    """Add an instance to a group."""
    await security_groups.join(call.context.writes, call.caller, call.text("SecurityGroupId"), call.text("InstanceId"))
    return {}


@action(ECS, "LeaveSecurityGroup", "SecurityGroupId! InstanceId!")
async def leave_security_group(call: Call) -> dict[str, Any]:
    """Take an instance out of a group."""
    await security_groups.leave(call.context.writes, call.caller, call.text("SecurityGroupId"), call.text("InstanceId"))
    return {}


@action(
    ECS,
    "DescribeSecurityGroups",
    f"SecurityGroupId SecurityGroupIds:j VpcId SecurityGroupName{TAGS}{PAGES}{TOKENS}",
    f"NextToken PageNumber:i PageSize:i RegionId SecurityGroups{{SecurityGroup[]{{{_GROUP}}}}} TotalCount:i",
)
async def describe_security_groups(call: Call) -> dict[str, Any]:
    """List security groups."""
    ids = (*((call.text("SecurityGroupId"),) if call.text("SecurityGroupId") else ()), *call.texts("SecurityGroupIds"))
    page = await security_groups.describe_security_groups(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=ids,
        vpc_id=call.text("VpcId"),
        name=call.text("SecurityGroupName"),
        tags=call.tag_filter(),
    )
    members: dict[str, int] = {}
    for port in await call.context.reads.list(Port):
        for group in port.value.security_groups:
            members[group] = members.get(group, 0) + 1
    rows = (_item(group, members.get(group.id, 0)) for group in page.items)
    return {**paged(page, "SecurityGroups", "SecurityGroup", rows), "RegionId": call.context.region}


@action(
    ECS,
    "DescribeSecurityGroupAttribute",
    "SecurityGroupId! Direction NicType",
    f"""Description InnerAccessPolicy NextToken Permissions{{Permission[]{{{_PERMISSION}}}}} RegionId SecurityGroupId
    SecurityGroupName SnapshotPolicyIds{{SnapshotPolicyId[]}} VpcId""",
)
async def describe_security_group_attribute(call: Call) -> dict[str, Any]:
    """Describe one group and its rules."""
    group = await security_groups.get_security_group(call.context.reads, call.caller, call.text("SecurityGroupId"))
    direction = call.text("Direction").lower()
    names = {one.value.id: one.value.name for one in await call.context.reads.list(SecurityGroup)}
    rules = [rule for rule in group.rules if direction in ("", "all", rule.direction)]
    return {
        "Description": group.description,
        "InnerAccessPolicy": group.inner_access,
        "Permissions": {"Permission": [_permission(call, rule, names) for rule in rules]},
        "RegionId": call.context.region,
        "SecurityGroupId": group.id,
        "SecurityGroupName": group.name,
        "VpcId": group.vpc,
    }
