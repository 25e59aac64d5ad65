"""Rules of security groups: from what a client sends to a record, and when two of them are the same."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Literal, cast

from yuntai.control import errors
from yuntai.control.requests import validate
from yuntai.model.base import new_id, now_utc
from yuntai.model.network import Rule

if TYPE_CHECKING:
    from yuntai.control.requests.types import RuleSpec

Direction = Literal["ingress", "egress"]
PROTOCOLS = ("tcp", "udp", "icmp", "gre", "all")
ANY_PORT = "-1/-1"
PRIORITY_MAX = 100
PORT_MAX = 65535
_PORTS = re.compile(r"(\d{1,5})/(\d{1,5})")


def build(spec: RuleSpec, direction: str) -> Rule:
    """Return the record of a rule; raise the API's error for a field that cannot be."""
    if direction not in ("ingress", "egress"):
        raise errors.invalid("Direction", direction, "use ingress or egress")
    protocol = spec.protocol.lower()
    if not protocol:
        raise errors.missing("IpProtocol")
    if protocol not in PROTOCOLS:
        raise errors.invalid(
            "IpProtocol", spec.protocol, f"use one of {', '.join(PROTOCOLS)}", "InvalidIpProtocol.ValueNotSupported"
        )
    policy = (spec.policy or "accept").lower()
    if policy not in ("accept", "drop"):
        raise errors.invalid("Policy", spec.policy, "use accept or drop", "InvalidPolicy.Malformed")
    validate.description("Description", spec.description)
    return Rule(
        id=new_id("sgr"),
        direction=cast("Direction", direction),
        protocol=cast("Literal['tcp', 'udp', 'icmp', 'gre', 'all']", protocol),
        port_range=_ports(spec.port_range, protocol),
        cidr=_peer(spec, direction),
        group=spec.group,
        policy=cast("Literal['accept', 'drop']", policy),
        priority=_priority(spec.priority),
        description=spec.description,
        created=now_utc(),
    )


def same(one: Rule, other: Rule) -> bool:
    """Tell whether two rules say the same (description and id aside)."""
    return _meaning(one) == _meaning(other)


def _meaning(rule: Rule) -> tuple[object, ...]:
    peer = str(ipaddress.IPv4Network(rule.cidr)) if rule.cidr else ""
    return (rule.direction, rule.protocol, rule.port_range, peer, rule.group, rule.policy, rule.priority)


def _ports(value: str, protocol: str) -> str:
    if protocol not in ("tcp", "udp"):
        if value not in ("", ANY_PORT):
            raise errors.invalid("PortRange", value, f"use {ANY_PORT} for {protocol}", "InvalidIpPortRange.Malformed")
        return ANY_PORT
    if not value:
        raise errors.missing("PortRange")
    if value == ANY_PORT:
        return f"1/{PORT_MAX}"
    found = _PORTS.fullmatch(value)
    if not found or not 1 <= int(found[1]) <= int(found[2]) <= PORT_MAX:
        raise errors.invalid(
            "PortRange", value, f"write it as first/last, such as 22/22 or 1/{PORT_MAX}", "InvalidIpPortRange.Malformed"
        )
    return f"{int(found[1])}/{int(found[2])}"


def _peer(spec: RuleSpec, direction: str) -> str:
    side = "Source" if direction == "ingress" else "Dest"
    if bool(spec.cidr) == bool(spec.group):
        if spec.cidr:
            raise errors.invalid(f"{side}CidrIp", spec.cidr, f"give it or {side}GroupId, not both")
        raise errors.missing(f"{side}CidrIp")
    if spec.cidr:
        validate.cidr(f"{side}CidrIp", spec.cidr, code=f"Invalid{side}CidrIp.Malformed")
    return spec.cidr


def _priority(value: str) -> int:
    if not value:
        return 1
    if not value.isdecimal() or not 1 <= int(value) <= PRIORITY_MAX:
        raise errors.invalid("Priority", value, f"use 1 to {PRIORITY_MAX}", "InvalidPriority.ValueNotSupported")
    return int(value)
