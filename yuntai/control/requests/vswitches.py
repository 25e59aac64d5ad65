"""Requests on vSwitches and network interfaces."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.requests import addresses, quotas, validate
from yuntai.control.requests.base import matches, mine, owned, paginate, transact
from yuntai.control.requests.vpcs import need_vpc
from yuntai.control.unit import Unit
from yuntai.model.base import new_id, now_utc
from yuntai.model.network import Port, Vpc, VSwitch

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Page, Paging
    from yuntai.state import Store

_MASK_MIN, _MASK_MAX = 16, 29


async def create_vswitch(
    store: Store,
    caller: Caller,
    *,
    vpc_id: str,
    cidr: str,
    zone_id: str = "",
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
) -> str:
    """CreateVSwitch: a block of the VPC that overlaps no other vSwitch."""
    if not cidr:
        raise errors.missing("CidrBlock")
    block = validate.cidr("CidrBlock", cidr)
    if not _MASK_MIN <= block.prefixlen <= _MASK_MAX:
        raise errors.invalid(
            "CidrBlock", cidr, f"use a mask from /{_MASK_MIN} to /{_MASK_MAX}", "InvalidCidrBlock.Malformed"
        )
    validate.zone(zone_id, caller.zone)
    validate.name("VSwitchName", name)
    validate.description("Description", description)
    checked = validate.tags(tags)

    async def body(unit: Unit) -> str:
        vpc = await need_vpc(unit, caller, vpc_id)
        vswitch = await add_vswitch(unit, caller, vpc, block, name=name, description=description, tags=checked)
        return vswitch.id

    arguments = [vpc_id, cidr, zone_id, name, description, checked]
    return await transact(store, caller, body, str, action="CreateVSwitch", token=client_token, arguments=arguments)


async def add_vswitch(
    unit: Unit,
    caller: Caller,
    vpc: Vpc,
    block: ipaddress.IPv4Network,
    *,
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    is_default: bool = False,
) -> VSwitch:
    """Write a vSwitch in ``unit`` if its block lies in the VPC's and beside its neighbours'."""
    if not block.subnet_of(ipaddress.IPv4Network(vpc.cidr)):
        raise errors.invalid("CidrBlock", block, f"use a part of the VPC's {vpc.cidr}", "InvalidCidrBlock")
    for other in await unit.list(VSwitch):
        if other.vpc == vpc.id and block.overlaps(ipaddress.IPv4Network(other.cidr)):
            raise errors.invalid(
                "CidrBlock", block, f"{other.id} has {other.cidr}; use one beside it", "InvalidCidrBlock.Overlapped"
            )
    await quotas.need(unit, caller.account, vswitches=1)
    vswitch = VSwitch(
        id=new_id("vsw"),
        account=caller.account,
        vpc=vpc.id,
        zone=caller.zone,
        name=name,
        description=description,
        cidr=str(block),
        is_default=is_default,
        tags=tags or {},
        created=now_utc(),
    )
    unit.add(vswitch)
    return vswitch


async def need_vswitch(unit: Unit, caller: Caller, vswitch_id: str) -> VSwitch:
    """Return the caller's vSwitch or the API's error."""
    return await owned(
        unit, VSwitch, vswitch_id, caller, field="VSwitchId", what="VSwitch", code="InvalidVSwitchId.NotFound"
    )


async def delete_vswitch(store: Store, caller: Caller, vswitch_id: str) -> None:
    """DeleteVSwitch: refused while a network interface is in it."""

    async def body(unit: Unit) -> None:
        vswitch = await need_vswitch(unit, caller, vswitch_id)
        users = [p.instance or p.eni for p in await unit.list(Port) if p.vswitch == vswitch.id]
        if users:
            raise errors.dependency(
                "DependencyViolation",
                f"The vSwitch {vswitch.id} is in use by {', '.join(users[:5])}; delete what is in it first.",
            )
        unit.delete(VSwitch, vswitch.id)

    await transact(store, caller, body, type(None))


async def modify_vswitch_attribute(
    store: Store, caller: Caller, vswitch_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifyVSwitchAttribute."""
    validate.name("VSwitchName", name or "")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        vswitch = await need_vswitch(unit, caller, vswitch_id)
        unit.put(
            msgspec.structs.replace(
                vswitch,
                name=vswitch.name if name is None else name,
                description=vswitch.description if description is None else description,
            )
        )

    await transact(store, caller, body, type(None))


async def describe_vswitches(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    vpc_id: str = "",
    name: str = "",
    zone_id: str = "",
    is_default: bool | None = None,
    tags: dict[str, str | None] | None = None,
) -> Page[VSwitch]:
    """DescribeVSwitches."""
    found = [
        vswitch
        for vswitch in await mine(store, VSwitch, caller)
        if matches(vswitch, ids=ids, name=name, tags=tags)
        and vpc_id in ("", vswitch.vpc)
        and zone_id in ("", vswitch.zone)
        and is_default in (None, vswitch.is_default)
    ]
    return paginate(found, paging)


async def get_vswitch(store: Store, caller: Caller, vswitch_id: str) -> VSwitch:
    """Return one vSwitch, or raise InvalidVSwitchId.NotFound (404)."""
    return await need_vswitch(Unit(store), caller, vswitch_id)


async def free_addresses(store: Store, caller: Caller, vswitch_ids: tuple[str, ...]) -> dict[str, int]:
    """Return the AvailableIpAddressCount of each vSwitch."""
    unit = Unit(store)
    ports = await unit.list(Port)
    vswitches = [await need_vswitch(unit, caller, vswitch_id) for vswitch_id in vswitch_ids]
    return {s.id: addresses.free_count(s.cidr, (p.ip for p in ports if p.vswitch == s.id)) for s in vswitches}


async def describe_network_interfaces(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    instance_id: str = "",
    vpc_id: str = "",
    vswitch_id: str = "",
    security_group_id: str = "",
    private_ip: str = "",
) -> Page[Port]:
    """DescribeNetworkInterfaces; ``ids`` are those that the API shows (eni-…)."""
    found = [
        port
        for port in await mine(store, Port, caller)
        if (not ids or port.eni in ids)
        and instance_id in ("", port.instance)
        and vpc_id in ("", port.vpc)
        and vswitch_id in ("", port.vswitch)
        and (not security_group_id or security_group_id in port.security_groups)
        and private_ip in ("", port.ip)
    ]
    return paginate(found, paging)
