"""Watches over the chunk servers: asks each for its status, and knows who is up and how much space there is.

Live figures stay in memory. The record in etcd is written when state, process, version or address changed, when the
space moved by more than a hundredth of the disk, and otherwise once a minute.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from yuntai import log
from yuntai.model.base import ago_utc, now_utc, since_utc_s
from yuntai.model.cluster import ChunkServer
from yuntai.pangu import wire
from yuntai.pangu.errors import NotFound, Unavailable
from yuntai.pangu.placement import Candidate
from yuntai.state import Deleted, Put, Reset, StateError

if TYPE_CHECKING:
    from yuntai.pangu.office import Office

POLL_S = 2.0
STATUS_TIMEOUT_S = 2.0
DOWN_AFTER_S = 5.0
RECORD_EVERY_S = 60.0
SPACE_STEP = 0.01
ORDERED = frozenset({"delete_volume", "admit", "drop_chunks", "sweep"})
"""What chunk servers do only for a master's signature."""
NOT_FOLLOWED = "order: "
"""In what they say when the signature is not good enough."""
LIVE_S = 0.2
"""For so long figures that were put together are given again."""

_log = log.get("servers")


class Worker(msgspec.Struct, frozen=True):
    """One kind of background work; the layout is ``WorkerStatus`` in crates/proto."""

    name: str
    volume: int | None = None
    state: str = "idle"
    done: int = 0
    total: int = 0
    unit: str = ""
    bytes_per_s: int = 0
    limit_bytes_per_s: int = 0
    note: str = ""


class Damaged(msgspec.Struct, frozen=True):
    """A replica with damaged blocks; ``DamagedChunk`` in crates/proto."""

    volume: int
    chunk: int
    blocks: int
    named: tuple[int, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """What a chunk server says of itself; the layout is ``ServerStatus`` in crates/proto."""

    pid: int
    used_bytes: int
    free_bytes: int
    total_bytes: int
    replicas: int
    version: str = ""
    volumes: int = 0
    journal_bytes: int = 0
    damaged_blocks: int = 0
    full: bool = False
    store: str = ""
    admitted: bool = True
    run: str = ""
    lost_durable: bool = False
    workers: tuple[Worker, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    scrubbed_at_s: int = 0


class _Server:
    """One chunk server: its record, the connection to it, its last status."""

    def __init__(self, record: ChunkServer, now: float) -> None:
        self.record = record
        self.status: Status | None = None
        self.channel: wire.Channel | None = None
        self.heard_at = now  # when it last answered, or when it was first asked
        self.written_at = now
        self.asked = asyncio.Event()
        self.lock = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None

    def live(self, now: float, record: ChunkServer | None = None) -> ChunkServer:
        """Return the record (a newer one, if given) with the state and the figures of the last status."""
        status, record = self.status, record or self.record
        if now - self.heard_at > DOWN_AFTER_S:
            since = record.down_since or ago_utc(now - self.heard_at)
            return replace(record, state="draining" if record.state == "draining" else "down", down_since=since)
        if status is None:
            return record
        return replace(
            record,
            state="draining" if record.state == "draining" else "up",
            down_since="",
            used_bytes=status.used_bytes,
            free_bytes=status.free_bytes,
            total_bytes=status.total_bytes,
            replicas=status.replicas,
            pid=status.pid,
            version=status.version,
        )


class Servers:
    """All registered chunk servers, for as long as this master leads."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._servers: dict[str, _Server] = {}
        self._known = asyncio.Event()
        self._live: dict[int, ChunkServer] = {}
        self._live_until = 0.0

    async def run(self) -> None:
        """Follow the registrations and poll each server, until cancelled."""
        try:
            async with aclosing(self._office.store.watch(ChunkServer)) as events:
                async for event in events:
                    await self._registered(event)
        finally:
            for known in list(self._servers):
                await self._forget(known)

    async def ready(self, within_s: float = 5.0) -> None:
        """Wait until every registered server was asked once, or the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._known.wait()
                for server in list(self._servers.values()):
                    await server.asked.wait()
        except TimeoutError:
            _log.warning("not every chunk server was heard of in time", within_s=within_s)

    def records(self) -> list[ChunkServer]:
        """Return every registered server with its live figures, in order of number."""
        return list(self.by_number().values())

    def by_number(self) -> dict[int, ChunkServer]:
        """Return the same by number. Many ask at the same moment: what was made just now is given again."""
        now = asyncio.get_running_loop().time()
        if now >= self._live_until:
            live = (server.live(now) for server in self._servers.values())
            self._live = {record.number: record for record in sorted(live, key=lambda record: record.number)}
            self._live_until = now + LIVE_S
        return self._live

    def note_record(self, record: ChunkServer) -> None:
        """Note what was just written, before the store says so."""
        if record.id in self._servers:
            self._servers[record.id].record = record
            self._live_until = 0.0

    def note_admitted(self, number: int) -> None:
        """Note what a server was just told, before it says so itself."""
        server = self._servers.get(f"cs-{number}")
        if server is not None and server.status is not None:
            server.status = msgspec.structs.replace(server.status, admitted=True)

    def candidates(self) -> list[Candidate]:
        """Return the servers as placement sees them."""
        return [
            Candidate(
                number=record.number,
                rack=record.rack,
                state=record.state,
                free_bytes=record.free_bytes,
                total_bytes=record.total_bytes,
                full=(status := self._servers[record.id].status) is not None and status.full,
                admitted=record.admitted and (status is None or status.admitted or not status.store),
                replicas=record.replicas,
                used_bytes=record.used_bytes,
            )
            for record in self.records()
        ]

    def statuses(self) -> dict[int, Status]:
        """Return the last status of every server that answers now."""
        now = asyncio.get_running_loop().time()
        return {
            server.record.number: server.status
            for server in self._servers.values()
            if server.status is not None and now - server.heard_at <= DOWN_AFTER_S
        }

    def away_s(self, record: ChunkServer) -> float:
        """Return for how long a server has not answered; 0 while it does.

        A new leader has not waited itself and takes what the one before wrote down.
        """
        server = self._servers.get(record.id)
        if server is None:
            return 0.0
        waited_s = asyncio.get_running_loop().time() - server.heard_at
        if waited_s <= DOWN_AFTER_S:
            return 0.0
        return max(waited_s, since_utc_s(server.record.down_since))

    async def call(self, number: int, request: dict[str, Any], timeout_s: float) -> Any:
        """Ask one server; raise :class:`Unavailable` if it does not answer, :class:`NotFound` if it is not registered.

        What it refuses comes as :class:`wire.Refused`.
        """
        server = self._servers.get(f"cs-{number}")
        if server is None:
            raise NotFound(f"chunk server cs-{number} is not registered")
        try:
            channel = await self._channel(server)
            if request["op"] in ORDERED:
                return await self._order(server, channel, request, timeout_s)
            return await channel.call(request, timeout_s)
        except wire.Refused:
            raise
        except (wire.WireError, msgspec.ValidationError) as error:
            raise Unavailable(
                f"chunk server cs-{number} at {server.record.address} does not answer: {error}"
            ) from error

    async def _order(self, server: _Server, channel: wire.Channel, request: dict[str, Any], timeout_s: float) -> Any:
        """Ask for what needs a signature. A server from before there were orders has no run, and takes it without."""
        for fresh in (False, True):
            if fresh or server.status is None:
                server.status = msgspec.convert(await channel.call({"op": "status"}, STATUS_TIMEOUT_S), Status)
            run = server.status.run
            if not run:
                return await channel.call(request, timeout_s)
            term = int(request.get("term", self._office.term))
            order = self._office.signer.order(server.record.number, run, term, request)
            try:
                return await channel.call({"op": "order", "order": order}, timeout_s)
            except wire.Refused as error:
                if NOT_FOLLOWED not in str(error):
                    raise
                # It was started again since it told its run, perhaps; the clocks differ too much, perhaps.
                refused = error
        raise Unavailable(f"chunk server {server.record.id} does not follow orders: {refused}")

    async def _channel(self, server: _Server) -> wire.Channel:
        async with server.lock:
            if server.channel is None or not server.channel.open:
                server.channel = await self._office.dial(server.record.address, f"cs:{server.record.number}")
            return server.channel

    async def _registered(self, event: Reset[ChunkServer] | Put[ChunkServer] | Deleted) -> None:
        match event:
            case Reset(records=records):
                for gone in set(self._servers) - {record.value.id for record in records}:
                    await self._forget(gone)
                for record in records:
                    await self._learn(record.value)
                self._known.set()
            case Put(record=record):
                await self._learn(record.value)
            case Deleted(id=gone):
                await self._forget(gone)

    async def _learn(self, record: ChunkServer) -> None:
        known = self._servers.get(record.id)
        if known is not None and known.record.address != record.address:
            await self._forget(record.id)
            known = None
        if known is None:
            known = self._servers[record.id] = _Server(record, asyncio.get_running_loop().time())
            known.task = asyncio.create_task(self._poll(known))
        known.record = record
        self._live_until = 0.0

    async def _forget(self, server_id: str) -> None:
        server = self._servers.pop(server_id, None)
        self._live_until = 0.0
        if server is None:
            return
        if server.task is not None:
            server.task.cancel()
            await asyncio.gather(server.task, return_exceptions=True)
        if server.channel is not None:
            await server.channel.close()

    async def _poll(self, server: _Server) -> None:
        loop = asyncio.get_running_loop()
        up = True
        while True:
            try:
                channel = await self._channel(server)
                answer = await channel.call({"op": "status"}, STATUS_TIMEOUT_S)
                if server.status is None or not up:
                    self._live_until = 0.0
                server.status = msgspec.convert(answer, Status)
                server.heard_at = loop.time()
            except (wire.WireError, msgspec.ValidationError) as error:
                if up and loop.time() - server.heard_at > DOWN_AFTER_S:
                    _log.warning("chunk server is down", server=server.record.id, error=str(error))
            up = loop.time() - server.heard_at <= DOWN_AFTER_S
            server.asked.set()
            await self._write(server, loop.time())
            await asyncio.sleep(POLL_S)

    async def _write(self, server: _Server, now: float) -> None:
        """Record what was learned if it matters or is old; a failure costs nothing, the next turn tries again."""
        live = server.live(now)
        if not _matters(server.record, live) and (live.down_since or now - server.written_at < RECORD_EVERY_S):
            return

        def change(record: ChunkServer) -> ChunkServer:
            # From the stored one: what the operator and the admission wrote there must not be undone.
            changed = server.live(now, record)
            return replace(changed, seen=record.seen if changed.down_since else now_utc())

        before = server.record
        try:
            written = await self._office.store.update(ChunkServer, before.id, change, guard=[self._office.guard])
            if server.record is before:  # else it was watched already, and perhaps a newer one
                server.record = written
            server.written_at = now
        except StateError as error:
            _log.info("status of a chunk server could not be recorded", server=server.record.id, error=str(error))


def _matters(stored: ChunkServer, live: ChunkServer) -> bool:
    for field in ("state", "pid", "version", "down_since"):
        if getattr(stored, field) != getattr(live, field):
            return True
    if stored.total_bytes != live.total_bytes:
        return True
    return abs(stored.free_bytes - live.free_bytes) > SPACE_STEP * live.total_bytes
