"""What an account gets on first need: one default VPC, one default vSwitch in it, one default group in each VPC.

All of it is written in the transaction of the request that needs it, under the account's guard, so there is never a
second one.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from yuntai.control.requests import quotas, rules
from yuntai.control.requests.types import RuleSpec
from yuntai.control.requests.vpcs import add_vpc
from yuntai.control.requests.vswitches import add_vswitch
from yuntai.model.base import new_id, now_utc
from yuntai.model.network import SecurityGroup, Vpc, VSwitch

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller
    from yuntai.control.unit import Unit

VPC_CIDR = "172.31.0.0/16"
VSWITCH_CIDR = "172.31.0.0/20"
# What a new user needs to reach the guest at all, and nothing else.
_OPEN = (
    RuleSpec(protocol="icmp", cidr="0.0.0.0/0", priority="100", description="default: ping"),
    RuleSpec(protocol="tcp", port_range="22/22", cidr="0.0.0.0/0", priority="100", description="default: SSH"),
    RuleSpec(protocol="tcp", port_range="3389/3389", cidr="0.0.0.0/0", priority="100", description="default: RDP"),
)


async def default_vpc(unit: Unit, caller: Caller) -> Vpc:
    """Return the account's default VPC; write it if there is none."""
    for vpc in await unit.list(Vpc):
        if vpc.account == caller.account and vpc.is_default:
            return vpc
    return await add_vpc(unit, caller, cidr=VPC_CIDR, name="default", is_default=True)


async def default_vswitch(unit: Unit, caller: Caller) -> VSwitch:
    """Return the zone's default vSwitch; write it, and its VPC, if there is none."""
    for vswitch in await unit.list(VSwitch):
        if vswitch.account == caller.account and vswitch.is_default and vswitch.zone == caller.zone:
            return vswitch
    vpc = await default_vpc(unit, caller)
    return await add_vswitch(unit, caller, vpc, ipaddress.IPv4Network(VSWITCH_CIDR), name="default", is_default=True)


async def default_group(unit: Unit, caller: Caller, vpc_id: str) -> SecurityGroup:
    """Return the default security group of a VPC; write it if there is none."""
    for group in await unit.list(SecurityGroup):
        if group.account == caller.account and group.vpc == vpc_id and group.is_default:
            return group
    await quotas.need(unit, caller.account, security_groups=1)
    group = SecurityGroup(
        id=new_id("sg"),
        account=caller.account,
        vpc=vpc_id,
        name="default",
        description="made by the system",
        rules=tuple(rules.build(spec, "ingress") for spec in _OPEN),
        is_default=True,
        created=now_utc(),
    )
    unit.add(group)
    return group
