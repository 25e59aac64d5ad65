"""The agent's view of the records: instances of this host, disks, ports. Kept by watches, read without waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from yuntai import log
from yuntai.model.base import Record
from yuntai.state import Deleted, Put, Reset, StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.state import Store

T = TypeVar("T", bound=Record)
RETRY_S = 2.0
_LOG = log.get("compute.inventory")


class Mirror(Generic[T]):
    """Every record of one type, as fresh as the watch. ``changed`` is called with each id that differs."""

    def __init__(self, store: Store, kind: type[T], changed: Callable[[str], None]) -> None:
        self._store = store
        self._kind = kind
        self._changed = changed
        self._records: dict[str, T] = {}
        self.ready = asyncio.Event()
        """Set once everything there is has been seen: before that, absence means nothing."""

    def get(self, record_id: str) -> T | None:
        """Return the record as last seen."""
        return self._records.get(record_id)

    def all(self) -> dict[str, T]:
        """Return all records as last seen."""
        return dict(self._records)

    async def run(self) -> None:
        """Follow the records for ever."""
        while True:
            try:
                await self._follow()
            except StateError as error:
                # A record that this build cannot read, say: what is known stays, and guests run on.
                _LOG.error("records cannot be followed", kind=self._kind.KIND, error=str(error))
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        async for event in self._store.watch(self._kind):
            match event:
                case Reset():
                    self._replace({one.value.id: one.value for one in event.records})
                case Put():
                    self._records[event.record.value.id] = event.record.value
                    self._changed(event.record.value.id)
                case Deleted():
                    self._records.pop(event.id, None)
                    self._changed(event.id)

    def _replace(self, fresh: dict[str, T]) -> None:
        old, self._records = self._records, fresh
        self.ready.set()
        for record_id in {*old, *fresh}:
            if old.get(record_id) != fresh.get(record_id):
                self._changed(record_id)
