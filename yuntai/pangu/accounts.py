"""Counts what each layer of a volume occupies: every chunk at one of its in-sync servers, and keeps the sums.

The sums are a record (:class:`~yuntai.model.cluster.VolumeUsage`) with the time they were counted, so that the API
answers from it and a new master need not count again.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

import msgspec

from yuntai import log
from yuntai.model.base import now_utc
from yuntai.model.cluster import NodeUsage, Volume, VolumeUsage
from yuntai.pangu import layout, rules, snapshot_rules, wire
from yuntai.pangu.errors import NotFound, PanguError, Unavailable
from yuntai.pangu.units import volume_number
from yuntai.state import Absent, StateError, Unchanged

if TYPE_CHECKING:
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers

EVERY_S = 60.0
OLD_S = 3600.0
"""A count of a tree that has not changed is made again after so long: its head is still being written."""
COUNT_WITHIN_S = 30.0
ASK_TIMEOUT_S = 10.0
AGAIN_S = 0.1
AT_ONCE_MAX = 2

_log = log.get("accounts")


class LayerUsage(msgspec.Struct, frozen=True):
    """One layer in a chunk server's answer: ``LayerUsage`` in crates/proto."""

    layer: int
    bytes: int
    exclusive_bytes: int
    visible_bytes: int


class Counted(msgspec.Struct, frozen=True):
    """A chunk server's answer."""

    done: bool
    layers: list[LayerUsage] = []


class Accounts:
    """The sums, and a loop that keeps those of volumes with snapshots fresh."""

    def __init__(self, office: Office, servers: Servers, atlas: Atlas) -> None:
        self._office = office
        self._servers = servers
        self._atlas = atlas
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._counting: dict[str, asyncio.Task[VolumeUsage]] = {}

    async def run(self) -> None:
        """Count what is old or changed, until cancelled."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                try:
                    await self.turn()
                except StateError as error:
                    _log.info("counting waits", error=str(error))
        finally:
            for task in self._counting.values():
                task.cancel()
            await asyncio.gather(*self._counting.values(), return_exceptions=True)

    async def turn(self) -> None:
        """Go once over all volumes that have snapshots."""
        await self._atlas.ready()
        volumes = list(self._atlas.volumes.values())
        counted = {one.value.id: one.value for one in await self._office.store.list(VolumeUsage)}
        stood = snapshot_rules.stood_on(volumes)
        for gone in set(counted) - {volume.id for volume in volumes}:
            await self._office.store.txn(compare=[self._office.guard], delete=[(VolumeUsage, gone)])
        for volume in volumes:
            if volume.state == "deleting" or not (volume.snapshots or volume.id in counted):
                continue
            dead = len(snapshot_rules.dead(volume, stood.get(volume.id, ())))
            if _is_old(counted.get(volume.id), volume, dead):
                try:
                    await self.count(volume.id)
                except PanguError as error:
                    _log.info("volume not counted", volume=volume.id, error=str(error))

    async def usage(self, volume: Volume, *, fresh: bool) -> VolumeUsage | None:
        """Return what was counted last, ``None`` if it never was; with ``fresh`` count now."""
        if fresh:
            return await self.count(volume.id)
        found = await self._office.store.get(VolumeUsage, volume.id)
        return found.value if found else None

    async def count(self, volume_id: str) -> VolumeUsage:
        """Count a volume; those who ask at the same time get the same count."""
        task = self._counting.get(volume_id)
        if task is None:
            task = self._counting[volume_id] = asyncio.create_task(self._count(volume_id))
            task.add_done_callback(lambda _: self._counting.pop(volume_id, None))
        try:
            async with asyncio.timeout(COUNT_WITHIN_S):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise Unavailable(f"volume {volume_id} is still being counted; ask again later") from error

    async def _count(self, volume_id: str) -> VolumeUsage:
        async with self._slots:
            volume = (await self._office.volume(volume_id)).value
            await self._atlas.ready()
            stood = snapshot_rules.stood_on(self._atlas.volumes.values()).get(volume_id, {})
            at = now_utc()
            sums: dict[int, list[int]] = {}
            answers = await asyncio.gather(
                *(self._ask(volume, stood, number, chunks) for number, chunks in (await self._shares(volume)).items())
            )
            for one in (layer for answer in answers for layer in answer):
                mine = sums.setdefault(one.layer, [0, 0, 0])
                for index, more in enumerate((one.bytes, one.exclusive_bytes, one.visible_bytes)):
                    mine[index] += more
            usage = VolumeUsage(
                id=volume_id,
                at=at,
                layers=len(volume.parents),
                dead=len(snapshot_rules.dead(volume, stood)),
                nodes={
                    str(layer): NodeUsage(bytes=has, exclusive_bytes=alone, visible_bytes=seen)
                    for layer, (has, alone, seen) in sorted(sums.items())
                },
            )
            await self._keep(usage)
            return usage

    async def _keep(self, usage: VolumeUsage) -> None:
        found = await self._office.store.get(VolumeUsage, usage.id)
        same: Any = Unchanged(found) if found else Absent(VolumeUsage, usage.id)
        await self._office.store.txn(compare=[self._office.guard, same], put=[usage])

    async def _shares(self, volume: Volume) -> dict[int, list[int]]:
        """Return which chunks each server is to count: an in-sync one that is up, and the load spread."""
        chunks = await layout.load_chunks(self._office.store, volume)
        up = {number for number, server in self._servers.by_number().items() if server.state != "down"}
        shares: dict[int, list[int]] = {}
        for index, replicas in enumerate(chunks):
            usable = [number for number in rules.in_sync(replicas, volume.stale) if number in up]
            if not usable:
                raise Unavailable(f"no in-sync server of chunk {index} of {volume.id} answers now")
            shares.setdefault(usable[index % len(usable)], []).append(index)
        return shares

    async def _ask(
        self, volume: Volume, stood: dict[int, list[str]], number: int, chunks: list[int]
    ) -> list[LayerUsage]:
        request = {
            "op": "account",
            "volume": volume_number(volume.id),
            "parents": list(volume.parents),
            "live": snapshot_rules.live(volume, stood),
            "chunks": chunks,
        }
        while True:
            try:
                answer = msgspec.convert(await self._servers.call(number, request, ASK_TIMEOUT_S), Counted)
            except (wire.Refused, NotFound, msgspec.ValidationError) as error:
                raise Unavailable(f"cs-{number} does not count {volume.id}: {error}") from error
            if answer.done:
                return answer.layers
            await asyncio.sleep(AGAIN_S)


def _is_old(usage: VolumeUsage | None, volume: Volume, dead: int) -> bool:
    if usage is None or (usage.layers, usage.dead) != (len(volume.parents), dead):
        return True
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(usage.at)
    return age > dt.timedelta(seconds=OLD_S)
