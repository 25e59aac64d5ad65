"""The table of instance types: the operator's, in the store; the product's own until the operator changes it.

The first change writes the whole table, so that from then on only the records count and a deleted row stays deleted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.unit import Unit
from yuntai.model.compute import INSTANCE_TYPES, Instance, InstanceType
from yuntai.model.placement import SETTINGS_ID, SchedulerSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yuntai.state import Store

ROWS_MAX = 100  # the first change writes the product's rows and one more in one transaction
ATTEMPTS_MAX = 8
CPU_MAX, MEMORY_MIB_MAX, NICS_MAX = 256, 4 << 20, 8
_ID = re.compile(r"ecs\.[a-z0-9-]{1,24}\.[a-z0-9-]{1,24}")


async def table(source: Unit | Store) -> dict[str, InstanceType]:
    """Return every type by its id, the smaller ones first."""
    unit = source if isinstance(source, Unit) else Unit(source)
    settings = await unit.get(SchedulerSettings, SETTINGS_ID)
    rows = await unit.list(InstanceType) if settings is not None and settings.own_types else INSTANCE_TYPES.values()
    return {row.id: row for row in sorted(rows, key=lambda row: (row.family, row.cpu, row.memory_mib, row.id))}


async def need(source: Unit | Store, type_id: str) -> InstanceType:
    """Return a type, or the API's error for one that is not in the table."""
    if not type_id:
        raise errors.missing("InstanceType")
    there = await table(source)
    if type_id not in there:
        raise errors.invalid(
            "InstanceType",
            type_id,
            f"use one of {', '.join(there) or 'none: the operator has to create some'}",
            "InvalidInstanceType.ValueNotSupported",
        )
    return there[type_id]


async def create(store: Store, row: InstanceType) -> None:
    """Enter a type; the same one again is fine, another one of that id is refused: instances may have it."""
    _check(row)

    async def body(unit: Unit) -> None:
        there = await _own(unit)
        if there.get(row.id) == row:
            return
        if row.id in there:
            raise ApiError(
                "InstanceType.Duplicate",
                f"The instance type {row.id} exists with other values; create one of another id, or delete it first.",
                errors.CONFLICT,
            )
        if len(there) >= ROWS_MAX:
            raise errors.invalid("InstanceType", row.id, f"the table has {ROWS_MAX} rows already; delete some")
        unit.put(row)

    await _change(store, body)


async def delete(store: Store, type_id: str) -> None:
    """Take a type from the table. Instances that have it keep what they have."""

    async def body(unit: Unit) -> None:
        there = await _own(unit)
        if type_id not in there:
            raise errors.not_found("InstanceType", type_id, "InvalidInstanceType.NotFound")
        unit.delete(InstanceType, type_id)

    await _change(store, body)


async def users(store: Store) -> dict[str, int]:
    """Return how many instances have each type."""
    counts: dict[str, int] = {}
    for found in await store.list(Instance):
        counts[found.value.instance_type] = counts.get(found.value.instance_type, 0) + 1
    return counts


async def _own(unit: Unit) -> dict[str, InstanceType]:
    """Return the operator's table in a unit that changes it; the first time it is the product's, written here."""
    settings = await unit.get(SchedulerSettings, SETTINGS_ID) or SchedulerSettings(id=SETTINGS_ID)
    unit.put(settings)  # compared and written by every change: two of them never pass each other
    if settings.own_types:
        return {row.id: row for row in await unit.list(InstanceType)}
    await unit.list(InstanceType)
    for row in INSTANCE_TYPES.values():
        unit.put(row)
    unit.put(msgspec.structs.replace(settings, own_types=True))
    return dict(INSTANCE_TYPES)


async def _change(store: Store, body: Callable[[Unit], Awaitable[None]]) -> None:
    for _ in range(ATTEMPTS_MAX):
        unit = Unit(store)
        await body(unit)
        if await unit.commit():
            return
    raise ApiError("OperationConflict", "The table kept changing meanwhile; try again.", errors.CONFLICT)


def _check(row: InstanceType) -> None:
    if not _ID.fullmatch(row.id):
        raise errors.invalid("InstanceType", row.id, "use ecs.FAMILY.SIZE of lower-case letters, digits and hyphens")
    for field, value, most in (
        ("CpuCoreCount", row.cpu, CPU_MAX),
        ("MemoryMib", row.memory_mib, MEMORY_MIB_MAX),
        ("EniQuantity", row.nics, NICS_MAX),
    ):
        if not 1 <= value <= most:
            raise errors.invalid(field, value, f"use 1 to {most}")
