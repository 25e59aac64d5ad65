"""Actions on vSwitches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yuntai.api.common import account_number, paged, vpc_tag_set
from yuntai.api.registry import PAGES, TAGS, VPC, Call, action
from yuntai.api.vpcs import shown_status
from yuntai.control.requests import vswitches
from yuntai.model.network import Vpc, VSwitch

_VSWITCH = """
    AvailableIpAddressCount:i CidrBlock CreationTime Description EnabledIpv6:b Ipv6CidrBlock IsDefault:b NetworkAclId
    OwnerId:i ResourceGroupId RouteTable{RouteTableId RouteTableType} ShareType Status Tags{Tag[]{Key Value}} VSwitchId
    VSwitchName VpcId ZoneId
"""


async def _items(call: Call, found: Sequence[VSwitch]) -> list[dict[str, Any]]:
    free = await vswitches.free_addresses(call.context.reads, call.caller, tuple(one.id for one in found))
    return [await _item(call, one, free[one.id]) for one in found]


async def _item(call: Call, vswitch: VSwitch, free: int) -> dict[str, Any]:
    vpc = await call.context.reads.get(Vpc, vswitch.vpc)
    table = {"RouteTableId": vpc.value.route_table if vpc is not None else "", "RouteTableType": "System"}
    return {
        "AvailableIpAddressCount": free,
        "CidrBlock": vswitch.cidr,
        "CreationTime": vswitch.created,
        "Description": vswitch.description,
        "IsDefault": vswitch.is_default,
        "OwnerId": account_number(vswitch.account),
        "RouteTable": table,
        "Status": shown_status(vswitch.status),
        "Tags": vpc_tag_set(vswitch.tags),
        "VSwitchId": vswitch.id,
        "VSwitchName": vswitch.name,
        "VpcId": vswitch.vpc,
        "ZoneId": vswitch.zone,
    }


@action(VPC, "CreateVSwitch", f"VpcId! CidrBlock! ZoneId VSwitchName Description ClientToken{TAGS}", "VSwitchId")
async def create_vswitch(call: Call) -> dict[str, Any]:
    """Create a subnet of a private network."""
    vswitch_id = await vswitches.create_vswitch(
        call.context.writes,
        call.caller,
        vpc_id=call.text("VpcId"),
        cidr=call.text("CidrBlock"),
        zone_id=call.text("ZoneId"),
        name=call.text("VSwitchName"),
        description=call.text("Description"),
        tags=call.tags(),
        client_token=call.text("ClientToken"),
    )
    return {"VSwitchId": vswitch_id}


@action(VPC, "DeleteVSwitch", "VSwitchId!")
async def delete_vswitch(call: Call) -> dict[str, Any]:
    """Delete a subnet that no instance uses."""
    await vswitches.delete_vswitch(call.context.writes, call.caller, call.text("VSwitchId"))
    return {}


@action(VPC, "ModifyVSwitchAttribute", "VSwitchId! VSwitchName Description:t")
async def modify_vswitch_attribute(call: Call) -> dict[str, Any]:
    """Change a subnet's name or description."""
    await vswitches.modify_vswitch_attribute(
        call.context.writes,
        call.caller,
        call.text("VSwitchId"),
        name=call.args.get("VSwitchName"),
        description=call.args.get("Description"),
    )
    return {}


@action(
    VPC,
    "DescribeVSwitches",
    f"VSwitchId VpcId VSwitchName ZoneId IsDefault:b{TAGS}{PAGES}",
    f"PageNumber:i PageSize:i TotalCount:i VSwitches{{VSwitch[]{{{_VSWITCH}}}}}",
)
async def describe_vswitches(call: Call) -> dict[str, Any]:
    """List subnets."""
    page = await vswitches.describe_vswitches(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=tuple(part.strip() for part in call.text("VSwitchId").split(",") if part.strip()),
        vpc_id=call.text("VpcId"),
        name=call.text("VSwitchName"),
        zone_id=call.text("ZoneId"),
        is_default=call.args.get("IsDefault"),
        tags=call.tag_filter(),
    )
    rows = await _items(call, page.items)
    return paged(page, "VSwitches", "VSwitch", rows, token=False)


@action(VPC, "DescribeVSwitchAttributes", "VSwitchId!", _VSWITCH)
async def describe_vswitch_attributes(call: Call) -> dict[str, Any]:
    """Describe one subnet."""
    vswitch = await vswitches.get_vswitch(call.context.reads, call.caller, call.text("VSwitchId"))
    return (await _items(call, (vswitch,)))[0]
