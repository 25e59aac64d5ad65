"""The records of a large cloud: hosts in racks, accounts, and running instances with what belongs to them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yuntai.model.base import now_utc
from yuntai.model.cluster import AccessKey, Account, Host
from yuntai.model.compute import Disk, Image, Instance, ObservedInstance
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.network import addresses
from yuntai.state.store import TXN_OPERATIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.model.base import Record
    from yuntai.state import Store

ZONE = "cn-local-a"
IMAGE = "m-bench"
VCPUS, MEMORY_MIB = 128, 64 * 1024
GUEST_MIB = 1024
KEY, SECRET = "YTBENCHMARKKEY{:02}", "only-for-benchmarks-on-loopback"


@dataclass(frozen=True, slots=True)
class Size:
    """How large the cloud is."""

    hosts: int = 1_000
    racks: int = 40
    instances: int = 50_000
    accounts: int = 50


def key_of(account: int) -> str:
    """Return the AccessKeyId of an account."""
    return KEY.format(account)


def host(number: int, size: Size) -> Host:
    """Return a host."""
    return Host(
        id=f"h{number:04}",
        address=f"10.{number // 250}.{number % 250}.1",
        rack=f"rack-{number % size.racks:02}",
        cpus=VCPUS // 2,
        memory_mib=MEMORY_MIB,
        accelerator="kvm",
        seen=now_utc(),
        vcpus_max=VCPUS,
        memory_mib_max=MEMORY_MIB,
    )


def hosts(size: Size) -> list[Host]:
    """Return the hosts, spread evenly over the racks."""
    return [host(number, size) for number in range(size.hosts)]


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account with its network."""

    account: str
    key: str
    vpc: Vpc
    vswitch: VSwitch
    group: SecurityGroup


def tenant(number: int) -> Tenant:
    """Return an account; its ids follow from its number."""
    account = f"{number + 1:016}"
    common: dict[str, Any] = {"account": account, "created": now_utc()}
    vpc = Vpc(
        id=f"vpc-{number:016x}", cidr="10.0.0.0/8", route_table="vtb-1", router="vrt-1",
        ext_ip=f"100.64.0.{number + 10}", **common,
    )  # fmt: skip
    vswitch = VSwitch(id=f"vsw-{number:016x}", vpc=vpc.id, zone=ZONE, cidr="10.0.0.0/16", **common)
    return Tenant(account, key_of(number), vpc, vswitch, SecurityGroup(id=f"sg-{number:016x}", vpc=vpc.id, **common))


def records(size: Size) -> Iterator[Record]:
    """Yield the whole cloud."""
    created = now_utc()
    yield from hosts(size)
    yield Image(id=IMAGE, name="bench", volume="vol-image", size_gib=1, status="Available", created=created)
    each = size.instances // size.accounts
    for number in range(size.accounts):
        one = tenant(number)
        quotas = {"instances": 9_000, "vcpus": 9_000, "disks": 9_000, "network_interfaces": 9_000}
        yield Account(id=one.account, name=f"bench-{number}", created=created, quotas=quotas)
        yield AccessKey(id=one.key, account=one.account, secret=SECRET, operator=number == 0, created=created)
        yield from (one.vpc, one.vswitch, one.group)
        free = addresses.usable(one.vswitch.cidr)
        for index in range(each):
            yield from instance(one, number * each + index, next(free), size)


def instance(owner: Tenant, number: int, ip: str, size: Size) -> tuple[Record, ...]:
    """Return a running instance with its port, its disk, and what its agent sees."""
    at = f"h{number % size.hosts:04}"
    instance_id, disk_id, port_id = (
        f"i-{number:016x}",
        f"d-{number:016x}",
        str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))),
    )
    common: dict[str, Any] = {"account": owner.account, "created": now_utc()}
    return (
        Port(
            id=port_id, eni=f"eni-{number:016x}", vpc=owner.vpc.id, vswitch=owner.vswitch.id, ip=ip,
            mac=addresses.guest_mac(ip), security_groups=(owner.group.id,), instance=instance_id, host=at, **common,
        ),
        Disk(
            id=disk_id, zone=ZONE, kind="system", size_gib=1, status="In_use", volume=f"vol-{number:016x}",
            instance=instance_id, device="/dev/xvda", source_image=IMAGE, **common,
        ),
        ObservedInstance(
            id=instance_id, host=at, state="running", since=now_utc(), boot_seq=1, attached=(disk_id,), nics=(port_id,)
        ),
        Instance(
            id=instance_id, name=f"bench-{number}", hostname=f"bench-{number}", zone=ZONE,
            instance_type="ecs.yt1.small", cpu=1, memory_mib=GUEST_MIB, image=IMAGE, status="Running", host=at,
            vpc=owner.vpc.id, vswitch=owner.vswitch.id, port=port_id, security_groups=(owner.group.id,),
            system_disk=disk_id, disks=(disk_id,), started=now_utc(), tags={"purpose": "bench"},
            priority=10 + number % 90, **common,
        ),
    )  # fmt: skip


async def write(store: Store, size: Size) -> int:
    """Put all of it into the store; return how many records that are."""
    written = 0
    batch: list[Record] = []
    for record in records(size):
        batch.append(record)
        if len(batch) == TXN_OPERATIONS_MAX:
            await store.txn(put=batch)
            written += len(batch)
            batch.clear()
    if batch:
        await store.txn(put=batch)
    return written + len(batch)
