"""The store: what every other package sees of etcd.

:class:`Store` has two implementations with the same semantics, held by one test suite that runs against both:
:class:`yuntai.state.etcd.EtcdStore` and :class:`yuntai.state.memory.MemoryStore`.

    store = EtcdStore(config.etcd)                      # or MemoryStore()
    found = await store.get(Volume, "vol-…")            # Versioned[Volume] | None
    await store.create(volume)                          # raises Exists
    await store.update(Volume, id, lambda v: replace(v, state="attached"))
    ok = await store.txn(compare=[Absent(Disk, d.id)], put=[d, job], delete=[(Snapshot, s)])
    async for event in store.watch(Port):               # Reset first, then Put | Deleted
        ...
    async with store.lease(10) as lease:                # kept alive; lease.lost tells when it is gone
        await store.put(host, lease=lease)
    async with store.election("pangu", url) as leader:  # waits until elected
        await leader.lost.wait()

Every call ends within its bounded retries and raises a :class:`yuntai.state.errors.StateError`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from yuntai.model.base import Record
from yuntai.state import records
from yuntai.state.errors import Conflict, Exists, Invalid, LeaseLost, NotFound, Uncertain
from yuntai.state.events import Absent, Unchanged, Versioned

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from yuntai.model.guard import Guard
    from yuntai.state.election import Leadership
    from yuntai.state.events import Compare, Deleted, Listing, Put, Reset, T

UPDATE_ATTEMPTS = 16
TXN_OPERATIONS_MAX = 128
"""etcd's default limit of operations in one transaction; both stores hold it."""


class Lease:
    """A lease that is being kept alive. Records put with it vanish when it ends."""

    def __init__(self, lease_id: int, ttl_s: float) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.valid_until = 0.0
        """Until when, on the loop's clock, it is certain that etcd has not ended it; moved on by every renewal."""
        self.lost = asyncio.Event()
        """Set as soon as the lease may have expired: at the latest ``ttl_s`` after the last confirmed renewal began."""

    def check(self) -> None:
        """Raise :class:`LeaseLost` if the lease is known to be gone."""
        if self.lost.is_set():
            raise LeaseLost(f"lease {self.id:x} of {self.ttl_s} s has expired; take a new one")


class Store(ABC):
    """Typed records with revisions, transactions, watches, leases and elections."""

    @abstractmethod
    async def get(self, kind: type[T], id: str) -> Versioned[T] | None:  # noqa: A002 — the record's own word
        """Return the record, or ``None`` if there is none. Linearizable."""

    @abstractmethod
    async def list(self, kind: type[T], prefix: str = "") -> Listing[T]:
        """Return every record of a type whose id starts with ``prefix``, in order of id, as of one revision."""

    @abstractmethod
    async def txn(
        self,
        *,
        compare: Sequence[Compare] = (),
        put: Iterable[Record] = (),
        delete: Iterable[tuple[type[Record], str]] = (),
        lease: Lease | None = None,
    ) -> bool:
        """Write all of it if every comparison holds; return whether it did.

        ``delete`` of what is not there is fine. The same key may not be written twice. ``lease`` is for every ``put``.
        Raise :class:`Uncertain` if it cannot be told whether the write happened; :class:`Invalid` above 128 operations.
        """

    @abstractmethod
    def watch(self, kind: type[T], prefix: str = "") -> AsyncGenerator[Reset[T] | Put[T] | Deleted, None]:
        """Follow the records of a type for ever, over restarts of etcd and compactions.

        The first event is a :class:`Reset` with everything there is. Events come in order of revision, none is left
        out; after a lost connection or a compaction comes another ``Reset``. Ends only when the consumer closes it.
        """

    @abstractmethod
    def lease(self, ttl_s: float) -> AbstractAsyncContextManager[Lease]:
        """Hold a lease that is renewed in the background; revoked at the end of the ``async with``."""

    def lists_under(self, guard: Guard | None) -> Store:
        """Return where what ``guard`` protects may be listed as long as the guard is unchanged: here, or in memory."""
        del guard
        return self

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections; running watches end."""

    async def create(self, record: Record) -> None:
        """Write a record that must not be there yet; raise :class:`Exists` if it is."""
        if not await self.txn(compare=[Absent(type(record), record.id)], put=[record]):
            raise Exists(f"{record.KIND} {record.id!r} exists already")

    async def put(self, record: Record, lease: Lease | None = None) -> None:
        """Write a record whatever was there. For records with one writer; others use :meth:`update`."""
        await self.txn(put=[record], lease=lease)

    async def delete(self, kind: type[Record], id: str) -> bool:  # noqa: A002 — the record's own word
        """Delete a record; return whether it was there."""
        there = await self.get(kind, id) is not None
        await self.txn(delete=[(kind, id)])
        return there

    async def need(self, kind: type[T], id: str) -> Versioned[T]:  # noqa: A002 — the record's own word
        """Return the record or raise :class:`NotFound`."""
        found = await self.get(kind, id)
        if found is None:
            raise NotFound(f"there is no {kind.KIND} {id!r}")
        return found

    async def update(
        self,
        kind: type[T],
        id: str,  # noqa: A002 — the record's own word
        change: Callable[[T], T | None],
        *,
        attempts: int = UPDATE_ATTEMPTS,
        guard: Sequence[Compare] = (),
    ) -> T:
        """Replace a record by ``change(record)``, again with the newer record when another writer came first.

        ``change`` returns ``None`` or an equal record to leave it; it may raise, and may run several times. ``guard``
        is compared in the same transaction (a leadership, say). Return what is stored at the end. Raise
        :class:`NotFound`, or :class:`Conflict` after ``attempts``.
        """
        for attempt in range(attempts):
            current = await self.need(kind, id)
            changed = change(current.value)
            if changed is None or changed == current.value:
                return current.value
            try:
                if await self.txn(compare=[Unchanged(current), *guard], put=[changed]):
                    return changed
            except Uncertain:
                # The next turn reads what is there now and applies the change to that.
                continue
            finally:
                await asyncio.sleep(min(0.002 * attempt, 0.05))
        raise Conflict(f"{kind.KIND} {id!r} changed {attempts} times in a row while it was being updated; try again")

    def election(self, name: str, candidate: str, ttl_s: float = 5.0) -> AbstractAsyncContextManager[Leadership]:
        """Wait until this candidate leads, and hold the office. See :mod:`yuntai.state.election`."""
        from yuntai.state.election import elect  # the election stands on the store

        return elect(self, name, candidate, ttl_s)

    async def leader(self, name: str) -> str | None:
        """Return the text that the present leader gave as ``candidate``, or ``None`` when nobody leads."""
        from yuntai.state.election import Leader  # the election stands on the store

        found = await self.get(Leader, name)
        return found.value.candidate if found else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def check_writes(
    compare: Sequence[Compare], put: Sequence[Record], delete: Sequence[tuple[type[Record], str]]
) -> list[bytes]:
    """Return the keys of ``put`` and then of ``delete``; raise :class:`Invalid` for what etcd would refuse."""
    keys = [records.key_of(type(record), record.id) for record in put]
    keys += [records.key_of(kind, record_id) for kind, record_id in delete]
    if len(set(keys)) != len(keys):
        twice = sorted({key.decode() for key in keys if keys.count(key) > 1})
        raise Invalid(f"a transaction writes {', '.join(twice)} twice; etcd allows each key once")
    if max(len(keys), len(compare)) > TXN_OPERATIONS_MAX:
        raise Invalid(
            f"a transaction has {len(compare)} comparisons and {len(keys)} writes; "
            f"etcd takes {TXN_OPERATIONS_MAX} of each"
        )
    return keys
