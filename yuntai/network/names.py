"""Names that the network gives to things on a host and in OVN. Pure; others import these instead of spelling them."""

from __future__ import annotations

import hashlib
from pathlib import Path

NETNS_DIR = Path("/run/netns")
NETNS_PREFIX = "vsw-"
INTEGRATION_BRIDGE = "br-int"
SERVICE_INTERFACE = "eth0"
# The kernel's IFNAMSIZ is 16 with the closing zero: linux/if.h.
INTERFACE_NAME_MAX = 15


def netns(vswitch_id: str) -> str:
    """Return the name of the network namespace that a host keeps for a vSwitch."""
    return f"{NETNS_PREFIX}{vswitch_id}"


def netns_path(vswitch_id: str) -> Path:
    """Return the file that setns(2) takes to enter the namespace of a vSwitch."""
    return NETNS_DIR / netns(vswitch_id)


def host_interface(vswitch_id: str) -> str:
    """Return the name of the host's end of the link into a vSwitch's namespace."""
    return f"ys{_digest(vswitch_id, 6)}"


def passing_interface(vswitch_id: str) -> str:
    """Return the name that the namespace's end has for the moment between its making and its move."""
    return f"yp{_digest(vswitch_id, 6)}"


def service_port(vswitch_id: str) -> str:
    """Return the name of the OVN logical port of a vSwitch's host-local services."""
    return f"{vswitch_id}-service"


def port_group(group_id: str) -> str:
    """Return the OVN port group of a security group; ``$<name>_ip4`` is its address set.

    OVN allows only letters, digits, ``_`` and ``.``: ovn-nb(5), Port_Group.name.
    """
    return "pg_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in group_id)


def _digest(text: str, size_bytes: int) -> str:
    return hashlib.blake2s(text.encode(), digest_size=size_bytes).hexdigest()
