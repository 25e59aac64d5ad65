"""Requests on VPCs, vSwitches and network interfaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        CreatedVpc,
        Page,
        Paging,
    )
    from yuntai.model.network import Port, Vpc, VSwitch
    from yuntai.state import Store


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
    """CreateVpc; cidr empty = 172.16.0.0/12."""
    raise NotImplementedError


async def delete_vpc(store: Store, caller: Caller, vpc_id: str, *, dry_run: bool = False) -> None:
    """DeleteVpc."""
    raise NotImplementedError


async def modify_vpc_attribute(
    store: Store, caller: Caller, vpc_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifyVpcAttribute."""
    raise NotImplementedError


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
    raise NotImplementedError


async def get_vpc(store: Store, caller: Caller, vpc_id: str) -> Vpc:
    """One VPC, or InvalidVpcID.NotFound (404)."""
    raise NotImplementedError


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
    """CreateVSwitch."""
    raise NotImplementedError


async def delete_vswitch(store: Store, caller: Caller, vswitch_id: str) -> None:
    """DeleteVSwitch."""
    raise NotImplementedError


async def modify_vswitch_attribute(
    store: Store, caller: Caller, vswitch_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifyVSwitchAttribute."""
    raise NotImplementedError


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
    raise NotImplementedError


async def get_vswitch(store: Store, caller: Caller, vswitch_id: str) -> VSwitch:
    """One vSwitch, or InvalidVSwitchId.NotFound (404)."""
    raise NotImplementedError


async def free_addresses(store: Store, caller: Caller, vswitch_id: str) -> int:
    """AvailableIpAddressCount of a vSwitch."""
    raise NotImplementedError


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
    """DescribeNetworkInterfaces: ids are eni-…"""
    raise NotImplementedError
