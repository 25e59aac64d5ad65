"""Disks of volumes that were filled from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import transact
from yuntai.control.sources import GIB
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Disk

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller
    from yuntai.control.unit import Unit
    from yuntai.state import Store


async def register_disk(
    store: Store, caller: Caller, *, volume: str, size_bytes: int, name: str = "", description: str = ""
) -> str:
    """Make an available disk of a volume that an operator has filled; the same volume gives the same disk."""
    validate.name("DiskName", name, code="InvalidDiskName.Malformed")
    validate.description("Description", description)

    async def body(unit: Unit) -> str:
        for disk in await unit.list(Disk):
            if disk.volume == volume:
                return disk.id
        size_gib = -(-size_bytes // GIB)
        await quotas.need(unit, caller.account, disks=1, disk_gib=size_gib)
        made = Disk(
            id=new_id("d"),
            account=caller.account,
            name=name,
            description=description,
            zone=caller.zone,
            kind="data",
            size_gib=size_gib,
            status="Available",
            volume=volume,
            delete_with_instance=False,
            created=now_utc(),
        )
        unit.add(made)
        return made.id

    return await transact(store, caller, body, str)
