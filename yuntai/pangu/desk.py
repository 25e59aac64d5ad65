"""Answers what gateways tell the master: a server missed a write, is whole again, the source is copied so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from yuntai import log
from yuntai.model.cluster import Volume
from yuntai.pangu import layout, rules
from yuntai.pangu.errors import PanguError, Unavailable
from yuntai.pangu.office import unavailable
from yuntai.pangu.units import volume_id
from yuntai.state import NotFound, StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.pangu.office import Office
    from yuntai.pangu.serving import Serving

_log = log.get("desk")


class Event(msgspec.Struct, frozen=True):
    """A gateway's event: ``GatewayEvent`` in crates/proto, all its variants in one."""

    op: Literal["degrade", "readmit", "hydrated", "fenced"]
    volume: int
    generation: int
    server: int = 0
    reason: str = ""
    chunks: int = 0


class Desk:
    """The :class:`~yuntai.pangu.gateways.Handler`: decides by :mod:`yuntai.pangu.rules`, commits, then answers."""

    def __init__(self, office: Office, serving: Serving) -> None:
        self._office = office
        self._serving = serving

    async def reconcile(self, host: str) -> None:
        """See :meth:`yuntai.pangu.serving.Serving.reconcile`."""
        await self._serving.reconcile(host)

    async def answer_event(self, host: str, event: dict[str, Any]) -> dict[str, Any]:
        """Return the answer, after what it says is in etcd."""
        try:
            told = msgspec.convert(event, Event)
        except msgspec.ValidationError as error:
            return {"answer": "refused", "reason": f"this master does not understand the event: {error}"}
        if told.op == "fenced":
            return await self._fenced(host, told)
        try:
            return await self._decide(host, told)
        except NotFound:
            return {"answer": "fenced"}  # deleted: whoever still serves it shall stop
        except StateError as error:
            raise unavailable(error) from error
        except PanguError as error:
            raise Unavailable(str(error)) from error

    async def _decide(self, host: str, event: Event) -> dict[str, Any]:
        volume = volume_id(event.volume)
        chunks: layout.Chunks = []
        if event.op == "degrade":
            chunks = await layout.load_chunks(self._office.store, (await self._office.store.need(Volume, volume)).value)
        answer = rules.Answer("ok")

        def change(current: Volume) -> Volume | None:
            nonlocal answer
            answer = _rule(event, host, chunks)(current)
            return answer.volume

        stored = await self._office.store.update(Volume, volume, change, guard=[self._office.guard])
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
