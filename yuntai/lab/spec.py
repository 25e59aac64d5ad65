"""What a lab cluster and its hosts are: names, numbers, addresses and roles. Pure data, nothing runs here."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import msgspec

from yuntai.config import ChunkServer, Config
from yuntai.lab.layout import DEFAULT_CLUSTER, Home

CHUNKSERVER_PORT = 7101
OVN_NB_PORT, OVN_SB_PORT = 6641, 6642
RACKS, RACKS_MAX = 3, 64
MEMBERS = 3
"""Hosts that carry etcd and the control plane once there are so many; any one of them may die then."""
# What a host does. `central` runs etcd and the OVN databases; `engines` is every host's OVS, OVN and libvirt.
CENTRAL, ENGINES, STORAGE, CONTROL, COMPUTE = "central", "engines", "storage", "control", "compute"
ALL_ROLES = (CENTRAL, ENGINES, STORAGE, CONTROL, COMPUTE)
# A host's name has no dash: what a host leaves on the machine is named yt-CLUSTER-HOST.
_NAMES = {"cluster name": re.compile(r"[a-z][a-z0-9-]{0,23}"), "host name": re.compile(r"[a-z][a-z0-9]{0,23}")}
FABRIC = "fab"


class SpecError(ValueError):
    """A cluster or host cannot be made as asked; the text says what to change."""


class ClusterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cloud on this machine. All its addresses live in namespaces of its own, so two clusters never meet.

    ``api_port`` is where the machine's loopback leads to the API; 0 is nowhere. ``images`` is another home to share.
    ``members`` is how many hosts, from the first on, carry etcd, the OVN databases and the control plane.
    """

    name: str = DEFAULT_CLUSTER
    management: str = "10.78.0.0/24"
    underlay: str = "172.16.0.0/24"
    external: str = "100.64.0.0/24"
    region: str = "cn-local"
    zone: str = "cn-local-a"
    api_port: int = 8080
    images: str | None = None
    members: int = 1
    racks: int = RACKS

    @property
    def fabric(self) -> str:
        """The network namespace that holds the switches between the hosts."""
        return f"yt-{self.name}-{FABRIC}"

    @property
    def gate(self) -> str:
        """The fabric's own address among the hosts: what the machine asks of them comes from here."""
        return nth_address(self.management, -2)

    def member_addresses(self, first: int = 1) -> list[str]:
        """Return the members' management addresses, that of the member ``first`` first, or of the next in its place."""
        start = (first - 1) % self.members
        return [nth_address(self.management, 1 + (start + turn) % self.members) for turn in range(self.members)]

    def home(self, root: Path) -> Home:
        """Return the layout of this cluster's data folder ``root``."""
        return Home(root, Path(self.images) if self.images else None)


class HostSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host of a cluster; its number gives it the same last digit in every network. The first ones are members."""

    cluster: ClusterSpec
    name: str = "h1"
    number: int = 1
    roles: tuple[str, ...] = ALL_ROLES
    bare: bool = False  # it has engines, and no configuration or secrets before it joins like a real server
    cpu_lacks: tuple[str, ...] = ()  # features that its QEMU is told to do without, to try unequal hosts
    mce_banks: int = 0  # what it is to report, to try the same; 0 = what is found

    @property
    def netns(self) -> str:
        """The host's network namespace."""
        return f"yt-{self.cluster.name}-{self.name}"

    @property
    def address(self) -> str:
        """The host's management address."""
        return nth_address(self.cluster.management, self.number)

    @property
    def etcd(self) -> list[str]:
        """Every member's etcd, a member's own first: so it asks nobody else, and other hosts spread over all."""
        return [f"{address}:2379" for address in self.cluster.member_addresses(self.number)]

    def ovn(self, port: int) -> str:
        """Return the OVN database behind ``port`` as OVN's own programs take it: every member's, joined by commas."""
        return ",".join(f"tcp:{address}:{port}" for address in self.cluster.member_addresses(self.number))

    def interface(self, network: str) -> str:
        """Return the host's address in ``network`` with the prefix length, as `ip address add` takes it."""
        return f"{nth_address(network, self.number)}/{ipaddress.ip_network(network).prefixlen}"

    def chunkservers(self) -> list[ChunkServer]:
        """Return this host's chunk servers: one in the host's rack, or where it is alone, one in each of three."""
        if STORAGE not in self.roles:
            return []
        if self.cluster.members > 1:
            return [
                ChunkServer(
                    id=self.number,
                    rack=f"rack-{1 + (self.number - 1) % self.cluster.racks}",
                    port=CHUNKSERVER_PORT,
                    path=f"/var/lib/yuntai/chunks/{self.number}",
                )
            ]
        first = (self.number - 1) * RACKS
        return [
            ChunkServer(
                id=first + index,
                rack=f"rack-{index}",
                port=CHUNKSERVER_PORT + index - 1,
                path=f"/var/lib/yuntai/chunks/{first + index}",
            )
            for index in range(1, RACKS + 1)
        ]

    def config(self) -> Config:
        """Return the configuration of the host's Python processes."""
        return Config(
            cluster=self.cluster.name,
            region=self.cluster.region,
            zone=self.cluster.zone,
            host=self.name,
            address=self.address,
            etcd=self.etcd,
            ovn_nb=self.ovn(OVN_NB_PORT),
            ovn_sb=self.ovn(OVN_SB_PORT),
            chunkservers=self.chunkservers(),
            mce_banks=self.mce_banks,
        )


def host_name(number: int) -> str:
    """Return the name of the host ``number`` of a cluster of many."""
    return f"h{number}"


def nth_address(network: str, number: int) -> str:
    """Return the ``number``-th address of ``network``."""
    return str(ipaddress.ip_network(network)[number])


def check(spec: HostSpec) -> HostSpec:
    """Return ``spec`` if a host can be made of it, else raise :class:`SpecError`."""
    for field, value in (("cluster name", spec.cluster.name), ("host name", spec.name)):
        if not _NAMES[field].fullmatch(value) or (field == "host name" and value == FABRIC):
            dash = " and -" if field == "cluster name" else f", not {FABRIC!r}"
            raise SpecError(f"{field} is {value!r}; use 1 to 24 of a-z, 0-9{dash}, beginning with a letter")
    for field in ("management", "underlay", "external"):
        value = getattr(spec.cluster, field)
        try:
            size = ipaddress.ip_network(value).num_addresses
        except ValueError as error:
            raise SpecError(f'cluster `{field}` is {value!r}: {error}; write it as "10.78.0.0/24"') from error
        if not 1 <= spec.number < size - 2:
            raise SpecError(
                f"host number is {spec.number}, but `{field}` {value} has 1 to {size - 3}; choose one of these"
            )
    if not 0 <= spec.cluster.api_port < 65536:
        raise SpecError(f"`api_port` is {spec.cluster.api_port}; choose a port from 1 to 65535, or 0 for none")
    if spec.cluster.members not in (1, MEMBERS):
        raise SpecError(f"`members` is {spec.cluster.members}; choose 1 or {MEMBERS}")
    if not 1 <= spec.cluster.racks <= RACKS_MAX:
        raise SpecError(f"`racks` is {spec.cluster.racks}; choose 1 to {RACKS_MAX}")
    if spec.cluster.members > 1 and spec.name != host_name(spec.number):
        raise SpecError(
            f"host number {spec.number} is named {spec.name!r}; a host among many is {host_name(spec.number)}"
        )
    unknown = set(spec.roles) - set(ALL_ROLES)
    if unknown:
        raise SpecError(f"roles has {', '.join(sorted(unknown))}; choose from {', '.join(ALL_ROLES)}")
    return spec


def load_cluster(home: Path) -> ClusterSpec | None:
    """Return the settings stored in ``home``, or None where no cluster was ever started."""
    path = Home(home).cluster
    return msgspec.json.decode(path.read_bytes(), type=ClusterSpec) if path.exists() else None


def load_host(home: Path, name: str) -> HostSpec | None:
    """Return the host ``name`` as it was last started from ``home``, or None."""
    path = Home(home).host(name).spec
    return msgspec.json.decode(path.read_bytes(), type=HostSpec) if path.exists() else None
