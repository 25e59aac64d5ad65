"""What an instance is told about itself: a tree of names and texts. Pure.

One tree serves both dialects: the keys of Alibaba Cloud's service (which cloud-init's AliYun source crawls: every key
that a listing names must be there) and those of EC2's. A key without a value is left out, never listed empty.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from yuntai.network import addresses

if TYPE_CHECKING:
    from yuntai.model.compute import Disk, Instance, KeyPair
    from yuntai.model.network import Port, Vpc, VSwitch

Tree: TypeAlias = "dict[str, str | Tree]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The instance that asks, and the records around it."""

    instance: Instance
    port: Port
    vswitch: VSwitch
    vpc: Vpc | None
    key_pair: KeyPair | None
    disks: tuple[Disk, ...]
    region: str


def meta_data(subject: Subject) -> Tree:
    """Return the tree below ``meta-data/``."""
    instance, port, vswitch = subject.instance, subject.port, subject.vswitch
    hostname = instance.hostname or instance.id
    tree: Tree = {
        "ami-id": instance.image,
        "ami-launch-index": "0",
        "disks": {disk.id: {"id": disk.id, "name": disk.name or disk.id} for disk in subject.disks},
        "dns-conf": {"nameservers": addresses.service(vswitch.cidr)},
        "hostname": hostname,
        "image-id": instance.image,
        "instance": {"instance-name": instance.name, "instance-type": instance.instance_type},
        "instance-action": "none",
        "instance-id": instance.id,
        "instance-type": instance.instance_type,
        "local-hostname": hostname,
        "local-ipv4": port.ip,
        "mac": port.mac,
        "network": {"interfaces": {"macs": {port.mac: _interface(subject)}}},
        "network-type": "vpc",
        "owner-account-id": instance.account,
        "placement": {"availability-zone": instance.zone, "region": subject.region},
        "private-ipv4": port.ip,
        "region-id": subject.region,
        "security-groups": "\n".join(port.security_groups),
        "serial-number": instance.id,
        "vpc-cidr-block": subject.vpc.cidr if subject.vpc else "",
        "vpc-id": instance.vpc,
        "vswitch-cidr-block": vswitch.cidr,
        "vswitch-id": vswitch.id,
        "zone-id": instance.zone,
    }
    if subject.key_pair is not None:
        tree["public-keys"] = {"0": {"openssh-key": subject.key_pair.public_key.strip()}}
    return _without_empty(tree)


def key_name(subject: Subject) -> str:
    """Return the name of the instance's key pair, for EC2's listing ``0=name``."""
    return subject.key_pair.name if subject.key_pair is not None else ""


def user_data(subject: Subject) -> bytes | None:
    """Return the tenant's own data as it was given before its base64."""
    if not subject.instance.user_data:
        return None
    try:
        return base64.b64decode(subject.instance.user_data, validate=True)
    except binascii.Error:
        return subject.instance.user_data.encode()


def vendor_data(subject: Subject) -> bytes | None:
    """Return the cloud's own part: the password of root where the tenant set one, else nothing."""
    if not subject.instance.password_hash:
        return None
    return (
        "#cloud-config\n"
        "disable_root: false\n"
        "ssh_pwauth: true\n"
        "chpasswd:\n"
        "  expire: false\n"
        "  users:\n"
        "    - name: root\n"
        "      type: hash\n"
        f"      password: {json.dumps(subject.instance.password_hash)}\n"
    ).encode()


def identity_document(subject: Subject) -> str:
    """Return ``dynamic/instance-identity/document``. EC2's source in cloud-init waits for ever where it is missing."""
    instance = subject.instance
    document = {
        "account-id": instance.account,
        "accountId": instance.account,
        "architecture": "x86_64",
        "availabilityZone": instance.zone,
        "image-id": instance.image,
        "imageId": instance.image,
        "instance-id": instance.id,
        "instance-type": instance.instance_type,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "mac": subject.port.mac,
        "owner-account-id": instance.account,
        "pendingTime": instance.created,
        "private-ipv4": subject.port.ip,
        "privateIp": subject.port.ip,
        "region": subject.region,
        "region-id": subject.region,
        "serial-number": instance.id,
        "version": "2017-09-30",
        "zone-id": instance.zone,
    }
    return json.dumps(document, indent=1, sort_keys=True)


def find(tree: Tree, path: tuple[str, ...]) -> str | Tree | None:
    """Return the leaf or branch at a path, or ``None``."""
    at: str | Tree = tree
    for name in path:
        if not isinstance(at, dict) or name not in at:
            return None
        at = at[name]
    return at


def listing(branch: Tree) -> str:
    """Return the listing of a branch: a name a line, branches with a slash at the end."""
    return "\n".join(f"{name}/" if isinstance(below, dict) else name for name, below in sorted(branch.items()))


def _interface(subject: Subject) -> Tree:
    port, vswitch = subject.port, subject.vswitch
    network = ipaddress.IPv4Network(vswitch.cidr)
    return {
        "device-number": "0",
        "gateway": addresses.gateway(vswitch.cidr),
        "local-ipv4s": port.ip,
        "mac": port.mac,
        "netmask": str(network.netmask),
        "network-interface-id": port.eni,
        "owner-id": port.account,
        "primary-ip-address": port.ip,
        "private-ipv4s": json.dumps([port.ip]),
        "subnet-ipv4-cidr-block": vswitch.cidr,
        "vpc-cidr-block": subject.vpc.cidr if subject.vpc else "",
        "vpc-id": vswitch.vpc,
        "vswitch-cidr-block": vswitch.cidr,
        "vswitch-id": vswitch.id,
    }


def _without_empty(tree: Tree) -> Tree:
    kept: Tree = {}
    for name, below in tree.items():
        value = _without_empty(below) if isinstance(below, dict) else below
        if value:
            kept[name] = value
    return kept
