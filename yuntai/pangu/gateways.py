"""Connections to the volume gateways: one to each, kept up, with the gateway's events answered on it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from yuntai import log
from yuntai.model.cluster import Gateway
from yuntai.pangu import wire
from yuntai.pangu.errors import NotFound, Unavailable
from yuntai.pangu.handover import Handover
from yuntai.state import Deleted, Put, Reset

if TYPE_CHECKING:
    from yuntai.pangu.office import Office

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
PING_EVERY_S = 5.0
PING_TIMEOUT_S = 5.0
RECONCILE_EVERY_S = 30.0
EVENTS_AT_ONCE_MAX = 64
TELL_EVERY_S = 60.0

_log = log.get("gateways")


class Handler(Protocol):
    """Who decides what gateways are told; :class:`yuntai.pangu.volumes.Volumes`."""

    async def answer_event(self, host: str, event: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a gateway's event.

        Raise :class:`Unavailable` to drop the connection: on the next one the gateway asks again.
        """

    async def reconcile(self, host: str) -> None:
        """Make what the gateway serves match the records."""


class _Gateway:
    def __init__(self, record: Gateway) -> None:
        self.record = record
        self.channel: wire.Channel | None = None
        self.ready = asyncio.Event()
        self.opened: dict[int, int] = {}  # volume number → generation, as the gateway last said
        self.status: dict[str, Any] = {}
        self.changes = 0  # opens and closes begun or ended; a status asked for before one of them says nothing
        self.task: asyncio.Task[None] | None = None


class Gateways:
    """All registered gateways, for as long as this master leads."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self.handler: Handler  # set by the session
        self._gateways: dict[str, _Gateway] = {}
        self._listed = False
        self._event_slots = asyncio.Semaphore(EVENTS_AT_ONCE_MAX)
        self.handover = Handover()

    async def run(self) -> None:
        """Follow the registrations and keep a connection to each gateway, until cancelled."""
        try:
            async with aclosing(self._office.store.watch(Gateway)) as events:
                async for event in events:
                    match event:
                        case Reset(records=records):
                            for gone in set(self._gateways) - {record.value.id for record in records}:
                                await self._forget(gone)
                            for record in records:
                                await self._learn(record.value)
                            self._listed = True
                        case Put(record=record):
                            await self._learn(record.value)
                        case Deleted(id=gone):
                            await self._forget(gone)
        finally:
            for known in list(self._gateways):
                await self._forget(known)

    def record(self, host: str) -> Gateway:
        """Return the registration of a host's gateway; raise :class:`NotFound`."""
        known = self._gateways.get(host)
        if known is None and not self._listed:
            raise Unavailable("this master leads since a moment ago and does not know the gateways yet; try again")
        if known is None:
            raise NotFound(
                f"host {host} has no registered gateway; start its agent, or run `python -m yuntai.pangu.register`"
            )
        return known.record

    def states(self) -> list[dict[str, Any]]:
        """Return every gateway with whether it is connected and how many volumes it serves."""
        return [
            {
                "id": known.record.id,
                "address": known.record.address,
                "nbd_dir": known.record.nbd_dir,
                "state": "up" if known.ready.is_set() else "down",
                "volumes": len(known.opened) if known.ready.is_set() else 0,
                "pid": known.status.get("pid", 0),
                "version": known.status.get("version", ""),
            }
            for _, known in sorted(self._gateways.items())
        ]

    def generation_open(self, host: str, number: int) -> int:
        """Return the generation under which a host's gateway serves a volume; 0 if it does not, or is not connected."""
        known = self._gateways.get(host)
        return known.opened.get(number, 0) if known is not None and known.ready.is_set() else 0

    async def serves(self, host: str, number: int, generation: int) -> bool:
        """Return whether a connected gateway serves a volume under ``generation``; it is asked if that is not known.

        Just after it was connected, nothing is.
        """
        known = self._gateways.get(host)
        if known is None or not known.ready.is_set():
            return False
        if known.opened.get(number) == generation:
            return True
        status = await self.refresh(host)
        opened = ((int(one["volume"]), int(one["generation"])) for one in status.get("volumes", ()))
        return (number, generation) in opened

    def all_open(self, host: str) -> dict[int, int]:
        """Return volume number → generation for everything a host's gateway serves."""
        known = self._gateways.get(host)
        return dict(known.opened) if known is not None else {}

    def stats(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (host, what it says of a volume) for every volume that a connected gateway serves."""
        return [(host, one) for host in sorted(self._gateways) for one in self.stats_of(host)]

    def stats_of(self, host: str) -> list[dict[str, Any]]:
        """Return what one connected gateway says of each volume that it serves."""
        known = self._gateways.get(host)
        if known is None or not known.ready.is_set():
            return []
        return [dict(one) for one in known.status.get("volumes", ())]

    async def refresh(self, host: str) -> dict[str, Any]:
        """Ask a gateway for its status, and note which volumes it serves."""
        self.record(host)
        known = self._gateways[host]
        changes = known.changes
        status = dict(await self.call(host, {"op": "status"}, PING_TIMEOUT_S))
        known.status = status
        if changes == known.changes:
            known.opened = {int(one["volume"]): int(one["generation"]) for one in status.get("volumes", ())}
        return status

    async def call(self, host: str, request: dict[str, Any], timeout_s: float) -> Any:
        """Ask a gateway, waiting for its connection if need be.

        Raise :class:`Unavailable` when it does not answer in time; what it refuses comes as :class:`wire.Refused`.
        """
        self.record(host)
        known = self._gateways[host]
        try:
            async with asyncio.timeout(timeout_s) as waiting:
                with self.handover.asking(host, request, waiting):
                    await known.ready.wait()
                    channel = known.channel
                    if channel is None:
                        raise Unavailable(f"the gateway of {host} has just gone; try again")
                    answer = await self._ask(known, channel, request, timeout_s)
        except wire.Refused:
            raise
        except TimeoutError as error:
            raise Unavailable(
                f"the gateway of {host} at {known.record.address} cannot be reached; is it running?"
            ) from error
        except wire.WireError as error:
            raise Unavailable(f"the gateway of {host} does not answer: {error}") from error
        return answer

    @staticmethod
    async def _ask(known: _Gateway, channel: wire.Channel, request: dict[str, Any], timeout_s: float) -> Any:
        """Ask, and keep ``opened`` true to what was asked."""
        if request["op"] not in ("open", "close"):
            return await channel.call(request, timeout_s)
        known.changes += 1
        try:
            answer = await channel.call(request, timeout_s)
        finally:
            known.changes += 1
        if request["op"] == "open":
            known.opened[request["volume"]] = request["generation"]
        else:
            known.opened.pop(request["volume"], None)
        return answer

    def forget_open(self, host: str, number: int) -> None:
        """Note that a gateway no longer serves a volume: it said so itself."""
        known = self._gateways.get(host)
        if known is not None:
            known.changes += 1
            known.opened.pop(number, None)

    async def _learn(self, record: Gateway) -> None:
        known = self._gateways.get(record.id)
        if known is not None and known.record == record:
            return
        await self._forget(record.id)
        made = self._gateways[record.id] = _Gateway(record)
        made.task = asyncio.create_task(self._keep(made))

    async def _forget(self, host: str) -> None:
        known = self._gateways.pop(host, None)
        if known is not None and known.task is not None:
            known.task.cancel()
            await asyncio.gather(known.task, return_exceptions=True)

    async def _keep(self, known: _Gateway) -> None:
        """Connect, serve, and again when the connection is lost."""
        loop = asyncio.get_running_loop()
        backoff_s, tell_at = BACKOFF_FIRST_S, loop.time()
        host = known.record.id
        while True:
            try:
                self._check_alone(known)
                channel = await self._office.dial(known.record.address, f"gateway:{host}")
                try:
                    # Set before the first question: answering events must not wait for anything.
                    known.channel = channel
                    known.ready.set()
                    backoff_s, tell_at = BACKOFF_FIRST_S, loop.time()
                    _log.info("gateway connected", gateway=host)
                    await self._serve(host, channel)
                finally:
                    known.ready.clear()
                    known.channel = None
                    known.opened = {}
                    await channel.close()
            except (wire.WireError, Unavailable) as error:
                # A host that is off for a week says so once a minute, not twice a second.
                if loop.time() >= tell_at:
                    _log.warning("gateway not connected", gateway=host, error=str(error))
                    tell_at = loop.time() + TELL_EVERY_S
            except Exception:  # noqa: BLE001 — logged whole
                # A fault here must not leave the host without a master for ever.
                _log.exception("the connection to a gateway ended with a fault", gateway=host)
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    def _check_alone(self, known: _Gateway) -> None:
        """Raise if another host's gateway is connected at this address: it would tell its events to a second caller."""
        for other in self._gateways.values():
            if other is not known and other.record.address == known.record.address and other.ready.is_set():
                raise Unavailable(
                    f"{known.record.address} is the gateway of {other.record.id}; register the right address"
                )

    async def _serve(self, host: str, channel: wire.Channel) -> None:
        """Answer events and hold the gateway to the records until the connection is lost."""
        lost = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hold(host))
                while True:
                    number, event = await channel.next_event()
                    await self._event_slots.acquire()
                    group.create_task(self._answer(host, channel, number, event))
        except* (wire.WireError, Unavailable) as errors:
            lost = "; ".join(str(error) for error in errors.exceptions)
        # Raised in the clause, Python 3.11.2 would wrap it in a group.
        raise Unavailable(lost)

    async def _hold(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        reconciled_at = float("-inf")
        while True:
            await self.refresh(host)
            if loop.time() - reconciled_at >= RECONCILE_EVERY_S:
                await self.handler.reconcile(host)
                reconciled_at = loop.time()
            await asyncio.sleep(PING_EVERY_S)

    async def _answer(self, host: str, channel: wire.Channel, number: int, event: dict[str, Any]) -> None:
        try:
            answer = await self.handler.answer_event(host, event)
            await channel.answer(number, answer)
        finally:
            self._event_slots.release()
