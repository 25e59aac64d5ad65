"""Security groups as OVN access-control lists. Pure.

Every guest port is a member of the platform's port group, which holds what no tenant may change and the defaults
(ingress refused, egress allowed), and of the port group of each of its security groups. OVN takes the verdict of the
highest priority over all lists of a port, which is also the ECS rule for several groups on one NIC. From above:

======  ==============================================================================================
 prio   what
======  ==============================================================================================
 32001  a guest that answers DHCP requests is cut off: rogue servers
 32000  a guest may ask for an address, and may reach the metadata service
 1000+  the tenant's rules: 1 (first) to 100 (last); at equal priority drop comes before accept
   500  members of a group reach each other, where the group says so
   100  the defaults: egress allowed with its answers, ingress refused
======  ==============================================================================================

Sources: ovn-nb(5) for ACL columns and match language; the ECS manual's pages "security group rules" and "basic
security groups: internal access" for the order. ``ip`` in a match leaves ARP alone: ovn-sb(5).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from yuntai.network import addresses, names
from yuntai.network.rows import ID_KEY, Key, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from yuntai.model.network import Rule, SecurityGroup

PLATFORM = "platform"
PLATFORM_GROUP = "pg_yuntai_guests"
_ROGUE_DHCP, _ALWAYS, _RULES, _INNER, _DEFAULT = 32001, 32000, 1000, 500, 100
_PRIORITY_MIN, _PRIORITY_MAX = 1, 100
_PROTOCOLS = {"all": "ip4", "tcp": "ip4 && tcp", "udp": "ip4 && udp", "icmp": "icmp4", "gre": "ip4 && ip.proto == 47"}
_ANY_PORT = {"-1/-1", "1/65535", "0/65535", ""}
_ACL_NAME_MAX = 63


class RuleError(ValueError):
    """A rule cannot be expressed; the text says which field and why. Such a rule is left out, so nothing opens."""


def platform_rows(members: Collection[Key]) -> dict[Key, Row]:
    """Return the port group that every guest port is in."""
    guest_in, guest_out = f"inport == @{PLATFORM_GROUP}", f"outport == @{PLATFORM_GROUP}"
    metadata = ", ".join(addresses.METADATA)
    rows = dict(
        (
            _acl(f"{PLATFORM}/rogue-dhcp", "from-lport", _ROGUE_DHCP, f"{guest_in} && ip4 && udp.src == 67", "drop"),
            _acl(
                f"{PLATFORM}/dhcp",
                "from-lport",
                _ALWAYS,
                f"{guest_in} && ip4 && udp.src == 68 && udp.dst == 67",
                "allow",
            ),
            _acl(
                f"{PLATFORM}/metadata",
                "from-lport",
                _ALWAYS,
                f"{guest_in} && ip4.dst == {{{metadata}}} && tcp.dst == 80",
                "allow-related",
            ),
            _acl(f"{PLATFORM}/egress", "from-lport", _DEFAULT, f"{guest_in} && ip4", "allow-related"),
            _acl(f"{PLATFORM}/ingress", "to-lport", _DEFAULT, f"{guest_out} && ip", "drop"),
        )
    )
    return {Key("Port_Group", PLATFORM): _group(PLATFORM, PLATFORM_GROUP, members, rows), **rows}


def group_rows(
    group: SecurityGroup, members: Collection[Key], known: Mapping[str, SecurityGroup]
) -> tuple[dict[Key, Row], list[str]]:
    """Return a security group's rows, and what of it cannot be expressed and why."""
    name, problems = names.port_group(group.id), []
    rows: dict[Key, Row] = {}
    for rule in group.rules:
        try:
            key, row = _rule(name, group, rule, known)
        except RuleError as error:
            problems.append(f"security group {group.id}, rule {rule.id} is left out: {error}")
        else:
            rows[key] = row
    if group.kind == "normal" and group.inner_access == "Accept":
        match = f"outport == @{name} && ip4.src == ${name}_ip4"
        rows |= [_acl(f"{group.id}/inner", "to-lport", _INNER, match, "allow-related")]
    rows[Key("Port_Group", group.id)] = _group(group.id, name, members, list(rows))
    return rows, problems


def rule_priority(rule: Rule) -> int:
    """Return a rule's OVN priority, where higher wins: the lower ECS number first, and drop before accept."""
    if not _PRIORITY_MIN <= rule.priority <= _PRIORITY_MAX:
        raise RuleError(f"priority is {rule.priority}; use {_PRIORITY_MIN} to {_PRIORITY_MAX}")
    return _RULES + 2 * (_PRIORITY_MAX - rule.priority) + (rule.policy == "drop")


def rule_match(name: str, rule: Rule, known: Collection[str]) -> str:
    """Return a rule's match for the port group ``name``."""
    ingress = rule.direction == "ingress"
    parts = [f"{'outport' if ingress else 'inport'} == @{name}", _PROTOCOLS[rule.protocol], *_ports(rule)]
    field = "ip4.src" if ingress else "ip4.dst"
    if rule.group:
        if rule.group not in known:
            raise RuleError(f"its peer group {rule.group} does not exist; name one that does, or a CIDR")
        parts.append(f"{field} == ${names.port_group(rule.group)}_ip4")
    elif (network := _network(rule.cidr)) is not None:
        parts.append(f"{field} == {network}")
    return " && ".join(parts)


def _rule(name: str, group: SecurityGroup, rule: Rule, known: Mapping[str, SecurityGroup]) -> tuple[Key, Row]:
    direction = "to-lport" if rule.direction == "ingress" else "from-lport"
    action = "allow-related" if rule.policy == "accept" else "drop"
    match = rule_match(name, rule, known)
    return _acl(f"{group.id}/{rule.id}", direction, rule_priority(rule), match, action)


def _ports(rule: Rule) -> Iterator[str]:
    if rule.port_range in _ANY_PORT:
        return
    if rule.protocol not in {"tcp", "udp"}:
        raise RuleError(f"port_range is {rule.port_range!r}, but {rule.protocol} has no ports; use -1/-1")
    first, _, last = rule.port_range.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536):
        raise RuleError(f'port_range is {rule.port_range!r}; write it as "first/last", from 1 to 65535')
    field = f"{rule.protocol}.dst"
    if int(first) == int(last):
        yield f"{field} == {int(first)}"
    else:
        yield f"{int(first)} <= {field} <= {int(last)}"


def _network(cidr: str) -> str | None:
    """Return the peer in OVN's notation, None for everybody."""
    if not cidr:
        return None
    try:
        network = ipaddress.IPv4Network(cidr, strict=False)
    except ValueError as error:
        raise RuleError(f"cidr is {cidr!r}: {error}; write it as 10.0.0.0/8") from error
    if network.prefixlen == 0:
        return None
    # OVN's compiler refuses nothing here, but prints a lone address without /32: keep to one spelling.
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _acl(yuntai_id: str, direction: str, priority: int, match: str, action: str) -> tuple[Key, Row]:
    return Key("ACL", yuntai_id), Row(
        columns={
            "direction": direction,
            "priority": priority,
            "match": match,
            "action": action,
            # The name is what ovn-trace and the ACL log print; it is how a drop is traced to its rule.
            "name": (yuntai_id[:_ACL_NAME_MAX],),
            "external_ids": {ID_KEY: yuntai_id},
        }
    )


def _group(yuntai_id: str, name: str, members: Collection[Key], acls: Collection[Key]) -> Row:
    return Row(
        columns={"name": name, "external_ids": {ID_KEY: yuntai_id}},
        refs={"ports": frozenset(members), "acls": frozenset(acls)},
    )
