"""Answers what gateways tell the master: a server missed a write, is whole again, a replica has moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from yuntai import log
from yuntai.model.base import now_utc
from yuntai.model.cluster import BootSet, Volume
from yuntai.pangu import layout, rules
from yuntai.pangu.commits import commit_moves
from yuntai.pangu.errors import PanguError, Unavailable
from yuntai.pangu.moves import Move
from yuntai.pangu.office import unavailable
from yuntai.pangu.units import volume_id
from yuntai.state import Absent, NotFound, StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.pangu.mover import Mover
    from yuntai.pangu.office import Office
    from yuntai.pangu.serving import Serving
    from yuntai.pangu.takeover import Takeover

DECIDE_ATTEMPTS = 16
BOOT_RANGES_MAX = 4096

_log = log.get("desk")


class Range(msgspec.Struct, frozen=True):
    """Neighbouring blocks; ``BlockRange`` in crates/proto."""

    chunk: int
    block: int
    blocks: int


class Event(msgspec.Struct, frozen=True):
    """A gateway's event: ``GatewayEvent`` and ``StandbyEvent`` in crates/proto, all their variants in one."""

    op: Literal["degrade", "readmit", "hydrated", "moved", "boot_set", "fenced", "wanted"]
    volume: int
    generation: int = 0
    server: int = 0
    reason: str = ""
    chunks: int = 0
    moves: tuple[Move, ...] = ()
    ranges: tuple[Range, ...] = ()
    ticket: str = ""


class Desk:
    """The :class:`~yuntai.pangu.gateways.Handler`: decides by :mod:`yuntai.pangu.rules`, commits, then answers."""

    def __init__(self, office: Office, serving: Serving, mover: Mover, takeover: Takeover) -> None:
        self._office = office
        self._serving = serving
        self._mover = mover
        self._takeover = takeover

    async def reconcile(self, host: str) -> None:
        """See :meth:`yuntai.pangu.serving.Serving.reconcile`. What is under way there goes on."""
        self._mover.adopt(host)
        await self._serving.reconcile(host)
        await self._takeover.reconcile(host)

    async def answer_event(self, host: str, event: dict[str, Any]) -> dict[str, Any]:
        """Return the answer, after what it says is in etcd."""
        try:
            told = msgspec.convert(event, Event)
        except msgspec.ValidationError as error:
            return {"answer": "refused", "reason": f"this master does not understand the event: {error}"}
        if told.op == "fenced":
            return await self._fenced(host, told)
        try:
            if told.op == "moved":
                return await commit_moves(self._office, self._mover, host, told.generation, told.volume, told.moves)
            if told.op == "wanted":
                return await self._takeover.wanted(host, told.volume, told.ticket)
            if told.op == "boot_set":
                return await self._boot_set(host, told)
            return await self._decide(host, told)
        except NotFound:
            return {"answer": "fenced"}  # deleted: whoever still serves it shall stop
        except StateError as error:
            raise unavailable(error) from error
        except PanguError as error:
            raise Unavailable(str(error)) from error

    async def _decide(self, host: str, event: Event) -> dict[str, Any]:
        volume = volume_id(event.volume)
        for _ in range(DECIDE_ATTEMPTS):
            found = await self._office.store.need(Volume, volume)
            # Read after the volume: a move that is committed in between changes the volume too, and this starts again.
            chunks = await layout.load_chunks(self._office.store, found.value) if event.op == "degrade" else []
            answer = _rule(event, host, chunks)(found.value)
            stored = answer.volume or found.value
            if answer.volume is None or await self._office.write([found], [stored]):
                break
        else:
            raise Unavailable(f"{volume} kept changing")
        if event.op != "hydrated":
            _log.info(
                "event decided",
                what=event.op,
                volume=volume,
                gateway=host,
                server=event.server,
                generation=event.generation,
                answer=answer.kind,
                reason=answer.reason or event.reason,
            )
        match answer.kind:
            case "stale":
                return {"answer": "stale", "stale": sorted(int(server) for server in stored.stale)}
            case "refused":
                return {"answer": "refused", "reason": answer.reason}
            case kind:
                return {"answer": kind}

    async def _boot_set(self, host: str, event: Event) -> dict[str, Any]:
        """Keep what the first disk made of a source read first; later ones confirm it or do not matter."""
        volume = (await self._office.store.need(Volume, volume_id(event.volume))).value
        if rules.foreign(volume, host, event.generation):
            return {"answer": "fenced"}
        if volume.source is None or not event.ranges:
            return {"answer": "ok"}
        ranges = tuple((one.chunk, one.block, one.blocks) for one in event.ranges[:BOOT_RANGES_MAX])
        record = BootSet(id=layout.boot_set_id(volume.source), ranges=ranges, created=now_utc())
        await self._office.store.txn(compare=[self._office.guard, Absent(BootSet, record.id)], put=[record])
        return {"answer": "ok"}

    async def _fenced(self, host: str, event: Event) -> dict[str, Any]:
        """Another writer took the volume. If it is still granted to this gateway, grant it anew."""
        volume = volume_id(event.volume)
        _log.info("gateway was fenced", gateway=host, volume=volume, generation=event.generation)
        self._serving.gateways.forget_open(host, event.volume)
        self._serving.reopen_soon(host, volume)
        return {"answer": "ok"}


def _rule(event: Event, host: str, chunks: layout.Chunks) -> Callable[[Volume], rules.Answer]:
    match event.op:
        case "degrade":
            return lambda current: rules.degrade(current, host, event.generation, chunks, event.server, event.reason)
        case "readmit":
            return lambda current: rules.readmit(current, host, event.generation, event.server)
        case _:
            return lambda current: rules.hydrated(current, host, event.generation, event.chunks)
