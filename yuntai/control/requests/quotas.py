"""Quotas, derived from the records in the transaction that adds to them: there is no counter to drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yuntai.control import errors
from yuntai.control.requests.types import Caller, QuotaUse
from yuntai.control.unit import Unit
from yuntai.model.cluster import Account
from yuntai.model.compute import AutoSnapshotPolicy, Disk, Image, Instance, KeyPair, Snapshot
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.model.placement import DedicatedHost, DeploymentSet
from yuntai.state import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

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
    "network_interfaces": 500,
    "deployment_sets": 100,
    "dedicated_hosts": 0,  # whole machines: the operator says who may have how many
}
LIMIT_MAX = 1_000_000_000
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
    "network_interfaces": "EniPerRegionLimitExceeded",
    "deployment_sets": "QuotaExceed.DeploymentSet",
    "dedicated_hosts": "QuotaExceed.DedicatedHost",
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
    "network_interfaces": Port,
    "deployment_sets": DeploymentSet,
    "dedicated_hosts": DedicatedHost,
}


async def limits(unit: Unit, account: str) -> dict[str, int]:
    """Return the limits of an account: the product's, and what its record says otherwise."""
    record = await unit.get(Account, account)
    return DEFAULTS | (record.quotas if record is not None else {})


async def _uses(unit: Unit, account: str, names: Iterable[str]) -> dict[str, int]:
    """Return how much is used of quotas that sum over records; what several of them sum over is looked through once."""
    owned: dict[type[Record], list[Any]] = {}
    found: dict[str, int] = {}
    for name in names:
        kind = _COUNTED.get(name) or (Instance if name == "vcpus" else Disk)
        if kind not in owned:
            owned[kind] = [one for one in await unit.list(kind) if getattr(one, "account", None) == account]
        match name:
            case "vcpus":
                found[name] = sum(one.cpu for one in owned[kind])
            case "disk_gib":
                found[name] = sum(one.size_gib for one in owned[kind])
            case _:
                found[name] = len(owned[kind])
    return found


async def need(unit: Unit, account: str, **wanted: int) -> None:
    """Raise if the account would own more than it may with ``wanted`` more of each. The unit holds its guard."""
    allowed = await limits(unit, account)
    have = await _uses(unit, account, wanted)
    for name, amount in wanted.items():
        if have[name] + amount > allowed[name]:
            raise errors.quota(_CODES[name], name.replace("_", " "), allowed[name], have[name], amount)


async def need_within(unit: Unit, account: str, name: str, amount: int) -> None:
    """Raise if one resource would hold ``amount`` of what is limited for each (rules of a group, say)."""
    allowed = (await limits(unit, account))[name]
    if amount > allowed:
        raise errors.quota(_CODES[name], name.replace("_", " "), allowed, 0, amount)


async def room(unit: Unit, account: str, **each: int) -> int:
    """Return how many times ``each`` still fits."""
    allowed = await limits(unit, account)
    have = await _uses(unit, account, [name for name, amount in each.items() if amount])
    return min((allowed[name] - have[name]) // each[name] for name in have)


async def describe_quotas(store: Store, caller: Caller) -> list[QuotaUse]:
    """Return every quota of the account with its use; those of single resources (rules of a group, say) have none."""
    unit = Unit(store)
    allowed = await limits(unit, caller.account)
    have = await _uses(unit, caller.account, (*_COUNTED, "vcpus", "disk_gib"))
    return [QuotaUse(name=name, used=amount, limit=allowed[name]) for name, amount in have.items()] + [
        QuotaUse(name=name, used=0, limit=allowed[name])
        for name in ("rules_per_group", "groups_per_instance", "disks_per_instance")
    ]


async def accounts(store: Store, account: str = "") -> list[tuple[Account, list[QuotaUse]]]:
    """Return every account with its quotas and their use, or one."""
    found = [one.value for one in await store.list(Account) if account in ("", one.value.id)]
    if account and not found:
        raise errors.not_found("account", account, "InvalidAccount.NotFound")
    return [(one, await describe_quotas(store, Caller(account=one.id))) for one in found]


async def set_quota(store: Store, account: str, name: str, limit: int | None) -> None:
    """Set a limit of an account; ``None`` = the product's again. What is in use stays, even above the limit."""
    if name not in DEFAULTS:
        raise errors.invalid("Name", name, f"use one of {', '.join(sorted(DEFAULTS))}")
    if limit is not None and not 0 <= limit <= LIMIT_MAX:
        raise errors.invalid("Limit", limit, f"use 0 to {LIMIT_MAX}, or leave it out for the product's own")

    def change(record: Account) -> Account:
        rest = {key: value for key, value in record.quotas.items() if key != name}
        return msgspec.structs.replace(record, quotas=rest if limit is None else {**rest, name: limit})

    try:
        await store.update(Account, account, change)
    except NotFound as error:
        raise errors.not_found("account", account, "InvalidAccount.NotFound") from error
