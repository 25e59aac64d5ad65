"""Records for the network's tests."""

from __future__ import annotations

from typing import Any

from yuntai.model.cluster import Host
from yuntai.model.network import Port, Rule, SecurityGroup, Vpc, VSwitch
from yuntai.network import addresses

CREATED = "2026-01-01T00:00:00Z"


def vpc(vpc_id: str = "vpc-1", **changes: Any) -> Vpc:
    fields = {"cidr": "10.0.0.0/8", "ext_ip": "100.64.0.20", **changes}
    return Vpc(id=vpc_id, account="1", created=CREATED, route_table="vtb-1", router="vrt-1", **fields)


def vswitch(vswitch_id: str = "vsw-1", **changes: Any) -> VSwitch:
    fields = {"cidr": "10.1.1.0/24", "vpc": "vpc-1", **changes}
    return VSwitch(id=vswitch_id, account="1", zone="z", created=CREATED, **fields)


def group(group_id: str = "sg-1", *rules: Rule, **changes: Any) -> SecurityGroup:
    return SecurityGroup(id=group_id, account="1", vpc="vpc-1", rules=rules, created=CREATED, **changes)


def rule(rule_id: str = "sgr-1", **changes: Any) -> Rule:
    fields = {"direction": "ingress", "protocol": "all", **changes}
    return Rule(id=rule_id, **fields)


def port(port_id: str = "port-1", **changes: Any) -> Port:
    fields = {"ip": "10.1.1.10", "vswitch": "vsw-1", "vpc": "vpc-1", "security_groups": ("sg-1",), **changes}
    fields.setdefault("mac", addresses.guest_mac("10.1.1.10"))
    return Port(id=port_id, account="1", eni=f"eni-{port_id}", created=CREATED, **fields)


def host(host_id: str = "h1", **changes: Any) -> Host:
    fields = {"seen": CREATED, **changes}
    return Host(
        id=host_id, address="10.78.0.1", cpus=1, memory_mib=1, accelerator="tcg", vcpus_max=1, memory_mib_max=1,
        **fields,
    )  # fmt: skip
