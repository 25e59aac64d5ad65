"""The store in memory: the same semantics as etcd's, for tests of planners and as a reference of what we rely on.

Records go through the same encoding, so what cannot be stored there cannot be stored here. Several stores can share
one :class:`Memory`, as several processes share one etcd.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yuntai.state import records
from yuntai.state.errors import LeaseLost, Unavailable
from yuntai.state.events import Absent, Deleted, Present, Put, Reset, Unchanged
from yuntai.state.store import Lease, Store, check_writes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

    from yuntai.model.base import Record
    from yuntai.state.events import Compare, Listing, T, Versioned

BACKLOG_EVENTS_MAX = 10_000
"""A watcher further behind gets a :class:`Reset`, as one behind a compaction does."""


@dataclass(slots=True)
class _Entry:
    value: bytes
    mod_revision: int
    lease: int = 0


@dataclass(slots=True, eq=False)
class _Watcher:
    prefix: bytes
    queue: list[tuple[bytes, bytes | None, int]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False
    closed: bool = False


class Memory:
    """The shared contents: key → bytes, revision, leases, watchers. Faults are made here."""

    def __init__(self) -> None:
        self.revision = 1
        self.entries: dict[bytes, _Entry] = {}
        self.leases: set[int] = set()
        self.watchers: set[_Watcher] = set()
        self.lease_ids = itertools.count(0x1001)
        self.write_ids = itertools.count(1)
        self._up = asyncio.Event()
        self._up.set()

    @property
    def available(self) -> bool:
        """Whether calls are answered; false: every call raises :class:`Unavailable`, and watches wait."""
        return self._up.is_set()

    @available.setter
    def available(self, value: bool) -> None:
        if value:
            self._up.set()
        else:
            self._up.clear()
        self.break_watches()

    async def wait_available(self) -> None:
        """Return once :attr:`available` is true."""
        await self._up.wait()

    def check(self, what: str) -> None:
        """Raise :class:`Unavailable` while :attr:`available` is false."""
        if not self.available:
            raise Unavailable(f"the store in memory was made unavailable ({what})")

    def break_watches(self) -> None:
        """Make every watch list again, as after a lost connection or a compaction."""
        for watcher in self.watchers:
            watcher.broken = True
            watcher.ready.set()

    def expire(self, lease_id: int) -> None:
        """End a lease now: its records are deleted, each change is seen by watches."""
        self.leases.discard(lease_id)
        doomed = [key for key, entry in self.entries.items() if lease_id and entry.lease == lease_id]
        if doomed:
            self.revision += 1
            for key in doomed:
                self.remove(key)

    def write(self, key: bytes, value: bytes, lease: int) -> None:
        """Store under the present revision and tell the watchers."""
        self.entries[key] = _Entry(value, self.revision, lease)
        self._tell(key, value)

    def remove(self, key: bytes) -> None:
        """Delete under the present revision and tell the watchers; fine if it is not there."""
        if self.entries.pop(key, None) is not None:
            self._tell(key, None)

    def _tell(self, key: bytes, value: bytes | None) -> None:
        for watcher in self.watchers:
            if key.startswith(watcher.prefix):
                watcher.queue.append((key, value, self.revision))
                watcher.broken = watcher.broken or len(watcher.queue) > BACKLOG_EVENTS_MAX
                watcher.ready.set()


class MemoryStore(Store):
    """The store on a :class:`Memory`, its own one if none is given."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self._own_watchers: set[_Watcher] = set()

    async def get(self, kind: type[T], id: str) -> Versioned[T] | None:  # noqa: A002 — the record's own word
        """See :meth:`Store.get`."""
        self.memory.check("get")
        key = records.key_of(kind, id)
        entry = self.memory.entries.get(key)
        return records.read(kind, key, entry.value, entry.mod_revision) if entry else None

    async def list(self, kind: type[T], prefix: str = "") -> Listing[T]:
        """See :meth:`Store.list`."""
        self.memory.check("list")
        return self._list(kind, records.kind_prefix(kind, prefix))

    def _list(self, kind: type[T], prefix: bytes) -> Listing[T]:
        found = sorted((key, entry) for key, entry in self.memory.entries.items() if key.startswith(prefix))
        return [records.read(kind, key, entry.value, entry.mod_revision) for key, entry in found]

    async def txn(
        self,
        *,
        compare: Sequence[Compare] = (),
        put: Iterable[Record] = (),
        delete: Iterable[tuple[type[Record], str]] = (),
        lease: Lease | None = None,
    ) -> bool:
        """See :meth:`Store.txn`."""
        self.memory.check("txn")
        await asyncio.sleep(0)  # as with etcd, others run before the answer
        puts = list(put)
        keys = check_writes(compare, puts, list(delete))
        if lease is not None:
            lease.check()
        if not all(self._holds(one) for one in compare):
            return False
        if lease is not None and puts and lease.id not in self.memory.leases:
            raise LeaseLost("the store no longer knows the lease; take a new one")
        write_id = f"memory-{next(self.memory.write_ids)}"
        values = records.encode_all(puts, compare, write_id)
        deleted = [key for key in keys[len(puts) :] if key in self.memory.entries]
        if puts or deleted:
            self.memory.revision += 1
        for key, value in zip(keys, values, strict=False):
            self.memory.write(key, value, lease.id if lease else 0)
        for key in deleted:
            self.memory.remove(key)
        return True

    def _holds(self, one: Compare) -> bool:
        match one:
            case Absent(type=kind, id=record_id):
                return records.key_of(kind, record_id) not in self.memory.entries
            case Present(type=kind, id=record_id):
                return records.key_of(kind, record_id) in self.memory.entries
            case Unchanged(record=record):
                entry = self.memory.entries.get(records.key_of(type(record.value), record.value.id))
                return entry is not None and entry.mod_revision == record.mod_revision

    async def watch(self, kind: type[T], prefix: str = "") -> AsyncGenerator[Reset[T] | Put[T] | Deleted, None]:
        """See :meth:`Store.watch`."""
        watcher = _Watcher(records.kind_prefix(kind, prefix), broken=True)
        self.memory.watchers.add(watcher)
        self._own_watchers.add(watcher)
        try:
            while not watcher.closed:
                if watcher.broken:
                    await self.memory.wait_available()
                    watcher.broken = False
                    watcher.queue.clear()
                    yield Reset(tuple(self._list(kind, watcher.prefix)))
                elif watcher.queue:
                    key, value, revision = watcher.queue.pop(0)
                    if value is None:
                        yield Deleted(records.id_of(kind, key))
                    else:
                        yield Put(records.read(kind, key, value, revision))
                else:
                    watcher.ready.clear()
                    await watcher.ready.wait()
        finally:
            self.memory.watchers.discard(watcher)
            self._own_watchers.discard(watcher)

    @asynccontextmanager
    async def lease(self, ttl_s: float) -> AsyncIterator[Lease]:
        """See :meth:`Store.lease`."""
        self.memory.check("lease")
        lease = Lease(next(self.memory.lease_ids), ttl_s)
        lease.valid_until = asyncio.get_running_loop().time() + ttl_s
        self.memory.leases.add(lease.id)
        renewal = asyncio.create_task(self._renew(lease))
        try:
            yield lease
        finally:
            lease.lost.set()
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            self.memory.expire(lease.id)

    async def _renew(self, lease: Lease) -> None:
        loop = asyncio.get_running_loop()
        while lease.id in self.memory.leases and loop.time() < lease.valid_until:
            await asyncio.sleep(min(lease.ttl_s / 20, 0.5))
            if self.memory.available:
                lease.valid_until = loop.time() + lease.ttl_s
        lease.lost.set()
        self.memory.expire(lease.id)

    async def close(self) -> None:
        """See :meth:`Store.close`."""
        for watcher in self._own_watchers:
            watcher.closed = True
            watcher.ready.set()
