"""Requests on VPCs. What depends on a VPC is refused, not deleted along."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.requests import addresses, quotas, validate
from yuntai.control.requests.base import matches, mine, owned, paginate, transact
from yuntai.control.requests.types import CreatedVpc
from yuntai.control.unit import Unit
from yuntai.model.base import new_id, now_utc
from yuntai.model.network import SecurityGroup, Vpc, VSwitch

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Page, Paging
    from yuntai.state import Store

ROUTER_DOMAIN = "router-addresses"
DEFAULT_CIDR = "172.16.0.0/12"
_PRIVATE = tuple(ipaddress.IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
_MASK_MIN, _MASK_MAX = 8, 28


async def create_vpc(
    store: Store,
    caller: Caller,
    *,
    cidr: str = "",
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
    dry_run: bool = False,
) -> CreatedVpc:
    """CreateVpc; an empty ``cidr`` is 172.16.0.0/12."""
    block = check_cidr(cidr or DEFAULT_CIDR)
    validate.name("VpcName", name)
    validate.description("Description", description)
    checked = validate.tags(tags)

    async def body(unit: Unit) -> CreatedVpc:
        vpc = await add_vpc(unit, caller, cidr=block, name=name, description=description, tags=checked)
        return CreatedVpc(vpc_id=vpc.id, router_id=vpc.router, route_table_id=vpc.route_table)

    arguments = [cidr, name, description, checked]
    return await transact(
        store,
        caller,
        body,
        CreatedVpc,
        action="CreateVpc",
        token=client_token,
        arguments=arguments,
        dry_run=dry_run,
    )


def check_cidr(cidr: str) -> str:
    """Return a VPC's block if it is a private network of a usable size."""
    network = validate.cidr("CidrBlock", cidr)
    if not any(network.subnet_of(private) for private in _PRIVATE) or not _MASK_MIN <= network.prefixlen <= _MASK_MAX:
        raise errors.invalid(
            "CidrBlock",
            cidr,
            f"use 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or a part of them down to /{_MASK_MAX}",
            "InvalidCidrBlock.Malformed",
        )
    return str(network)


async def add_vpc(
    unit: Unit,
    caller: Caller,
    *,
    cidr: str,
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    is_default: bool = False,
) -> Vpc:
    """Write a VPC in ``unit``: its quota is checked and its router gets an outside address."""
    await unit.guard(ROUTER_DOMAIN)
    await quotas.need(unit, caller.account, vpcs=1)
    vpc = Vpc(
        id=new_id("vpc"),
        account=caller.account,
        name=name,
        description=description,
        cidr=cidr,
        is_default=is_default,
        ext_ip=addresses.router_ip(v.ext_ip for v in await unit.list(Vpc)),
        tags=tags or {},
        created=now_utc(),
        route_table=new_id("vtb"),
        router=new_id("vrt"),
    )
    unit.add(vpc)
    return vpc


async def need_vpc(unit: Unit, caller: Caller, vpc_id: str) -> Vpc:
    """Return the caller's VPC or the API's error."""
    return await owned(unit, Vpc, vpc_id, caller, field="VpcId", what="VPC", code="InvalidVpcID.NotFound")


async def delete_vpc(store: Store, caller: Caller, vpc_id: str, *, dry_run: bool = False) -> None:
    """DeleteVpc: refused while it has a vSwitch or a security group of the tenant's making."""

    async def body(unit: Unit) -> None:
        vpc = await need_vpc(unit, caller, vpc_id)
        vswitches = [s.id for s in await unit.list(VSwitch) if s.vpc == vpc.id]
        if vswitches:
            raise errors.dependency(
                "DependencyViolation.VSwitch",
                f"The VPC {vpc.id} has vSwitches ({', '.join(vswitches[:5])}); delete them first.",
            )
        groups = [g for g in await unit.list(SecurityGroup) if g.vpc == vpc.id]
        kept = [g.id for g in groups if not g.is_default]
        if kept:
            raise errors.dependency(
                "DependencyViolation.SecurityGroup",
                f"The VPC {vpc.id} has security groups ({', '.join(kept[:5])}); delete them first.",
            )
        for group in groups:  # the one that we made ourselves goes with its VPC
            unit.delete(SecurityGroup, group.id)
        unit.delete(Vpc, vpc.id)

    await transact(store, caller, body, type(None), dry_run=dry_run)


async def modify_vpc_attribute(
    store: Store, caller: Caller, vpc_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifyVpcAttribute."""
    validate.name("VpcName", name or "")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        vpc = await need_vpc(unit, caller, vpc_id)
        unit.put(
            msgspec.structs.replace(
                vpc,
                name=vpc.name if name is None else name,
                description=vpc.description if description is None else description,
            )
        )

    await transact(store, caller, body, type(None))


async def describe_vpcs(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    name: str = "",
    is_default: bool | None = None,
    tags: dict[str, str | None] | None = None,
) -> Page[Vpc]:
    """DescribeVpcs."""
    found = [
        vpc
        for vpc in await mine(store, Vpc, caller)
        if matches(vpc, ids=ids, name=name, tags=tags) and is_default in (None, vpc.is_default)
    ]
    return paginate(found, paging)


async def get_vpc(store: Store, caller: Caller, vpc_id: str) -> Vpc:
    """Return one VPC, or raise InvalidVpcID.NotFound (404)."""
    return await need_vpc(Unit(store), caller, vpc_id)
