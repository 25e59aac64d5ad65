"""Drives moves: plans them, and tells the gateway that has the volume open.

What is wanted is only in memory. A master that dies takes it along; the next one finds the same reasons and plans
again, and what a gateway had finished by then is committed by whoever leads when it says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace as with_fields

from yuntai import log
from yuntai.pangu import layout, planner, rules, wire
from yuntai.pangu.errors import NotFound, PanguError, Unavailable
from yuntai.pangu.moves import Move
from yuntai.pangu.schedule import Schedule, Volumes, schedule
from yuntai.pangu.units import volume_id, volume_number
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yuntai.model.cluster import ChunkServer, Volume
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.holdings import Holdings
    from yuntai.pangu.office import Office
    from yuntai.pangu.rules import Replicas
    from yuntai.pangu.servers import Servers
    from yuntai.pangu.tuning import Tuning

EVERY_S = 2.0
SOON_S = 0.2
MOVES_TIMEOUT_S = 10.0
NEEDS_MAX = 50_000
"""The most urgent ones are kept; the rest is found again when they are done."""
VOLUMES_PER_BREATH = 50
MAJORITY = 0.5
BURST_S = 2.0
LATELY_S = 20.0

_log = log.get("mover")


class Mover:
    """The plan, and what of it is under way."""

    def __init__(
        self, office: Office, servers: Servers, gateways: Gateways, atlas: Atlas, tuning: Tuning, holdings: Holdings
    ) -> None:
        self._office = office
        self._servers = servers
        self._gateways = gateways
        self._atlas = atlas
        self._tuning = tuning
        self._holdings = holdings
        self._wake = asyncio.Event()
        self._told: dict[str, tuple[int, tuple[Move, ...]]] = {}
        self._budget_bytes = 0.0
        self._earned_at = 0.0
        self.plan = Schedule()
        self.needs: list[planner.Need] = []
        self.left: dict[int, int] = {}
        """Replicas that have yet to leave each server."""
        self.reasons: dict[str, int] = dict.fromkeys(planner.REASONS, 0)
        """Why → replicas that have yet to move."""
        self.most: dict[str, int] = dict.fromkeys(planner.REASONS, 0)
        """The same when it was the most since this work began."""
        self._recent: deque[tuple[float, int]] = deque(maxlen=1000)
        self.view = planner.View({}, frozenset(), frozenset())
        self.committed = 0
        self.committed_bytes = 0

    def wake(self) -> None:
        """Plan now rather than at the next turn."""
        self._wake.set()

    def moves_of(self, volume_id: str) -> tuple[Move, ...]:
        """Return what is wanted of a volume now."""
        return self.plan.wanted.get(volume_id, ())

    def servers(self) -> dict[int, ChunkServer]:
        """Return the chunk servers as they were last heard of."""
        return self._servers.by_number()

    def noted(self, volume: str, generation: int, moves: tuple[Move, ...]) -> None:
        """Note what an open has told the gateway."""
        self._told[volume] = (generation, moves)

    def adopt(self, host: str) -> None:
        """Take over moves that a former master began at a gateway, so that its work there is not thrown away."""
        for stats in self._gateways.stats_of(host):
            volume = volume_id(int(stats["volume"]))
            if volume not in self._told and volume not in self.plan.wanted and stats.get("moves"):
                with contextlib.suppress(msgspec.ValidationError):
                    self.plan.wanted[volume] = msgspec.convert(stats["moves"], tuple[Move, ...])

    def done(self, volume_id: str, moves: Iterable[Move]) -> None:
        """Note what was committed."""
        gone = set(moves)
        self.plan.wanted[volume_id] = tuple(move for move in self.moves_of(volume_id) if move not in gone)
        self.committed += len(gone)
        size = sum(self.view.replica_bytes(move.from_) for move in gone)
        self.committed_bytes += size
        self._recent.append((asyncio.get_running_loop().time(), size))
        self.wake()

    def bytes_per_s(self) -> float:
        """Return how fast moves have been going lately."""
        now = asyncio.get_running_loop().time()
        return sum(size for at, size in self._recent if now - at <= LATELY_S) / LATELY_S

    def moves_per_s(self) -> float:
        """Return the same in replicas: commits come in batches, so this is rough."""
        return self.bytes_per_s() / max(1, self.committed_bytes // max(1, self.committed))

    async def run(self) -> None:
        """Plan and tell until cancelled."""
        await self._atlas.ready()
        await self._servers.ready()
        while True:
            self._wake.clear()
            try:
                await self.turn()
            except (StateError, PanguError) as error:
                _log.info("moves wait", error=str(error))
            # Commits come in quick succession; one plan serves many.
            await asyncio.sleep(SOON_S)
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def turn(self) -> None:
        """Look at everything once, and make the gateways' lists what they should be."""
        self.view = await self._look()
        await self._scan()
        concerned = {need.volume for need in self.needs} | set(self.plan.wanted)
        records = self._atlas.volumes
        volumes = Volumes(
            records=records,
            chunks=_Chunks(self._atlas),
            open=frozenset(v for v in concerned if v in records and self._open_at(records[v])),
        )
        self._earn()
        self.plan = schedule(
            self.needs, self.plan.wanted, volumes, self.view, self._tuning.limits(), self._budget_bytes
        )
        self._budget_bytes -= self.plan.spent_bytes
        await self._tell()
        if self._tuning.now.balancing and not self.view.donors:
            _log.info("the disks are evenly full")
            await self._tuning.change(lambda current: with_fields(current, balancing=False))

    async def _look(self) -> planner.View:
        records = self._servers.by_number()
        grace_s = self._tuning.of("repair_after_s")
        lost = frozenset(n for n, one in records.items() if self._servers.away_s(one) > grace_s)
        if len(lost) > MAJORITY * len(records):
            # Rather this master is cut off than most servers have died within the grace time of one another.
            _log.warning("most chunk servers do not answer this master: nothing is rebuilt elsewhere", lost=len(lost))
            lost = frozenset()
        lost |= {number for number, one in records.items() if one.given_up and self._servers.away_s(one)}
        answering = frozenset(self._servers.statuses())
        await self._holdings.announce(answering)
        candidates = {one.number: one for one in self._servers.candidates()}
        view = planner.View(candidates, answering & self._holdings.announced, lost)
        if not self._tuning.now.balancing:
            return view
        donors = planner.donors(view, self._tuning.limits(), going_on=bool(self.view.donors))
        await self._holdings.refresh(donors)
        return replace(view, donors=donors, _verdicts={})

    async def _scan(self) -> None:
        """Find the most urgent needs of all volumes, in order; the loop breathes in between."""
        found: list[planner.Need] = []
        left: dict[int, int] = {}
        reasons = dict.fromkeys(planner.REASONS, 0)
        balance = planner.REASONS.index(planner.BALANCE)
        for turn, name in enumerate(await self._atlas.touched(self.view)):
            if turn % VOLUMES_PER_BREATH == 0:
                await asyncio.sleep(0)
            volume = self._atlas.volumes.get(name)
            if volume is None or volume.state == "deleting":
                continue
            for need in planner.needs(name, self._atlas.chunks(name), volume.stale, self.view):
                if need.reason == balance and not self._holdings.has(need):
                    continue
                left[need.from_] = left.get(need.from_, 0) + 1
                reasons[planner.REASONS[need.reason]] += 1
                found.append(need)
            if len(found) > 2 * NEEDS_MAX:
                found = heapq.nsmallest(NEEDS_MAX, found)
        self.left, self.reasons = left, reasons
        self.most = {why: max(self.most[why], count) if count else 0 for why, count in reasons.items()}
        self.needs = heapq.nsmallest(NEEDS_MAX, found)

    def _open_at(self, volume: Volume) -> str:
        """Return the host whose gateway serves the volume's present generation, "" if none does."""
        host = rules.holder(volume)
        if not host:
            return ""
        return host if self._gateways.generation_open(host, volume_number(volume.id)) == volume.generation else ""

    def _earn(self) -> None:
        """Add to the budget what the rate allows since the last turn; what is not used in time is lost."""
        now = asyncio.get_running_loop().time()
        rate = self._tuning.of("repair_bytes_per_s")
        passed_s = now - self._earned_at if self._earned_at else BURST_S
        self._budget_bytes = min(self._budget_bytes + rate * passed_s, BURST_S * rate)
        self._earned_at = now

    async def _tell(self) -> None:
        volumes = [self._atlas.volumes[v] for v in {*self.plan.wanted, *self._told} if v in self._atlas.volumes]
        self._told = {volume.id: self._told[volume.id] for volume in volumes if volume.id in self._told}
        await asyncio.gather(
            *(self.tell(v) for v in volumes if self._told.get(v.id) != (v.generation, self.moves_of(v.id)))
        )

    async def tell(self, volume: Volume) -> list[Move] | None:
        """Give the gateway that has the volume open the whole list; return what it says is under way there.

        ``None``: it cannot be told, or does not say.
        """
        host, moves = self._open_at(volume), self.moves_of(volume.id)
        if not host:
            return None
        servers = self._servers.by_number()
        request = {
            "op": "moves",
            "volume": volume_number(volume.id),
            "generation": volume.generation,
            "moves": [move.wire() for move in moves],
            "servers": layout.addresses([*self._atlas.chunks(volume.id), *((move.to,) for move in moves)], servers),
        }
        try:
            told = msgspec.convert(await self._gateways.call(host, request, MOVES_TIMEOUT_S), _Told)
        except wire.Refused as error:
            _log.warning("moves were refused", volume=volume.id, gateway=host, error=str(error))
            return None
        except (Unavailable, NotFound, msgspec.ValidationError) as error:
            _log.info("moves not told yet", volume=volume.id, gateway=host, error=str(error))
            return None
        self._told[volume.id] = (volume.generation, moves)
        for one in told.refused:
            _log.info("a move has to wait", volume=volume.id, chunk=one.chunk, to=f"cs-{one.to}", why=one.reason)
        return None if told.under_way is None else list(told.under_way)


class _Waits(msgspec.Struct, frozen=True):
    """A move that a gateway does not begin now."""

    chunk: int
    to: int
    reason: str


class _Told(msgspec.Struct, frozen=True):
    """A gateway's answer to the list of moves."""

    under_way: tuple[Move, ...] | None = None
    refused: tuple[_Waits, ...] = ()


class _Chunks(dict[str, "Sequence[Replicas]"]):
    """The placements of volumes, put together when they are asked for."""

    def __init__(self, atlas: Atlas) -> None:
        super().__init__()
        self._atlas = atlas

    def __missing__(self, volume_id: str) -> Sequence[Replicas]:
        found = self[volume_id] = self._atlas.chunks(volume_id)
        return found
