"""Frees what deleted volumes held: asks every server that may have a part, until each has confirmed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from yuntai import log
from yuntai.model.cluster import Placement, Volume
from yuntai.pangu import wire
from yuntai.pangu.errors import NotFound, PanguError, Unavailable
from yuntai.pangu.units import volume_number
from yuntai.state import StateError, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.pangu.holdings import Holdings
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers

EVERY_S = 10.0
DELETE_TIMEOUT_S = 30.0
AT_ONCE_MAX = 4
DELETES_PER_TXN = 100

_log = log.get("garbage")


class Garbage:
    """A loop over the volumes in state ``deleting``."""

    def __init__(self, office: Office, servers: Servers, holdings: Holdings) -> None:
        self._office = office
        self._servers = servers
        self._holdings = holdings
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look now rather than at the next turn."""
        self._wake.set()

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.collect()
            except StateError as error:
                _log.info("garbage waits", error=str(error))
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def collect(self) -> None:
        """Go once over everything that is being deleted."""
        slots = asyncio.Semaphore(AT_ONCE_MAX)
        doomed = [one.value for one in await self._office.store.list(Volume) if one.value.state == "deleting"]
        await asyncio.gather(*(self._one(slots, volume) for volume in doomed))

    async def _one(self, slots: asyncio.Semaphore, volume: Volume) -> None:
        async with slots:
            try:
                await self._delete(volume)
            except (PanguError, StateError) as error:
                _log.info("volume not deleted everywhere yet", volume=volume.id, error=str(error))

    async def _delete(self, volume: Volume) -> None:
        records = [one.value for one in await self._office.store.list(Placement, f"{volume.id}.")]
        holders = {number for record in records for replicas in record.chunks for number in replicas}
        waiting: list[str] = []
        for number in sorted(holders - set(volume.deleted_on)):
            try:
                request = {"op": "delete_volume", "volume": volume_number(volume.id)}
                await self._servers.call(number, request, DELETE_TIMEOUT_S)
            except NotFound:
                pass  # the operator removed the server, and its disk with it
            except (Unavailable, wire.Refused) as error:
                waiting.append(str(error))
                continue
            volume = await self._office.change(volume.id, _confirmed(number))
        if waiting:
            raise Unavailable("; ".join(waiting))
        await self._forget(volume, records)

    async def _forget(self, volume: Volume, records: list[Placement]) -> None:
        """Delete the records; the volume's own goes last, so that a crash in between leaves something to find."""
        for start in range(0, len(records), DELETES_PER_TXN):
            batch = [(Placement, record.id) for record in records[start : start + DELETES_PER_TXN]]
            await self._office.store.txn(compare=[self._office.guard], delete=batch)
        found = await self._office.store.get(Volume, volume.id)
        if found is not None and found.value.state == "deleting":
            await self._office.store.txn(compare=[self._office.guard, Unchanged(found)], delete=[(Volume, volume.id)])
            self._holdings.deleted.add(volume.id)
            _log.info("volume deleted", volume=volume.id)


def _confirmed(number: int) -> Callable[[Volume], Volume]:
    return lambda volume: replace(volume, deleted_on=tuple(sorted({*volume.deleted_on, number})))
