"""From the records of VPCs, vSwitches, security groups and ports to the OVN northbound content they mean. Pure.

What it makes: a VPC is a logical router, joined to the shared provider switch ``ext`` by a port with gateway chassis
and source NAT; a vSwitch is a logical switch named by its id, with DHCP, DNS names, and a ``localport`` that is there
on every host and leads to that host's own metadata service. Column by column the source is ovn-nb(5) of OVN 25.03.

A record that cannot be used is left out and said so in :attr:`Plan.problems`: one bad record never holds up the rest.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yuntai.network import acl, addresses, names
from yuntai.network.rows import ID_KEY, Content, Key, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch

PROVIDER_SWITCH = "ext"
GATEWAY_CHASSIS_MAX = 3
MTU_BYTES = 1400
LEASE_S = 86400
# Destinations that never lie beyond the provider network (RFC 1918, 6598, 3927, loopback): without this a guest would
# reach whatever the hosts serve on their management addresses, because a host answers on each address it has.
_NEVER_OUTSIDE = "10.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10"


@dataclass(frozen=True, slots=True)
class Records:
    """Everything that the plan depends on."""

    vpcs: Sequence[Vpc] = ()
    vswitches: Sequence[VSwitch] = ()
    groups: Sequence[SecurityGroup] = ()
    ports: Sequence[Port] = ()
    hosts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows that OVN must have, and what of the records could not be expressed."""

    content: Content
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    rows: dict[Key, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, table: str, yuntai_id: str, refs: dict[str, Iterable[Key]] | None = None, **columns: object) -> Key:
        key = Key(table, yuntai_id)
        owned: dict[str, str] = {ID_KEY: yuntai_id, **columns.pop("own", {})}  # type: ignore[dict-item]
        self.rows[key] = Row(
            columns={**columns, "external_ids": owned},  # type: ignore[dict-item]
            refs={name: frozenset(keys) for name, keys in (refs or {}).items()},
        )
        return key


def build(records: Records) -> Plan:
    """Return the plan for ``records``."""
    draft = _Draft()
    vpcs = {vpc.id: vpc for vpc in records.vpcs}
    vswitches = _usable_vswitches(draft, records.vswitches, vpcs)
    ports = _usable_ports(draft, records.ports, vswitches)
    by_vpc: dict[str, list[VSwitch]] = defaultdict(list)
    for vswitch in vswitches.values():
        by_vpc[vswitch.vpc].append(vswitch)
    by_vswitch: dict[str, list[Port]] = defaultdict(list)
    for port in ports:
        by_vswitch[port.vswitch].append(port)
    uplinks = [_router(draft, vpc, by_vpc[vpc.id], records.hosts) for vpc in vpcs.values()]
    _provider_switch(draft, [uplink for uplink in uplinks if uplink is not None])
    for vpc_id, members in by_vpc.items():
        names_key = _dns(draft, vpc_id, [port for vswitch in members for port in by_vswitch[vswitch.id]])
        for vswitch in members:
            _switch(draft, vswitch, by_vswitch[vswitch.id], names_key)
    _groups(draft, records.groups, ports)
    return Plan(draft.rows, tuple(draft.problems))


def _usable_vswitches(draft: _Draft, records: Iterable[VSwitch], vpcs: dict[str, Vpc]) -> dict[str, VSwitch]:
    usable: dict[str, VSwitch] = {}
    for vswitch in sorted(records, key=lambda record: record.id):
        try:
            addresses.subnet(vswitch.cidr)
        except addresses.AddressError as error:
            draft.problems.append(f"vSwitch {vswitch.id} is left out: {error}")
            continue
        if vswitch.vpc not in vpcs:
            draft.problems.append(f"vSwitch {vswitch.id} is left out: its VPC {vswitch.vpc} does not exist")
            continue
        usable[vswitch.id] = vswitch
    return usable


def _usable_ports(draft: _Draft, records: Iterable[Port], vswitches: dict[str, VSwitch]) -> list[Port]:
    usable: list[Port] = []
    taken: dict[tuple[str, str], str] = {}
    for port in sorted(records, key=lambda record: (record.created, record.id)):
        vswitch = vswitches.get(port.vswitch)
        if vswitch is None:
            problem = f"its vSwitch {port.vswitch} does not exist"
        elif not addresses.is_usable(vswitch.cidr, port.ip):
            problem = f"its address {port.ip!r} is not a guest's in {vswitch.cidr}"
        elif (other := taken.setdefault((port.vswitch, port.ip), port.id)) != port.id:
            problem = f"its address {port.ip} is that of port {other}"
        else:
            usable.append(port)
            continue
        draft.problems.append(f"port {port.id} is left out: {problem}")
    return usable


def _provider_switch(draft: _Draft, uplinks: list[Key]) -> None:
    """Add the switch behind which the world lies; its localnet port is each host's bridge to the provider network."""
    localnet = draft.add(
        "Logical_Switch_Port",
        f"{PROVIDER_SWITCH}/localnet",
        name=f"{PROVIDER_SWITCH}-localnet",
        type="localnet",
        addresses=("unknown",),
        options={"network_name": PROVIDER_SWITCH},
    )
    outward = f'outport == "{PROVIDER_SWITCH}-localnet" && ip4'
    acls = [
        draft.add("ACL", f"{PROVIDER_SWITCH}/{name}", direction="to-lport", priority=priority, action=action,
                  match=f"{outward} && ip4.dst == {{{networks}}}", name=(f"{PROVIDER_SWITCH}/{name}",))
        for name, priority, action, networks in (
            ("provider", 200, "allow", addresses.PROVIDER_CIDR),
            ("private", 100, "drop", _NEVER_OUTSIDE),
        )
    ]  # fmt: skip
    refs: dict[str, Iterable[Key]] = {"ports": [localnet, *uplinks], "acls": acls}
    draft.add("Logical_Switch", PROVIDER_SWITCH, refs, name=PROVIDER_SWITCH)


def _router(draft: _Draft, vpc: Vpc, vswitches: list[VSwitch], hosts: Sequence[str]) -> Key | None:
    """Add a VPC's router; return the provider switch's port to it, None when the VPC has no address there yet."""
    router_ports = [
        draft.add(
            "Logical_Router_Port",
            f"{vswitch.id}/router",
            name=f"{vswitch.id}-gw",
            mac=addresses.system_mac(f"{vswitch.id}/router"),
            networks=(f"{addresses.gateway(vswitch.cidr)}/{addresses.subnet(vswitch.cidr).prefixlen}",),
        )
        for vswitch in vswitches
    ]
    refs: dict[str, Iterable[Key]] = {"ports": router_ports, "nat": [], "static_routes": []}
    uplink = None
    if vpc.ext_ip:
        router_ports.append(_uplink_port(draft, vpc, hosts))
        refs["nat"] = [draft.add("NAT", f"{vpc.id}/snat", type="snat", external_ip=vpc.ext_ip, logical_ip=vpc.cidr)]
        refs["static_routes"] = [
            draft.add("Logical_Router_Static_Route", f"{vpc.id}/default", ip_prefix="0.0.0.0/0",
                      nexthop=addresses.PROVIDER_GATEWAY, output_port=(f"{vpc.id}-ext",))
        ]  # fmt: skip
        uplink = draft.add(
            "Logical_Switch_Port",
            f"{PROVIDER_SWITCH}/{vpc.id}",
            name=f"{PROVIDER_SWITCH}-{vpc.id}",
            type="router",
            addresses=("router",),
            options={"router-port": f"{vpc.id}-ext", "nat-addresses": "router"},
        )
    # The two options keep a router from learning about every other router of the shared provider switch.
    options = {"always_learn_from_arp_request": "false", "dynamic_neigh_routers": "true"}
    draft.add("Logical_Router", vpc.id, refs, name=vpc.id, options=options)
    return uplink


def _uplink_port(draft: _Draft, vpc: Vpc, hosts: Sequence[str]) -> Key:
    chassis = [
        draft.add("Gateway_Chassis", f"{vpc.id}/ext/{host}", name=f"{vpc.id}-ext-{host}", chassis_name=host,
                  priority=10 * (GATEWAY_CHASSIS_MAX - place))
        for place, host in enumerate(gateway_hosts(vpc.id, hosts))
    ]  # fmt: skip
    prefix = ipaddress.IPv4Network(addresses.PROVIDER_CIDR).prefixlen
    return draft.add(
        "Logical_Router_Port",
        f"{vpc.id}/ext",
        {"gateway_chassis": chassis},
        name=f"{vpc.id}-ext",
        mac=addresses.system_mac(f"{vpc.id}/ext"),
        networks=(f"{vpc.ext_ip}/{prefix}",),
    )


def gateway_hosts(vpc_id: str, hosts: Iterable[str]) -> list[str]:
    """Return the hosts that may carry a VPC's way out, the preferred first.

    Highest random weight: VPCs spread evenly, and a host that comes or goes moves only the VPCs that it gains or had.
    """
    weight = {host: hashlib.blake2s(f"{vpc_id}/{host}".encode()).digest() for host in hosts}
    return sorted(weight, key=lambda host: weight[host], reverse=True)[:GATEWAY_CHASSIS_MAX]


def _switch(draft: _Draft, vswitch: VSwitch, ports: list[Port], names_key: Key) -> None:
    service_ip = addresses.service(vswitch.cidr)
    service_name = f"{vswitch.id}/service"
    service_addresses = " ".join((addresses.system_mac(service_name), service_ip, *addresses.METADATA))
    dhcp = _dhcp(draft, vswitch)
    switch_ports = [
        draft.add(
            "Logical_Switch_Port",
            f"{vswitch.id}/router",
            name=f"{vswitch.id}-router",
            type="router",
            addresses=("router",),
            options={"router-port": f"{vswitch.id}-gw"},
        ),
        draft.add(
            "Logical_Switch_Port",
            service_name,
            name=names.service_port(vswitch.id),
            type="localport",
            addresses=(service_addresses,),
            options={},
        ),
        *(_guest_port(draft, port, dhcp) for port in ports),
    ]
    draft.add("Logical_Switch", vswitch.id, {"ports": switch_ports, "dns_records": [names_key]}, name=vswitch.id)


def _dhcp(draft: _Draft, vswitch: VSwitch) -> Key:
    router, service_ip = addresses.gateway(vswitch.cidr), addresses.service(vswitch.cidr)
    # A client that takes option 121 must not take option 3 (RFC 3442), so the default route is in both.
    routes = [f"{address}/32,{service_ip}" for address in addresses.METADATA] + [f"0.0.0.0/0,{router}"]
    options = {
        "server_id": router,
        "server_mac": addresses.system_mac(f"{vswitch.id}/router"),
        "lease_time": str(LEASE_S),
        "router": router,
        "mtu": str(MTU_BYTES),
        # OVN itself answers for the names that it knows, whatever server is asked; the rest is refused at once there.
        "dns_server": f"{{{service_ip}}}",
        "classless_static_route": f"{{{', '.join(routes)}}}",
    }
    return draft.add("DHCP_Options", vswitch.id, cidr=vswitch.cidr, options=options)


def _guest_port(draft: _Draft, port: Port, dhcp: Key) -> Key:
    options: dict[str, str] = {}
    if port.hostname:
        options["hostname"] = f'"{port.hostname}"'
    if port.host and port.destination:
        # Live migration: bound on both, the destination starts to forward at the RARP that QEMU sends at switch-over.
        options |= {"requested-chassis": f"{port.host},{port.destination}", "activation-strategy": "rarp"}
    elif port.host:
        options["requested-chassis"] = port.host
    address = f"{port.mac} {port.ip}"
    return draft.add(
        "Logical_Switch_Port",
        port.id,
        {"dhcpv4_options": [dhcp]},
        name=port.id,
        type="",
        addresses=(address,),
        port_security=(address,),
        options=options,
        own={"yuntai:eni": port.eni, "yuntai:instance": port.instance},
    )


def _dns(draft: _Draft, vpc_id: str, ports: list[Port]) -> Key:
    """Add the VPC's names: each guest's host name."""
    found: dict[str, list[str]] = defaultdict(list)
    for port in ports:
        if port.hostname:
            found[port.hostname.lower()].append(port.ip)
    records = {name: " ".join(sorted(ips)) for name, ips in found.items()}
    return draft.add("DNS", vpc_id, records=records)


def _groups(draft: _Draft, groups: Iterable[SecurityGroup], ports: list[Port]) -> None:
    known = {group.id: group for group in groups}
    members: dict[str, list[Key]] = defaultdict(list)
    for port in ports:
        for group_id in port.security_groups:
            if group_id not in known:
                draft.problems.append(f"port {port.id} is in security group {group_id}, which does not exist")
            members[group_id].append(Key("Logical_Switch_Port", port.id))
    draft.rows.update(acl.platform_rows([Key("Logical_Switch_Port", port.id) for port in ports]))
    for group in known.values():
        rows, problems = acl.group_rows(group, members[group.id], known)
        draft.rows.update(rows)
        draft.problems.extend(problems)
