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

RECORDS_PER_BREATH = 50


class Atlas:
    """Volumes by id, and the servers of their chunks.

    Equal sets of replicas are one tuple in memory: copysets make them few, so a chunk costs one pointer.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self.volumes: dict[str, Volume] = {}
        self._placements: dict[str, dict[int, tuple[Replicas, ...]]] = {}
        self._known: dict[Replicas, Replicas] = {}
        self._learned = 0
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

    async def touched(self, view: View) -> list[str]:
        """Return the volumes of which something must move.

        Whether that is so depends on a chunk's set of replicas alone, so few sets are judged, not all chunks.
        """
        nowhere: frozenset[int] = frozenset()
        bad = {replicas for replicas in self._known if view.verdict(replicas, nowhere) is not None}
        names: list[str] = []
        used: set[Replicas] = set()
        learned = self._learned
        for turn, (name, records) in enumerate(list(self._placements.items()) if bad else ()):
            if turn % RECORDS_PER_BREATH == 0:
                await asyncio.sleep(0)
            found = set().union(*(bad.intersection(record) for record in records.values()))
            if found:
                names.append(name)
                used |= found
        if learned == self._learned:
            # What no chunk is placed on any more, such as the sets of a server that is gone, is not judged again.
            for replicas in bad - used:
                del self._known[replicas]
        return names

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
                        placements: dict[str, dict[int, tuple[Replicas, ...]]] = {}
                        for turn, record in enumerate(records):
                            # A large cloud's chunks take seconds, and the office is lost if nothing else runs for long.
                            if turn % RECORDS_PER_BREATH == 0:
                                await asyncio.sleep(0)
                            self._learn(record.value, placements)
                        self._placements = placements
                        self._filled[1].set()
                    case Put(record=record):
                        self._learn(record.value, self._placements)
                    case Deleted(id=gone):
                        volume_id, _, index = gone.partition(".")
                        self._placements.get(volume_id, {}).pop(int(index), None)
                        if not self._placements.get(volume_id):
                            self._placements.pop(volume_id, None)

    def _learn(self, record: Placement, placements: dict[str, dict[int, tuple[Replicas, ...]]]) -> None:
        volume_id, _, index = record.id.partition(".")
        shared = tuple(self._known.setdefault(replicas, replicas) for replicas in record.chunks)
        placements.setdefault(volume_id, {})[int(index)] = shared
        self._learned += 1
