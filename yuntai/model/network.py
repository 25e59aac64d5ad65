"""VPCs, vSwitches, security groups and ports."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from yuntai.model.base import Record


class Vpc(Record, frozen=True, kw_only=True):
    """A tenant's private network: an OVN logical router."""

    KIND: ClassVar[str] = "vpc"

    account: str
    name: str = ""
    description: str = ""
    cidr: str
    status: Literal["Pending", "Available", "Deleting"] = "Available"
    is_default: bool = False
    ext_ip: str = ""  # the router's SNAT address on the provider network, allocated at create
    tunnel_key: int = 0
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str
    route_table: str
    router: str


class VSwitch(Record, frozen=True, kw_only=True):
    """A subnet: an OVN logical switch.

    The first address is the gateway; the last three usable ones are the system's, the third-last the host-local
    service port: metadata and the operator's way in.
    """

    KIND: ClassVar[str] = "vswitch"

    account: str
    vpc: str
    zone: str
    name: str = ""
    description: str = ""
    cidr: str
    status: Literal["Pending", "Available", "Deleting"] = "Available"
    is_default: bool = False
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a security group, with the field values of the ECS API."""

    id: str
    direction: Literal["ingress", "egress"]
    protocol: Literal["tcp", "udp", "icmp", "gre", "all"]
    port_range: str = "-1/-1"  # "22/22"; "-1/-1" = any
    cidr: str = ""  # the peer: a CIDR …
    group: str = ""  # … or another security group
    policy: Literal["accept", "drop"] = "accept"
    priority: int = 1  # 1 (first) to 100
    description: str = ""
    created: str = ""


class SecurityGroup(Record, frozen=True, kw_only=True):
    """A set of ports with one set of rules.

    Members of a group reach each other; ingress is refused by default, egress allowed.
    """

    KIND: ClassVar[str] = "security_group"

    account: str
    vpc: str
    name: str = ""
    description: str = ""
    kind: Literal["normal", "enterprise"] = "normal"
    inner_access: Literal["Accept", "Drop"] = "Accept"
    rules: tuple[Rule, ...] = ()
    is_default: bool = False
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    created: str


class Port(Record, frozen=True, kw_only=True):
    """A virtual NIC.

    ``id`` is a UUID: it is also the OVN logical port's name and libvirt's interfaceid, which must be one.
    """

    KIND: ClassVar[str] = "port"

    account: str
    eni: str  # "eni-…", the id that the API shows
    vpc: str
    vswitch: str
    mac: str
    ip: str
    security_groups: tuple[str, ...]
    instance: str = ""
    hostname: str = ""
    host: str = ""  # requested chassis; "" = wherever it appears
    destination: str = ""  # the host that a live migration in progress goes to; the port is bound on both
    primary: bool = True
    # of secondary ones
    state: Literal["", "Attaching", "Detaching"] = ""  # "" = with its instance, or free when it has none
    job: str = ""  # the unfinished job that works on it
    reason: str = ""  # why the last operation on it failed
    name: str = ""
    description: str = ""
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    delete_with_instance: bool = True
    created: str
