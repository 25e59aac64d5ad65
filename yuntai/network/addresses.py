"""Which address and MAC is whose. Pure.

In a vSwitch the first usable address is the router's and the last three are the system's, as at Alibaba Cloud; the
third-last is the host-local service port's. On the provider network the first fifteen are the hosts' own.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROVIDER_CIDR = "100.64.0.0/24"
PROVIDER_GATEWAY = "100.64.0.1"
PROVIDER_HOSTS = 15
# Both well-known addresses of a metadata service: Alibaba Cloud's own, and everybody else's (EC2, RFC 3927 range).
METADATA = ("100.100.100.200", "169.254.169.254")
GUEST_MAC_PREFIX = "00:16:3e"
SYSTEM_LAST = 3
PREFIX_MAX = 29


class AddressError(ValueError):
    """A network cannot be used; the text says which, and what would do."""


def subnet(cidr: str) -> ipaddress.IPv4Network:
    """Return the network of a vSwitch; raise :class:`AddressError` where it has no room for the system's addresses."""
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise AddressError(f"CIDR {cidr!r} is not an IPv4 network: {error}; write it as 10.0.1.0/24") from error
    if network.prefixlen > PREFIX_MAX:
        raise AddressError(f"CIDR {cidr!r} is too small, four addresses are the system's; use up to /{PREFIX_MAX}")
    return network


def gateway(cidr: str) -> str:
    """Return the router's address in a vSwitch: the first usable one."""
    return str(subnet(cidr)[1])


def service(cidr: str) -> str:
    """Return the address of the host-local services: the third-last usable one."""
    return str(subnet(cidr)[-1 - SYSTEM_LAST])


def usable(cidr: str) -> Iterator[str]:
    """Yield the addresses that guests may have, in order."""
    network = subnet(cidr)
    for offset in range(2, network.num_addresses - 1 - SYSTEM_LAST):
        yield str(network[offset])


def is_usable(cidr: str, address: str) -> bool:
    """Tell whether a guest of the vSwitch may have this address, without walking the network."""
    network = subnet(cidr)
    try:
        offset = int(ipaddress.IPv4Address(address)) - int(network.network_address)
    except ValueError:
        return False
    return 2 <= offset < network.num_addresses - 1 - SYSTEM_LAST


def external_pool() -> Iterator[str]:
    """Yield the provider-network addresses that routers may have, in order."""
    network = ipaddress.IPv4Network(PROVIDER_CIDR)
    for offset in range(PROVIDER_HOSTS + 1, network.num_addresses - 1):
        yield str(network[offset])


def guest_mac(address: str) -> str:
    """Return the MAC of a guest with this address: Alibaba's prefix and the address's last three bytes.

    A VPC is at most a /8, so no two guests of one VPC share a MAC, and nobody needs a table to see to that.
    """
    tail = ipaddress.IPv4Address(address).packed[1:]
    return GUEST_MAC_PREFIX + "".join(f":{byte:02x}" for byte in tail)


def system_mac(name: str) -> str:
    """Return the MAC of one of the system's own ports: locally administered, always the same for the same name."""
    digest = hashlib.blake2s(name.encode(), digest_size=5).digest()
    return "02" + "".join(f":{byte:02x}" for byte in digest)
