"""Leader election on a leased record: who creates ``election/<name>`` leads until the lease ends.

The record itself is the fence: a write of the leader that carries :attr:`Leadership.guard` in its transaction fails
once another leads, even if this process has not noticed yet.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, ClassVar

from yuntai.model.base import Record
from yuntai.state.errors import LeaseLost, Uncertain
from yuntai.state.events import Absent, Deleted, Put, Reset, Unchanged, Versioned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yuntai.state.store import Lease, Store


class Leader(Record, frozen=True, kw_only=True):
    """Who leads the election ``id``."""

    KIND: ClassVar[str] = "election"

    candidate: str
    lease: int


class Leadership:
    """An office that is held now. ``lost`` is set as soon as it may have ended."""

    def __init__(self, record: Versioned[Leader], lost: asyncio.Event) -> None:
        self.record = record
        self.lost = lost

    @property
    def guard(self) -> Unchanged[Leader]:
        """The comparison that makes a transaction fail once this leadership is over."""
        return Unchanged(self.record)


@asynccontextmanager
async def elect(store: Store, name: str, candidate: str, ttl_s: float) -> AsyncIterator[Leadership]:
    """Stand for ``name`` until elected, then yield the :class:`Leadership`; resign at the end.

    ``candidate`` is what others see (a URL). After a leader that died without resigning the next one is elected
    within about ``ttl_s``. Raise a :class:`~yuntai.state.errors.StateError` if etcd stays unreachable while waiting.
    """
    while True:
        await _wait_vacant(store, name)
        async with store.lease(ttl_s) as lease:
            record = await _try(store, name, candidate, lease)
            if record is None:
                continue
            lost = asyncio.Event()
            guard = asyncio.create_task(_guard(store, record, lease, lost))
            try:
                yield Leadership(record, lost)
            finally:
                guard.cancel()
                await asyncio.gather(guard, return_exceptions=True)
            return


async def _try(store: Store, name: str, candidate: str, lease: Lease) -> Versioned[Leader] | None:
    wanted = Leader(id=name, candidate=candidate, lease=lease.id)
    # What is stored decides, whatever the write said: the lease's id tells whose record it is.
    with suppress(Uncertain, LeaseLost):
        await store.txn(compare=[Absent(Leader, name)], put=[wanted], lease=lease)
    found = await store.get(Leader, name)
    return found if found is not None and found.value.lease == lease.id else None


async def _wait_vacant(store: Store, name: str) -> None:
    async with aclosing(store.watch(Leader, name)) as events:
        async for event in events:
            match event:
                case Reset(records=records) if not any(r.value.id == name for r in records):
                    return
                case Deleted(id=gone) if gone == name:
                    return
                case _:
                    continue


async def _guard(store: Store, held: Versioned[Leader], lease: Lease, lost: asyncio.Event) -> None:
    """Set ``lost`` when the lease ends or the record is no longer ours."""
    watch = asyncio.create_task(_wait_replaced(store, held))
    ended = asyncio.create_task(lease.lost.wait())
    try:
        await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        lost.set()
        watch.cancel()
        ended.cancel()
        await asyncio.gather(watch, ended, return_exceptions=True)


async def _wait_replaced(store: Store, held: Versioned[Leader]) -> None:
    name = held.value.id
    async with aclosing(store.watch(Leader, name)) as events:
        async for event in events:
            match event:
                case Reset(records=records):
                    mine = any(r.value.id == name and r.mod_revision == held.mod_revision for r in records)
                    if not mine:
                        return
                case Put(record=record) if record.value.id == name and record.mod_revision != held.mod_revision:
                    return
                case Deleted(id=gone) if gone == name:
                    return
                case _:
                    continue
