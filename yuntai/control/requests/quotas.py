"""Quotas, derived from the records in the transaction that adds to them: there is no counter to drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.control import errors
from yuntai.control.requests.types import QuotaUse
from yuntai.control.unit import Unit
from yuntai.model.cluster import Account
from yuntai.model.compute import AutoSnapshotPolicy, Disk, Image, Instance, KeyPair, Snapshot
from yuntai.model.network import SecurityGroup, Vpc, VSwitch

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller
    from yuntai.model.base import Record
    from yuntai.state import Store

DEFAULTS: dict[str, int] = {
    "instances": 100,
    "vcpus": 200,
    "disks": 300,
    "disk_gib": 16384,
    "snapshots": 1000,
    "images": 100,
    "vpcs": 10,
    "vswitches": 150,
    "security_groups": 100,
    "rules_per_group": 200,
    "groups_per_instance": 5,
    "disks_per_instance": 17,
    "keypairs": 500,
    "auto_snapshot_policies": 100,
}
_CODES = {
    "instances": "QuotaExceed.Instance",
    "vcpus": "QuotaExceed.ElasticQuota",
    "disks": "QuotaExceed.Disk",
    "disk_gib": "QuotaExceed.DiskCapacity",
    "snapshots": "QuotaExceed.Snapshot",
    "images": "QuotaExceed.Image",
    "vpcs": "QuotaExceeded.Vpc",
    "vswitches": "QuotaExceeded.VSwitch",
    "security_groups": "QuotaExceed.SecurityGroup",
    "rules_per_group": "QuotaExceed.SecurityGroupRule",
    "groups_per_instance": "InstanceSecurityGroupLimitExceeded",
    "disks_per_instance": "InstanceDiskLimitExceeded",
    "keypairs": "QuotaExceed.KeyPair",
    "auto_snapshot_policies": "QuotaExceed.AutoSnapshotPolicy",
}
_COUNTED: dict[str, type[Record]] = {
    "instances": Instance,
    "disks": Disk,
    "snapshots": Snapshot,
    "images": Image,
    "vpcs": Vpc,
    "vswitches": VSwitch,
    "security_groups": SecurityGroup,
    "keypairs": KeyPair,
    "auto_snapshot_policies": AutoSnapshotPolicy,
}


async def limits(unit: Unit, account: str) -> dict[str, int]:
    """Return the limits of an account: the product's, and what its record says otherwise."""
    record = await unit.get(Account, account)
    return DEFAULTS | (record.quotas if record is not None else {})


async def used(unit: Unit, account: str, name: str) -> int:
    """Return how much of a quota that sums over records is used."""
    if name in _COUNTED:
        return sum(1 for record in await unit.list(_COUNTED[name]) if getattr(record, "account", None) == account)
    if name == "vcpus":
        return sum(i.cpu for i in await unit.list(Instance) if i.account == account)
    return sum(d.size_gib for d in await unit.list(Disk) if d.account == account)


async def need(unit: Unit, account: str, **wanted: int) -> None:
    """Raise if the account would own more than it may with ``wanted`` more of each. The unit holds its guard."""
    allowed = await limits(unit, account)
    for name, amount in wanted.items():
        have = await used(unit, account, name)
        if have + amount > allowed[name]:
            raise errors.quota(_CODES[name], name.replace("_", " "), allowed[name], have, amount)


async def need_within(unit: Unit, account: str, name: str, amount: int) -> None:
    """Raise if one resource would hold ``amount`` of what is limited for each (rules of a group, say)."""
    allowed = (await limits(unit, account))[name]
    if amount > allowed:
        raise errors.quota(_CODES[name], name.replace("_", " "), allowed, 0, amount)


async def room(unit: Unit, account: str, **each: int) -> int:
    """Return how many times ``each`` still fits."""
    allowed = await limits(unit, account)
    return min([(allowed[name] - await used(unit, account, name)) // amount for name, amount in each.items() if amount])


async def describe_quotas(store: Store, caller: Caller) -> list[QuotaUse]:
    """Return every quota of the account that sums over records, with its use."""
    unit = Unit(store)
    allowed = await limits(unit, caller.account)
    return [
        QuotaUse(name=name, used=await used(unit, caller.account, name), limit=allowed[name])
        for name in (*_COUNTED, "vcpus", "disk_gib")
    ]
