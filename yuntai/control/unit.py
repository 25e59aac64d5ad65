"""A unit of work: reads are remembered, writes collected, and all of it committed in one transaction.

Every record that was read by its id is compared at commit, and so is every listed record that is written. What is
derived from *listing* is not protected by that; see :meth:`Unit.guard`.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, TypeVar

from yuntai.model.base import Record
from yuntai.model.guard import Guard
from yuntai.state import Absent, Store, Unchanged, Versioned

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T", bound=Record)
_Key = tuple[type[Record], str]


class Unit:
    """Reads of one moment and the writes that follow from them."""

    def __init__(self, store: Store, fences: Sequence[Any] = ()) -> None:
        self.store = store
        self._fences = tuple(fences)
        self._read: dict[_Key, Versioned[Any] | None] = {}
        self._listed: dict[type[Record], list[Versioned[Any]]] = {}
        self._values: dict[type[Record], list[Any]] = {}  # what was listed, without its revisions
        self._written: dict[_Key, Record | None] = {}
        self._new: set[_Key] = set()
        self._lister = store

    async def get(self, kind: type[T], identifier: str) -> T | None:
        """Return the record as this unit sees it, its own writes included; it must be the same at commit."""
        key = (kind, identifier)
        if key in self._written:
            written = self._written[key]
            return written if isinstance(written, kind) else None
        if key not in self._read:
            self._read[key] = await self.store.get(kind, identifier) if identifier else None
        found = self._read[key]
        return found.value if found is not None else None

    async def list(self, kind: type[T]) -> list[T]:
        """Return all records of a kind, this unit's own writes included."""
        if kind not in self._listed:
            self._listed[kind] = await self._lister.list(kind)
            self._values[kind] = [found.value for found in self._listed[kind]]
        written = {key[1]: record for key, record in self._written.items() if key[0] is kind}
        values: list[T] = self._values[kind]
        if not written:
            return values.copy()
        merged: dict[str, T] = {record.id: record for record in values}
        for identifier, record in written.items():
            if isinstance(record, kind):
                merged[identifier] = record
            else:
                merged.pop(identifier, None)
        return list(merged.values())

    def put(self, record: Record) -> None:
        """Write a record that was read or listed here (compared), or one that must not be there yet (compared too)."""
        self._written[type(record), record.id] = record

    def add(self, record: Record) -> None:
        """Write a record with an id just made from random digits: nothing to compare."""
        self._new.add((type(record), record.id))
        self.put(record)

    def delete(self, kind: type[Record], identifier: str) -> None:
        """Delete a record."""
        self._written[kind, identifier] = None

    async def guard(self, domain: str, *, serial: bool = False) -> None:
        """Let no other unit that guards the same domain commit between this unit's reads and its commit.

        Call it before the first listing. ``serial``: this process commits units of the domain one after the other, so
        what it keeps in memory may be listed while nobody else has committed one since its own last one.
        """
        written = {kind for kind, _ in self._written}
        self._listed = {kind: found for kind, found in self._listed.items() if kind in written}  # others anew, from now
        found = await self.get(Guard, domain)
        self._lister = self.store.lists_under(found) if serial else self.store
        self.put(Guard(id=domain, by=secrets.token_hex(8)))

    def narrowed(self, kind: type[Record], identifier: str) -> Unit:
        """Return a unit without writes that remembers only the reading of one record."""
        other = Unit(self.store, self._fences)
        other._read[kind, identifier] = self._read[kind, identifier]
        return other

    async def commit(self) -> bool:
        """Write everything if nothing that was read has changed; return whether it did."""
        if not self._written:
            return True
        compare = [*self._fences]
        for key, found in self._read.items():
            if key[1]:
                compare.append(Unchanged(found) if found is not None else Absent(*key))
        for key in self._written:
            if key in self._read or key in self._new:
                continue
            listed = self._listed_as(*key)
            if listed is not None:
                compare.append(Unchanged(listed))
            elif self._written[key] is not None:
                compare.append(Absent(*key))
        put = [record for record in self._written.values() if record is not None]
        gone = [key for key, record in self._written.items() if record is None]
        return await self.store.txn(compare=compare, put=put, delete=gone)

    def _listed_as(self, kind: type[Record], identifier: str) -> Versioned[Any] | None:
        """Return a record as it was listed; lists are in order of id."""
        listed = self._listed.get(kind, [])
        place = bisect_left(listed, identifier, key=_id_of)
        return listed[place] if place < len(listed) and _id_of(listed[place]) == identifier else None


def _id_of(found: Versioned[Any]) -> str:
    return str(found.value.id)
