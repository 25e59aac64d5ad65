"""Records in this process's memory, fed by watches: what makes a description cost no trip to etcd.

:class:`CachedStore` is a :class:`~yuntai.state.Store`, so whatever reads records reads these without knowing. It holds
to two rules. *Level-triggered*: a :class:`~yuntai.state.Reset` replaces everything, so nothing that a broken
connection hid stays wrong. *Read your writes*: a transaction made through it returns only when the cache shows it;
what other processes wrote arrives by the watch, a moment after they wrote it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, contextmanager
from typing import Any, Generic, TypeAlias, TypeVar

from yuntai import log
from yuntai.model.base import Record
from yuntai.model.guard import Guard
from yuntai.state import Absent, Deleted, Lease, Put, Reset, StateError, Store, Unchanged, Versioned

T = TypeVar("T", bound=Record)
Holds: TypeAlias = Callable[[Versioned[T] | None], bool]

CATCH_UP_S = 2.0
"""How long a write waits for its own event before the kind is read from etcd instead."""
RETRY_S = 0.5
SORT_ANEW_FROM = 1_000
"""So many changes since records were last listed in order are no longer put in their places one by one."""

_log = log.get("cache")


class Cache(Generic[T]):
    """Every record of one type, and those who wait for one of them to change."""

    def __init__(self, store: Store, kind: type[T]) -> None:
        self.kind = kind
        self.records: dict[str, Versioned[T]] = {}
        self.ready = asyncio.Event()
        self.listeners: list[Callable[[Reset[T] | Put[T] | Deleted], None]] = []
        self._store = store
        self._sorted: list[Versioned[T]] | None = None
        self._changed: set[str] = set()  # what is to be brought up to date in it
        self._expected: dict[str, list[_Expectation[T]]] = {}

    def ordered(self) -> list[Versioned[T]]:
        """Return all records in order of id; the list is shared, do not change it."""
        if self._sorted is None:
            self._sorted = [self.records[key] for key in sorted(self.records)]
        elif self._changed:
            self._sorted = self._brought_up_to_date(self._sorted.copy())  # who has the former list may be reading it
        self._changed.clear()
        return self._sorted

    def _note(self, key: str) -> None:
        self._changed.add(key)
        if self._sorted is None or len(self._changed) > SORT_ANEW_FROM:
            self._sorted = None
            self._changed.clear()

    def _brought_up_to_date(self, ordered: list[Versioned[T]]) -> list[Versioned[T]]:
        for key in self._changed:
            place = bisect_left(ordered, key, key=lambda record: record.value.id)
            there = place < len(ordered) and ordered[place].value.id == key
            ordered[place : place + there] = [self.records[key]] if key in self.records else []
        return ordered

    def with_prefix(self, prefix: str) -> list[Versioned[T]]:
        """Return the records whose ids start with ``prefix``, in order of id."""
        everything = self.ordered()
        if not prefix:
            return everything
        start = bisect_left(everything, prefix, key=lambda record: record.value.id)
        end = start
        while end < len(everything) and everything[end].value.id.startswith(prefix):
            end += 1
        return everything[start:end]

    async def follow(self) -> None:
        """Feed the cache until cancelled. A watch that ends with an error is begun again."""
        while True:
            try:
                async with aclosing(self._store.watch(self.kind)) as events:
                    async for event in events:
                        self.apply(event)
            except StateError as error:
                _log.warning("watch ended, beginning it again", kind=self.kind.KIND, error=str(error))
            await asyncio.sleep(RETRY_S)

    def apply(self, event: Reset[T] | Put[T] | Deleted) -> None:
        """Take in one event and tell those who expect it."""
        for listener in self.listeners:
            listener(event)
        match event:
            case Reset(records=records):
                self._sorted = None
                self.records = {record.value.id: record for record in records}
                self.ready.set()
                for key in list(self._expected):
                    self._tell(key)
            case Put(record=record):
                known = self.records.get(record.value.id)
                if known is None or known.mod_revision <= record.mod_revision:
                    self.records[record.value.id] = record
                self._note(record.value.id)
                self._tell(record.value.id)
            case Deleted(id=gone):
                self.records.pop(gone, None)
                self._note(gone)
                self._tell(gone)

    def _tell(self, record_id: str) -> None:
        found = self.records.get(record_id)
        for expectation in self._expected.get(record_id, ()):
            if expectation.holds(found):
                expectation.met.set()

    @contextmanager
    def expect(self, record_id: str, holds: Holds[T]) -> Iterator[_Expectation[T]]:
        """Look out, from now on, for a state of one record; a state that is soon replaced counts too."""
        expectation = _Expectation(holds)
        self._expected.setdefault(record_id, []).append(expectation)
        try:
            yield expectation
        finally:
            mine = self._expected[record_id]
            mine.remove(expectation)
            if not mine:
                del self._expected[record_id]

    async def settle(self, record_id: str, expectation: _Expectation[T]) -> None:
        """Return when the expectation has been met; after :data:`CATCH_UP_S` read the kind anew and return."""
        if expectation.met.is_set() or expectation.holds(self.records.get(record_id)):
            return
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await expectation.met.wait()
        except TimeoutError:
            _log.warning("own write did not arrive by watch, reading anew", kind=self.kind.KIND, id=record_id)
            self.apply(Reset(tuple(await self._store.list(self.kind))))


class _Expectation(Generic[T]):
    def __init__(self, holds: Holds[T]) -> None:
        self.holds = holds
        self.met = asyncio.Event()


_Pending: TypeAlias = list[tuple[Cache[Any], str, _Expectation[Any]]]


class CachedStore(Store):
    """A store whose reads of the followed types come from memory, and whose writes wait until memory has them.

    With ``memory`` it is a view on the caches of that one which reads from etcd itself: for what reads to write.
    """

    def __init__(self, store: Store, kinds: Iterable[type[Record]], *, memory: CachedStore | None = None) -> None:
        self.inner = store
        self.caches: dict[type[Record], Cache[Any]] = {kind: Cache(store, kind) for kind in kinds}
        # domain → the guard that this process wrote last, when the caches showed what was written with it
        self.guards: dict[str, str] = {}
        if memory is not None:
            self.caches, self.guards = memory.caches, memory.guards
        self._fresh = memory is not None
        self._memory = memory or self
        self._writer: CachedStore | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def writer(self) -> CachedStore:
        """Return the view that reads from etcd and writes through the same caches."""
        if self._writer is None:
            self._writer = CachedStore(self.inner, (), memory=self)
        return self._writer

    def lists_under(self, guard: Guard | None) -> Store:
        """See :meth:`Store.lists_under`.

        Who writes under a guard changes it. If it is what this process wrote last, nobody else has written since, and
        our own writes are in the caches: a transaction returns only then, and units of one domain do not overlap here.
        """
        unchanged = guard is not None and self.guards.get(guard.id) == guard.by
        return self._memory if unchanged else self

    async def start(self, timeout_s: float = 30.0) -> None:
        """Begin to follow, and return when every cache is filled; raise :class:`TimeoutError`: call it again then."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(cache.follow()) for cache in self.caches.values()]
        async with asyncio.timeout(timeout_s):
            for cache in self.caches.values():
                await cache.ready.wait()

    async def stop(self) -> None:
        """End the watches. The store below stays open."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def peek(self, kind: type[T], id: str) -> T | None:  # noqa: A002 — the record's own word
        """Return a followed record from memory, at once."""
        found: Versioned[T] | None = self.caches[kind].records.get(id)
        return found.value if found else None

    async def seen(self, kind: type[T], record_id: str, holds: Holds[T], timeout_s: float) -> bool:
        """Wait until ``holds`` is true of a followed record (None where there is none); return whether it became so."""
        cache: Cache[T] = self.caches[kind]
        with cache.expect(record_id, holds) as expectation:
            if holds(cache.records.get(record_id)):
                return True
            try:
                async with asyncio.timeout(timeout_s):
                    await expectation.met.wait()
            except TimeoutError:
                return False
        return True

    async def get(self, kind: type[T], id: str) -> Versioned[T] | None:  # noqa: A002 — the record's own word
        """See :meth:`Store.get`."""
        cache = None if self._fresh else self.caches.get(kind)
        return await self.inner.get(kind, id) if cache is None else cache.records.get(id)

    async def list(self, kind: type[T], prefix: str = "") -> list[Versioned[T]]:
        """See :meth:`Store.list`."""
        cache = None if self._fresh else self.caches.get(kind)
        return await self.inner.list(kind, prefix) if cache is None else cache.with_prefix(prefix)

    async def txn(
        self,
        *,
        compare: Sequence[Any] = (),
        put: Iterable[Record] = (),
        delete: Iterable[tuple[type[Record], str]] = (),
        lease: Lease | None = None,
    ) -> bool:
        """See :meth:`Store.txn`; returns once the caches show the transaction."""
        puts, deletes = list(put), list(delete)
        before = {
            (type(one.record.value), one.record.value.id): one.record.mod_revision
            for one in compare
            if isinstance(one, Unchanged)
        }
        created = {(one.type, one.id) for one in compare if isinstance(one, Absent)}
        with ExitStack() as stack:
            pending: _Pending = []
            for record in puts:
                key = (type(record), record.id)
                new = key in created or self._unknown(*key)
                self._look_out(stack, pending, key, _exists if new else _shows(record, before.get(key)))
            for key in deletes:
                self._look_out(stack, pending, key, _gone)
            if not await self.inner.txn(compare=compare, put=puts, delete=deletes, lease=lease):
                return False
            for cache, record_id, expectation in pending:
                await cache.settle(record_id, expectation)
        self.guards.update({record.id: record.by for record in puts if isinstance(record, Guard)})
        return True

    def _unknown(self, kind: type[Record], record_id: str) -> bool:
        cache = self.caches.get(kind)
        return cache is not None and record_id not in cache.records

    def _look_out(
        self,
        stack: ExitStack,
        pending: _Pending,
        key: tuple[type[Record], str],
        holds: Holds[Any],
    ) -> None:
        cache = self.caches.get(key[0])
        if cache is not None:
            pending.append((cache, key[1], stack.enter_context(cache.expect(key[1], holds))))

    def watch(self, kind: type[T], prefix: str = "") -> AsyncGenerator[Reset[T] | Put[T] | Deleted, None]:
        """See :meth:`Store.watch`."""
        return self.inner.watch(kind, prefix)

    def lease(self, ttl_s: float) -> AbstractAsyncContextManager[Lease]:
        """See :meth:`Store.lease`."""
        return self.inner.lease(ttl_s)

    async def close(self) -> None:
        """End the watches and close the store below."""
        await self.stop()
        await self.inner.close()


def _shows(written: Record, before: int | None) -> Holds[Any]:
    """Return whether a record is what was written, or something later.

    The transaction's own revision is not known here; but it is above the one that it compared with, and equal contents
    are as good as the write itself.
    """

    def holds(found: Versioned[Any] | None) -> bool:
        if found is None:
            return before is not None
        return found.value == written or (before is not None and found.mod_revision > before)

    return holds


def _exists(found: Versioned[Any] | None) -> bool:
    return found is not None


def _gone(found: Versioned[Any] | None) -> bool:
    return found is None
