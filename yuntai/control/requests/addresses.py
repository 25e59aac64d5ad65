"""Addresses derived from the records that use them: IPs of ports, outside addresses of routers."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from yuntai.control import errors
from yuntai.control.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SYSTEM_FIRST = 2  # network address and gateway
SYSTEM_LAST = 4  # three system addresses and the broadcast
ROUTER_NETWORK = ipaddress.IPv4Network("100.64.0.0/24")
ROUTER_FIRST = 10


def tenant_range(cidr: str) -> range:
    """Return the addresses of a vSwitch, as integers, that tenants may use."""
    network = ipaddress.IPv4Network(cidr)
    first = int(network.network_address)
    return range(first + SYSTEM_FIRST, first + network.num_addresses - SYSTEM_LAST)


def free_count(cidr: str, used: Iterable[str]) -> int:
    """Return how many addresses of a vSwitch are free."""
    return len(tenant_range(cidr)) - len(set(used))


def free_ips(cidr: str, used: Iterable[str]) -> Iterator[str]:
    """Yield the free addresses of a vSwitch, lowest first."""
    taken = {int(ipaddress.IPv4Address(ip)) for ip in used}
    for number in tenant_range(cidr):
        if number not in taken:
            yield str(ipaddress.IPv4Address(number))


def check_ip(wanted: str, vswitch: str, cidr: str, used: Iterable[str]) -> str:
    """Return the wanted address if it is in the vSwitch, not the system's, and free."""
    try:
        number = int(ipaddress.IPv4Address(wanted))
    except ValueError as error:
        raise errors.invalid(
            "PrivateIpAddress", wanted, "write it as an IPv4 address", "InvalidPrivateIpAddress.Malformed"
        ) from error
    allowed = tenant_range(cidr)
    if number not in allowed:
        low, high = ipaddress.IPv4Address(allowed.start), ipaddress.IPv4Address(allowed.stop - 1)
        raise errors.invalid(
            "PrivateIpAddress",
            wanted,
            f"use one from {low} to {high} of the vSwitch {vswitch}",
            "InvalidPrivateIpAddress.Malformed",
        )
    if wanted in set(used):
        raise ApiError(
            "InvalidPrivateIpAddress.Duplicated",
            f'The specified PrivateIpAddress "{wanted}" is in use in {vswitch}; choose another, or leave it out.',
        )
    return wanted


def no_ip_left(vswitch: str, cidr: str) -> ApiError:
    """Return the error for a vSwitch that is full."""
    return ApiError(
        "InvalidVSwitchId.IpNotEnough",
        f"The vSwitch {vswitch} ({cidr}) has no free address left; release some, or use another vSwitch.",
    )


def router_ip(used: Iterable[str]) -> str:
    """Return the lowest free outside address for a VPC's router."""
    taken = set(used)
    for offset in range(ROUTER_FIRST, ROUTER_NETWORK.num_addresses - 1):
        address = str(ROUTER_NETWORK[offset])
        if address not in taken:
            return address
    raise ApiError(
        "QuotaExceeded.Vpc",
        f"No outside address for another router is left in {ROUTER_NETWORK}; delete a VPC that is not used.",
        errors.FORBIDDEN,
    )
