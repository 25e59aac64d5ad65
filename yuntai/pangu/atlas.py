"""All volumes and placements in memory, following etcd: what the planner looks through every few seconds.

It may be a moment behind. Whoever commits something compares the records themselves.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from typing import TYPE_CHECKING

from yuntai.model.cluster import Placement, Volume
from yuntai.pangu.units import chunk_count
from yuntai.state import Deleted, Put, Reset

if TYPE_CHECKING:
    from yuntai.pangu.office import Office
    from yuntai.pangu.planner import View
    from yuntai.pangu.rules import Replicas


class Atlas:
    """Volumes by id, and the servers of their chunks.

    Equal sets of replicas are one tuple in memory: copysets make them few, so a chunk costs one pointer.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self.volumes: dict[str, Volume] = {}
        self._placements: dict[str, dict[int, tuple[Replicas, ...]]] = {}
        self._known: dict[Replicas, Replicas] = {}
        self._filled = [asyncio.Event(), asyncio.Event()]

    async def run(self) -> None:
        """Follow the records until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_volumes())
            group.create_task(self._follow_placements())

    async def ready(self) -> None:
        """Wait until everything there is has been read once."""
        for filled in self._filled:
            await filled.wait()

    def chunks(self, volume_id: str) -> list[Replicas]:
        """Return the servers of each chunk; empty while a record of it has not been seen yet."""
        volume, records = self.volumes.get(volume_id), self._placements.get(volume_id)
        if volume is None or records is None or len(records) <= max(records):
            return []
        found = list(itertools.chain.from_iterable(records[index] for index in range(len(records))))
        wanted = chunk_count(volume.size_bytes)
        return found[:wanted] if len(found) >= wanted else []

    def bad(self, view: View) -> frozenset[Replicas]:
        """Return the sets of replicas, among all that were ever seen, of which something must move."""
        nowhere: frozenset[int] = frozenset()
        return frozenset(replicas for replicas in self._known if view.verdict(replicas, nowhere) is not None)

    def touches(self, volume_id: str, sets: frozenset[Replicas]) -> bool:
        """Return whether a chunk of the volume is placed on one of these sets."""
        return any(not sets.isdisjoint(record) for record in self._placements.get(volume_id, {}).values())

    def on_server(self, volume_id: str, number: int) -> bool:
        """Return whether a replica of the volume has its place on a server."""
        records = self._placements.get(volume_id, {})
        return any(number in replicas for record in records.values() for replicas in set(record))

    async def _follow_volumes(self) -> None:
        async with aclosing(self._office.store.watch(Volume)) as events:
            async for event in events:
                match event:
                    case Reset(records=records):
                        self.volumes = {record.value.id: record.value for record in records}
                        self._filled[0].set()
                    case Put(record=record):
                        self.volumes[record.value.id] = record.value
                    case Deleted(id=gone):
                        self.volumes.pop(gone, None)

    async def _follow_placements(self) -> None:
        async with aclosing(self._office.store.watch(Placement)) as events:
            async for event in events:
                match event:
                    case Reset(records=records):
                        self._placements.clear()
                        for record in records:
                            self._learn(record.value)
                        self._filled[1].set()
                    case Put(record=record):
                        self._learn(record.value)
                    case Deleted(id=gone):
                        volume_id, _, index = gone.partition(".")
                        self._placements.get(volume_id, {}).pop(int(index), None)
                        if not self._placements.get(volume_id):
                            self._placements.pop(volume_id, None)

    def _learn(self, record: Placement) -> None:
        volume_id, _, index = record.id.partition(".")
        shared = tuple(self._known.setdefault(replicas, replicas) for replicas in record.chunks)
        self._placements.setdefault(volume_id, {})[int(index)] = shared
