"""All records of some kinds, kept up to date from the store's watches, and an event that tells of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from yuntai import log
from yuntai.model.base import Record
from yuntai.state.errors import StateError
from yuntai.state.events import Deleted, Put, Reset

if TYPE_CHECKING:
    from yuntai.state.store import Store

_LOG = log.get("network.cache")
T = TypeVar("T", bound=Record)
RETRY_S = 2.0
_ALL: Mapping[type[Record], Callable[[Any], object]] = {}


class Cache:
    """What is in the store now. Nothing is to be derived from it before :meth:`ready`: until then it is incomplete."""

    def __init__(self, *kinds: type[Record], essence: Mapping[type[Record], Callable[[Any], object]] = _ALL) -> None:
        """Follow these kinds. ``essence`` tells what of a kind matters: a heartbeat in a record need wake nobody."""
        self.changed = asyncio.Event()
        self._essence = essence
        self._records: dict[type[Record], dict[str, Record]] = {kind: {} for kind in kinds}
        self._waiting = set(kinds)
        self._complete = asyncio.Event()

    def all(self, kind: type[T]) -> list[T]:
        """Return every record of a kind."""
        return cast("list[T]", list(self._records[kind].values()))

    async def ready(self) -> None:
        """Wait until the first full list of every kind is in."""
        await self._complete.wait()

    async def follow(self, store: Store) -> None:
        """Keep the cache up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in self._records:
                group.create_task(self._follow(store, kind))

    async def _follow(self, store: Store, kind: type[Record]) -> None:
        while True:
            try:
                async for event in store.watch(kind):
                    self._take(kind, event)
            except StateError as error:
                # A record that this build cannot read, say. What is known stays; acting on less would cut guests off.
                _LOG.error("records cannot be followed", kind=kind.KIND, error=str(error))
            else:
                return  # the store was closed
            await asyncio.sleep(RETRY_S)

    def _take(self, kind: type[Record], event: Reset[Record] | Put[Record] | Deleted) -> None:
        known = self._records[kind]
        match event:
            case Reset(records=found):
                self._records[kind] = {record.value.id: record.value for record in found}
                self._waiting.discard(kind)
                if not self._waiting:
                    self._complete.set()
            case Put(record=record):
                old, known[record.value.id] = known.get(record.value.id), record.value
                essence = self._essence.get(kind)
                if old is not None and essence is not None and essence(old) == essence(record.value):
                    return
            case Deleted(id=record_id):
                known.pop(record_id, None)
        self.changed.set()
