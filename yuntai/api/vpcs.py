"""Actions on VPCs and their route tables."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import account_number, paged, vpc_tag_set
from yuntai.api.registry import PAGES, TAGS, VPC, Call, action
from yuntai.control.requests import vpcs
from yuntai.control.requests.types import Page
from yuntai.model.network import Vpc, VSwitch

_BOTH = """
    CidrBlock CreationTime Description DhcpOptionsSetId DhcpOptionsSetStatus DnsHostnameStatus EnabledIpv6:b
    Ipv6CidrBlock Ipv6CidrBlocks{Ipv6CidrBlock[]{Ipv6CidrBlock Ipv6Isp}} IsDefault:b OwnerId:i RegionId ResourceGroupId
    SecondaryCidrBlocks{SecondaryCidrBlock[]} Status Tags{Tag[]{Key Value}} UserCidrs{UserCidr[]} VRouterId
    VSwitchIds{VSwitchId[]} VpcId VpcName
"""
_ITEM = f"{_BOTH} CenStatus NatGatewayIds{{NatGatewayIds[]}} RouterTableIds{{RouterTableIds[]}}"
_ATTRIBUTE = f"""{_BOTH}
    AssociatedCens{{AssociatedCen[]{{CenId CenOwnerId:i CenStatus}}}}
    AssociatedPropagationSources{{AssociatedPropagationSources[]{{RoutePropagated:b SourceInstanceId SourceOwnerId:i
    SourceType Status}}}} ClassicLinkEnabled:b CloudResources{{CloudResourceSetType[]{{ResourceCount:i ResourceType}}}}
    Ipv4GatewayId SupportIpv4Gateway:b
"""
_ROUTE_TABLE = """
    AssociateType CreationTime Description GatewayIds{GatewayIds[]} OwnerId:i ResourceGroupId RoutePropagationEnable:b
    RouteTableId RouteTableName RouteTableType RouterId RouterType Status Tags{Tag[]{Key Value}} VSwitchIds{VSwitchId[]}
    VpcId
"""


async def _switches(call: Call, vpc_id: str) -> list[str]:
    return [one.value.id for one in await call.context.reads.list(VSwitch) if one.value.vpc == vpc_id]


def shown_status(status: str) -> str:
    """Return a status that clients know; what is being deleted is no longer available."""
    return "Pending" if status == "Deleting" else status


async def _both(call: Call, vpc: Vpc) -> dict[str, Any]:
    return {
        "CidrBlock": vpc.cidr,
        "CreationTime": vpc.created,
        "Description": vpc.description,
        "IsDefault": vpc.is_default,
        "OwnerId": account_number(vpc.account),
        "RegionId": call.context.region,
        "Status": shown_status(vpc.status),
        "Tags": vpc_tag_set(vpc.tags),
        "VRouterId": vpc.router,
        "VSwitchIds": {"VSwitchId": await _switches(call, vpc.id)},
        "VpcId": vpc.id,
        "VpcName": vpc.name,
    }


@action(
    VPC,
    "CreateVpc",
    f"CidrBlock VpcName Description ClientToken DryRun:b{TAGS}",
    "ResourceGroupId RouteTableId VRouterId VpcId",
)
async def create_vpc(call: Call) -> dict[str, Any]:
    """Create a private network."""
    made = await vpcs.create_vpc(
        call.context.writes,
        call.caller,
        cidr=call.text("CidrBlock"),
        name=call.text("VpcName"),
        description=call.text("Description"),
        tags=call.tags(),
        client_token=call.text("ClientToken"),
        dry_run=call.args.get("DryRun", False),
    )
    return {"RouteTableId": made.route_table_id, "VRouterId": made.router_id, "VpcId": made.vpc_id}


@action(VPC, "DeleteVpc", "VpcId! DryRun:b")
async def delete_vpc(call: Call) -> dict[str, Any]:
    """Delete a private network that is empty."""
    dry = call.args.get("DryRun", False)
    await vpcs.delete_vpc(call.context.writes, call.caller, call.text("VpcId"), dry_run=dry)
    return {}


@action(VPC, "ModifyVpcAttribute", "VpcId! VpcName Description:t")
async def modify_vpc_attribute(call: Call) -> dict[str, Any]:
    """Change a network's name or description."""
    await vpcs.modify_vpc_attribute(
        call.context.writes,
        call.caller,
        call.text("VpcId"),
        name=call.args.get("VpcName"),
        description=call.args.get("Description"),
    )
    return {}


@action(
    VPC,
    "DescribeVpcs",
    f"VpcId VpcName IsDefault:b{TAGS}{PAGES}",
    f"PageNumber:i PageSize:i TotalCount:i Vpcs{{Vpc[]{{{_ITEM}}}}}",
)
async def describe_vpcs(call: Call) -> dict[str, Any]:
    """List private networks."""
    page = await vpcs.describe_vpcs(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=tuple(part.strip() for part in call.text("VpcId").split(",") if part.strip()),
        name=call.text("VpcName"),
        is_default=call.args.get("IsDefault"),
        tags=call.tag_filter(),
    )
    rows = [{**await _both(call, vpc), "RouterTableIds": {"RouterTableIds": [vpc.route_table]}} for vpc in page.items]
    return paged(page, "Vpcs", "Vpc", rows, token=False)


@action(VPC, "DescribeVpcAttribute", "VpcId!", _ATTRIBUTE)
async def describe_vpc_attribute(call: Call) -> dict[str, Any]:
    """Describe one private network."""
    vpc = await vpcs.get_vpc(call.context.reads, call.caller, call.text("VpcId"))
    both = await _both(call, vpc)
    count = len(both["VSwitchIds"]["VSwitchId"])
    resources = [
        {"ResourceCount": 1, "ResourceType": "VRouter"},
        {"ResourceCount": count, "ResourceType": "VSwitch"},
        {"ResourceCount": 1, "ResourceType": "RouteTable"},
    ]
    return {**both, "CloudResources": {"CloudResourceSetType": resources}}


@action(
    VPC,
    "DescribeRouteTableList",
    f"RouteTableId RouteTableName RouteTableType RouterId RouterType VpcId{TAGS}{PAGES}",
    f"PageNumber:i PageSize:i RouterTableList{{RouterTableListType[]{{{_ROUTE_TABLE}}}}} TotalCount:i",
)
async def describe_route_table_list(call: Call) -> dict[str, Any]:
    """List route tables: each private network has its system one."""
    paging = call.paging()
    ids = (call.text("VpcId"),) if call.text("VpcId") else ()
    matching = [
        vpc
        for vpc in await _all_vpcs(call, ids)
        if call.text("RouteTableId") in ("", vpc.route_table)
        and call.text("RouterId") in ("", vpc.router)
        and call.text("RouteTableType") in ("", "System")
        and not call.text("RouteTableName")
        and not call.tag_filter()
    ]
    first = (paging.page_number - 1) * paging.page_size
    rows = [
        {
            "AssociateType": "VSwitch",
            "CreationTime": vpc.created,
            "OwnerId": account_number(vpc.account),
            "RoutePropagationEnable": True,
            "RouteTableId": vpc.route_table,
            "RouteTableType": "System",
            "RouterId": vpc.router,
            "RouterType": "VRouter",
            "Status": shown_status(vpc.status),
            "VSwitchIds": {"VSwitchId": await _switches(call, vpc.id)},
            "VpcId": vpc.id,
        }
        for vpc in matching[first : first + paging.page_size]
    ]
    page: Page[Vpc] = Page(items=(), total=len(matching), page_number=paging.page_number, page_size=paging.page_size)
    return paged(page, "RouterTableList", "RouterTableListType", rows, token=False)


async def _all_vpcs(call: Call, ids: tuple[str, ...]) -> list[Vpc]:
    mine = (one.value for one in await call.context.reads.list(Vpc) if one.value.account == call.caller.account)
    return [vpc for vpc in mine if not ids or vpc.id in ids]
