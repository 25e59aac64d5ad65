"""Actions on elastic network interfaces."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import account_number, paged, tag_set
from yuntai.api.instance_shapes import IPV6_SETS
from yuntai.api.registry import ECS, PAGES, TAGS, TOKENS, Call, action
from yuntai.control.requests import enis, vswitches
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


_CREATE = f"""
    VSwitchId! SecurityGroupId SecurityGroupIds[] PrimaryIpAddress PrivateIpAddress[] NetworkInterfaceName Description
    DeleteOnRelease:b ClientToken{TAGS}
"""
_CREATED = f"""
    Description {IPV6_SETS} MacAddress NetworkInterfaceId NetworkInterfaceName OwnerId PrivateIpAddress
    PrivateIpSets{{PrivateIpSet[]{{Primary:b PrivateIpAddress}}}} ResourceGroupId
    SecurityGroupIds{{SecurityGroupId[]}} ServiceID:i ServiceManaged:b SourceDestCheck:b Status
    Tags{{Tag[]{{TagKey TagValue}}}} Type VSwitchId VpcId ZoneId
"""


async def _shown(call: Call, port: Port) -> dict[str, Any]:
    """Return what a new card and a listed one have in common."""
    vswitch = await call.context.reads.get(VSwitch, port.vswitch)
    return {
        "Description": port.description,
        "MacAddress": port.mac,
        "NetworkInterfaceId": port.eni,
        "NetworkInterfaceName": port.name,
        "OwnerId": str(account_number(port.account)),
        "PrivateIpAddress": port.ip,
        "PrivateIpSets": {"PrivateIpSet": [{"Primary": True, "PrivateIpAddress": port.ip}]},
        "SecurityGroupIds": {"SecurityGroupId": port.security_groups},
        "SourceDestCheck": True,
        "Status": port.state or ("InUse" if port.instance else "Available"),
        "Tags": tag_set(port.tags),
        "Type": "Primary" if port.primary else "Secondary",
        "VSwitchId": port.vswitch,
        "VpcId": port.vpc,
        "ZoneId": vswitch.value.zone if vswitch is not None else call.context.zone,
    }


async def _item(call: Call, port: Port) -> dict[str, Any]:
    return {
        **await _shown(call, port),
        "Attachment": {"InstanceId": port.instance},
        "CreationTime": port.created,
        "DeleteOnRelease": port.primary or port.delete_with_instance,
        "InstanceId": port.instance,
        "NetworkInterfaceTrafficMode": "Standard",
        "QueueNumber": 1,
    }


def _groups(call: Call) -> tuple[str, ...]:
    one = call.text("SecurityGroupId")
    return (*((one,) if one else ()), *call.texts("SecurityGroupIds"))


@action(ECS, "CreateNetworkInterface", _CREATE, _CREATED)
async def create_network_interface(call: Call) -> dict[str, Any]:
    """Make a secondary network card that no instance has yet."""
    port = await enis.create_network_interface(
        call.context.writes,
        call.caller,
        vswitch_id=call.text("VSwitchId"),
        security_group_ids=_groups(call),
        primary_ip=call.text("PrimaryIpAddress") or next(iter(call.texts("PrivateIpAddress")), ""),
        name=call.text("NetworkInterfaceName"),
        description=call.text("Description"),
        delete_on_release=call.args.get("DeleteOnRelease", True),
        tags=call.tags(),
        client_token=call.text("ClientToken"),
    )
    return await _shown(call, port)


@action(ECS, "AttachNetworkInterface", "InstanceId! NetworkInterfaceId!")
async def attach_network_interface(call: Call) -> dict[str, Any]:
    """Plug a card into an instance, running or stopped."""
    await enis.attach_network_interface(
        call.context.writes, call.caller, call.text("InstanceId"), call.text("NetworkInterfaceId")
    )
    return {}


@action(ECS, "DetachNetworkInterface", "InstanceId! NetworkInterfaceId!")
async def detach_network_interface(call: Call) -> dict[str, Any]:
    """Unplug a card from its instance."""
    await enis.detach_network_interface(
        call.context.writes, call.caller, call.text("InstanceId"), call.text("NetworkInterfaceId")
    )
    return {}


@action(ECS, "DeleteNetworkInterface", "NetworkInterfaceId!")
async def delete_network_interface(call: Call) -> dict[str, Any]:
    """Delete a card that no instance has."""
    await enis.delete_network_interface(call.context.writes, call.caller, call.text("NetworkInterfaceId"))
    return {}


@action(
    ECS,
    "ModifyNetworkInterfaceAttribute",
    "NetworkInterfaceId! NetworkInterfaceName Description:t DeleteOnRelease:b SecurityGroupId[]",
)
async def modify_network_interface_attribute(call: Call) -> dict[str, Any]:
    """Change what may change of a card."""
    await enis.modify_network_interface(
        call.context.writes,
        call.caller,
        call.text("NetworkInterfaceId"),
        name=call.args.get("NetworkInterfaceName"),
        description=call.args.get("Description"),
        delete_on_release=call.args.get("DeleteOnRelease"),
        security_group_ids=call.texts("SecurityGroupId"),
    )
    return {}


@action(
    ECS,
    "DescribeNetworkInterfaces",
    f"""NetworkInterfaceId[] InstanceId VpcId VSwitchId SecurityGroupId PrimaryIpAddress PrivateIpAddress[]
    {PAGES}{TOKENS}""",
    f"NetworkInterfaceSets{{NetworkInterfaceSet[]{{{_ENI}}}}} NextToken PageNumber:i PageSize:i TotalCount:i",
)
async def describe_network_interfaces(call: Call) -> dict[str, Any]:
    """List network interfaces: each instance has its primary one, and may have others."""
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
