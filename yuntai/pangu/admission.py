"""Lets gateways in at chunk servers with a new store, after nothing counts any more on what the disk before it had.

A server tells the random name of its store. A name that is not the recorded one means another disk, or an emptied one.
In this order, each step in etcd or durable at the server before the next:

1. the record takes the new name, not admitted: from here on no move to the server is committed;
2. the server leaves the in-sync set of every volume that has a replica placed there. The placements are listed after
   step 1, so none that names the server can have been missed;
3. gateways that read from the server for clones hear that it does not count: it would answer "nothing here", and they
   would take that for zeros;
4. every gateway with a volume open for writing says that no replica is joining there: a ``Moved`` from before, on its
   way for long, would make a replica count that went with the old disk. One that does not answer loses its generation,
   and with it its say;
5. the server is told to let gateways in, and the record says so.

What is missing is then copied there by whoever has the volume open, as after any absence.

A server that the operator gave up (:mod:`yuntai.pangu.operations`) was not admitted any more from then on. If it comes
back it goes through the same, even with the disk that it had.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from yuntai import log
from yuntai.model.cluster import ChunkServer, Placement, Volume
from yuntai.pangu import rules, wire
from yuntai.pangu.errors import NotFound, PanguError, Unavailable
from yuntai.state import StateError

if TYPE_CHECKING:
    from yuntai.pangu.mover import Mover
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers, Status
    from yuntai.pangu.serving import Serving

EVERY_S = 0.5
ADMIT_TIMEOUT_S = 10.0

_log = log.get("admission")


class Admission:
    """A loop over the servers' statuses."""

    def __init__(self, office: Office, servers: Servers, serving: Serving, mover: Mover) -> None:
        self._office = office
        self._servers = servers
        self._serving = serving
        self._mover = mover

    async def run(self) -> None:
        """Admit until cancelled."""
        while True:
            for number, status in self._servers.statuses().items():
                try:
                    await self.look(number, status)
                except (PanguError, StateError, wire.Refused) as error:
                    _log.info("a new store has to wait", server=f"cs-{number}", error=str(error))
            await asyncio.sleep(EVERY_S)

    async def look(self, number: int, status: Status) -> None:
        """Do what one server's store makes necessary; every step may be done again."""
        if not status.store:
            return  # a program from before stores had names
        found = await self._office.store.get(ChunkServer, f"cs-{number}") if self._suspect(number, status) else None
        if found is None:
            return
        record = found.value
        if record.admitted and status.admitted and record.store == status.store:
            return  # what was known of the record was a moment older
        if not record.store and status.admitted:
            await self._write(record.id, status.store, admitted=True)  # from before stores had names
            return
        if status.admitted and record.store not in ("", status.store):
            # It lets gateways in that may still count on the other disk: as quickly as can be.
            _log.error("a disk was exchanged for one of another server", server=record.id, store=status.store)
        if record.admitted or record.store != status.store:
            await self._write(record.id, status.store, admitted=False)
        for volume in await self.discount(number, "its disk was replaced"):
            await self._tell(volume)
        for one in [one.value for one in await self._office.store.list(Volume)]:
            if rules.holder(one) and one.state != "deleting":
                await self._end_joining(one.id, number)
        await self._servers.call(number, {"op": "admit", "store": status.store}, ADMIT_TIMEOUT_S)
        self._servers.note_admitted(number)
        await self._write(record.id, status.store, admitted=True)
        _log.info("a store was admitted", server=record.id, store=status.store)

    def _suspect(self, number: int, status: Status) -> bool:
        known = self._servers.by_number().get(number)
        return known is not None and not (known.admitted and status.admitted and known.store == status.store)

    async def _write(self, server: str, store: str, *, admitted: bool) -> None:
        def change(record: ChunkServer) -> ChunkServer:
            return replace(record, store=store, admitted=admitted, given_up="" if admitted else record.given_up)

        await self._office.store.update(ChunkServer, server, change, guard=[self._office.guard])

    async def discount(self, number: int, reason: str) -> list[str]:
        """Take the server out of the in-sync set of every volume with a replica there; return these volumes."""
        placed = {
            record.value.id.partition(".")[0]
            for record in await self._office.store.list(Placement)
            if any(number in replicas for replicas in set(record.value.chunks))
        }
        for volume in sorted(placed):
            try:
                await self._office.change(volume, lambda current: rules.discount(current, number, reason))
                _log.warning("its replicas count no more", volume=volume, server=f"cs-{number}", reason=reason)
            except NotFound:
                continue
        return sorted(placed)

    async def _end_joining(self, volume_id: str, number: int) -> None:
        async with self._office.lock(volume_id):
            volume = (await self._office.volume(volume_id)).value
            if not rules.holder(volume) or volume.state == "deleting":
                return
            if not self._serving.is_open(volume):
                await self._office.change(volume_id, rules.reopen)
                return
            under_way = await self._mover.tell(volume)
        if under_way is None or any(move.to == number for move in under_way):
            raise Unavailable(f"the gateway of {rules.holder(volume)} still moves a replica of {volume_id} there")

    async def _tell(self, volume: str) -> None:
        found = await self._office.store.get(Volume, volume)
        if found is None:
            return
        await self._serving.refresh_users(volume)
        try:
            async with self._office.lock(volume):
                record = (await self._office.volume(volume)).value
                if record.state != "deleting" and self._serving.is_open(record):
                    await self._serving.open(record)
        except PanguError as error:
            # Only sooner this way: at the first claim its gateway sees that nothing is there.
            _log.info("the volume's own gateway was not told", volume=volume, error=str(error))
