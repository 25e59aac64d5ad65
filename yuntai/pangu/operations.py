"""What the operator asks of the store as a whole. Every operation may be asked again."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from yuntai import log
from yuntai.model.base import now_utc
from yuntai.model.cluster import ChunkServer, PanguSettings, Placement
from yuntai.pangu import planner, rules, wire
from yuntai.pangu import settings as tunables
from yuntai.pangu.errors import Conflict, InUse, Invalid, NotFound, Unavailable
from yuntai.pangu.units import volume_number
from yuntai.state import NotFound as NoRecord
from yuntai.state import Unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yuntai.pangu.session import Session

CALL_TIMEOUT_S = 10.0
SERVER_ID = re.compile(r"cs-\d{1,9}")

_log = log.get("operations")


class Operations:
    """Drain, balance, scrub, salvage, settings, and that a server is given up or removed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._office = session.office

    def settings(self) -> list[dict[str, Any]]:
        """Return every tunable with its meaning; ``value`` is ``None`` where nothing was set."""
        return [
            {
                "name": name,
                "where": one.where,
                "value": self._session.tuning.now.tunables.get(name),
                "default": one.default,
                "meaning": one.meaning,
            }
            for name, one in sorted(tunables.TUNABLES.items(), key=lambda item: (item[1].where, item[0]))
        ]

    async def set(self, values: Mapping[str, int | None]) -> None:
        """Set tunables, or take them back (``None``)."""
        await self._session.tuning.change(lambda current: tunables.changed(current, values))
        _log.info("settings changed", values=dict(values))
        self._session.mover.wake()

    async def drain(self, servers: Iterable[str], rack: str, *, undo: bool) -> list[str]:
        """Have all replicas leave servers, or a whole rack; ``undo`` lets them stay. Return which servers it is."""
        await self._session.servers.ready()
        records = self._session.servers.records()
        chosen = [_server_id(server) for server in servers] or [one.id for one in records if one.rack == rack and rack]
        if not chosen:
            known = ", ".join(sorted({one.rack for one in records}))
            raise Invalid(f"no chunk server is chosen; give servers, or a rack: there are {known or 'none'}")
        for server in chosen:
            try:
                await self._office.store.update(ChunkServer, server, _drained(undo=undo), guard=[self._office.guard])
            except NoRecord as error:
                raise NotFound(f"there is no chunk server {server}") from error
        _log.info("not drained any more" if undo else "drained", servers=chosen)
        self._session.mover.wake()
        return chosen

    async def balance(self, *, stop: bool) -> dict[str, Any]:
        """Begin to move replicas from full disks to empty ones, or stop; it stops by itself when it is even."""

        def rule(current: PanguSettings) -> PanguSettings:
            return replace(current, balancing=not stop)

        session = self._session
        view = session.mover.view
        donors = planner.donors(view, session.tuning.limits(), going_on=False)
        if not stop and not donors:
            stop = True
        await session.tuning.change(rule)
        session.mover.wake()
        return {"balancing": not stop, "from": [f"cs-{number}" for number in sorted(donors)]}

    async def scrub(self, servers: Iterable[str]) -> dict[str, Any]:
        """Have servers read everything now, to find damage; all that answer, if none is named."""
        await self._session.servers.ready()
        answering = self._session.servers.statuses()
        numbers = [int(_server_id(server)[3:]) for server in servers] or sorted(answering)

        async def begin(number: int) -> str:
            try:
                await self._session.servers.call(number, {"op": "scrub"}, CALL_TIMEOUT_S)
            except (Unavailable, NotFound, wire.Refused) as error:
                return str(error)
            return ""

        told = await asyncio.gather(*(begin(number) for number in numbers))
        said = dict(zip((f"cs-{number}" for number in numbers), told, strict=True))
        return {"begun": [s for s, why in said.items() if not why], "refused": {s: w for s, w in said.items() if w}}

    async def salvage(self, volume_id: str, chunk: int) -> None:
        """Accept the loss of what only barred replicas of a chunk may have had."""
        async with self._office.lock(volume_id):
            volume = (await self._office.volume(volume_id)).value
            if not self._session.serving.is_open(volume):
                raise Conflict(f"volume {volume_id} is not open at a gateway; attach it first")
            request = {
                "op": "salvage",
                "volume": volume_number(volume_id),
                "generation": volume.generation,
                "chunk": chunk,
            }
            try:
                await self._session.gateways.call(rules.holder(volume), request, CALL_TIMEOUT_S)
            except wire.Refused as error:
                raise Conflict(f"chunk {chunk} of {volume_id} cannot be salvaged: {error}") from error
        _log.warning("salvaged", volume=volume_id, chunk=chunk)

    async def give_up(self, server_id: str, *, data_is_lost: bool) -> list[str]:
        """Declare that a server's disk is gone for good; return the volumes that go on without it.

        Nothing waits any more for what only it had. The record says so first: from then on no replica comes to count
        there. Then no volume counts on it; then gateways hear of it, who otherwise wait for a server that may have what
        the others lack. If it comes back it is taken for one with a new disk (:mod:`yuntai.pangu.admission`), which
        also ends this: its replicas count again when they have been compared with the others, and not before.

        Asking again does the same again.
        """
        number = int(_server_id(server_id)[3:])
        if not data_is_lost:
            raise Invalid(f"what only {server_id} has will be lost: say `data_is_lost` if that is meant")
        session = self._session
        await asyncio.gather(session.servers.ready(), session.atlas.ready())
        if number not in session.servers.by_number():
            raise NotFound(f"there is no chunk server {server_id}")
        if number in session.servers.statuses():
            raise Conflict(f"{server_id} answers: `yuntai pangu drain {server_id}` moves away what it has")
        if alone := self._alone(number):
            raise Conflict(
                f"{server_id} has the only replica that counts of chunks of {', '.join(alone[:10])} "
                f"({len(alone)} volumes): bring it back, or delete them"
            )

        def rule(record: ChunkServer) -> ChunkServer:
            return replace(record, given_up=record.given_up or now_utc(), admitted=False)

        written = await self._office.store.update(ChunkServer, server_id, rule, guard=[self._office.guard])
        session.servers.note_record(written)
        volumes = await session.admission.discount(number, "it was given up")
        _log.warning("a server was given up", server=server_id, volumes=len(volumes))
        for volume in filter(None, map(session.atlas.volumes.get, volumes)):
            if rules.holder(volume):
                session.serving.reopen_soon(rules.holder(volume), volume.id)
        session.mover.wake()
        return volumes

    def _alone(self, number: int) -> list[str]:
        """Return the volumes with a chunk of which only this server has a replica that counts."""
        return [
            volume.id
            for volume in self._session.atlas.volumes.values()
            if volume.state != "deleting"
            and any(rules.in_sync(c, volume.stale) == [number] for c in set(self._session.atlas.chunks(volume.id)))
        ]

    async def remove(self, server_id: str) -> None:
        """Forget a server for good. Refused while a placement names it.

        It must be drained or given up first: from then on no move to it is committed, and new chunks go elsewhere. The
        placements are listed while no volume is being placed, so what is listed holds until the record is gone.
        """
        async with self._office.placing:
            found = await self._office.store.get(ChunkServer, _server_id(server_id))
            if found is None:
                return
            if not _leaves(found.value):
                raise Conflict(f"{server_id} is {found.value.state}; drain it first: `yuntai pangu drain {server_id}`")
            number, holding = found.value.number, 0
            users: set[str] = set()
            for record in await self._office.store.list(Placement):
                here = sum(number in replicas for replicas in record.value.chunks)
                holding += here
                users |= {record.value.id.partition(".")[0]} if here else set()
            if holding:
                raise InUse(
                    f"{server_id} has its place in {holding} chunks of {len(users)} volumes; wait until it is drained",
                    {"chunks": holding, "users": sorted(users)[:100]},
                )
            if not await self._delete(server_id):
                raise Unavailable(f"{server_id} kept changing; try again")
        _log.info("removed", server=server_id)

    async def _delete(self, server_id: str) -> bool:
        for _ in range(8):
            found = await self._office.store.get(ChunkServer, server_id)
            if found is None:
                return True
            if not _leaves(found.value):
                return False
            compare = [self._office.guard, Unchanged(found)]
            if await self._office.store.txn(compare=compare, delete=[(ChunkServer, server_id)]):
                return True
        return False


def _server_id(server: str) -> str:
    if not SERVER_ID.fullmatch(server):
        raise Invalid(f"chunk server id {server!r} is wrong: it is `cs-` and a number")
    return server


def _leaves(record: ChunkServer) -> bool:
    return record.state == "draining" or bool(record.given_up)


def _drained(*, undo: bool) -> Any:
    def rule(record: ChunkServer) -> ChunkServer:
        if not undo:
            return replace(record, state="draining")
        if record.state != "draining":
            return record
        return replace(record, state="down" if record.down_since else "up")

    return rule
