"""Actions on elastic network interfaces."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import account_number, paged
from yuntai.api.instance_shapes import IPV6_SETS
from yuntai.api.registry import ECS, PAGES, TOKENS, Call, action
from yuntai.control.requests import vswitches
from yuntai.model.network import Port, VSwitch

_ENI = f"""
    AssociatedPublicIp{{AllocationId PublicIpAddress}}
    Attachment{{DeviceIndex:i InstanceId NetworkCardIndex:i TrunkNetworkInterfaceId}} CreationTime DeleteOnRelease:b
    Description InstanceId {IPV6_SETS} MacAddress NetworkInterfaceId NetworkInterfaceName NetworkInterfaceTrafficMode
    OwnerId PrivateIpAddress PrivateIpSets{{PrivateIpSet[]{{AssociatedPublicIp{{AllocationId PublicIpAddress}} Primary:b
    PrivateDnsName PrivateIpAddress}}}} QueueNumber:i QueuePairNumber:i ResourceGroupId
    SecurityGroupIds{{SecurityGroupId[]}} ServiceID:i ServiceManaged:b SourceDestCheck:b Status
    Tags{{Tag[]{{TagKey TagValue}}}} Type VSwitchId VpcId ZoneId
"""


async def _item(call: Call, port: Port) -> dict[str, Any]:
    vswitch = await call.context.reads.get(VSwitch, port.vswitch)
    return {
        "Attachment": {"InstanceId": port.instance},
        "CreationTime": port.created,
        "DeleteOnRelease": True,
        "InstanceId": port.instance,
        "MacAddress": port.mac,
        "NetworkInterfaceId": port.eni,
        "NetworkInterfaceTrafficMode": "Standard",
        "OwnerId": str(account_number(port.account)),
        "PrivateIpAddress": port.ip,
        "PrivateIpSets": {"PrivateIpSet": [{"Primary": True, "PrivateIpAddress": port.ip}]},
        "QueueNumber": 1,
        "SecurityGroupIds": {"SecurityGroupId": port.security_groups},
        "SourceDestCheck": True,
        "Status": "InUse" if port.instance else "Available",
        "Type": "Primary" if port.primary else "Secondary",
        "VSwitchId": port.vswitch,
        "VpcId": port.vpc,
        "ZoneId": vswitch.value.zone if vswitch is not None else call.context.zone,
    }


@action(
    ECS,
    "DescribeNetworkInterfaces",
    f"""NetworkInterfaceId[] InstanceId VpcId VSwitchId SecurityGroupId PrimaryIpAddress PrivateIpAddress[]
    {PAGES}{TOKENS}""",
    f"NetworkInterfaceSets{{NetworkInterfaceSet[]{{{_ENI}}}}} NextToken PageNumber:i PageSize:i TotalCount:i",
)
async def describe_network_interfaces(call: Call) -> dict[str, Any]:
    """List network interfaces; each instance has its primary one."""
    page = await vswitches.describe_network_interfaces(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=call.texts("NetworkInterfaceId"),
        instance_id=call.text("InstanceId"),
        vpc_id=call.text("VpcId"),
        vswitch_id=call.text("VSwitchId"),
        security_group_id=call.text("SecurityGroupId"),
        private_ip=call.text("PrimaryIpAddress") or next(iter(call.texts("PrivateIpAddress")), ""),
    )
    rows = [await _item(call, port) for port in page.items]
    return paged(page, "NetworkInterfaceSets", "NetworkInterfaceSet", rows)
