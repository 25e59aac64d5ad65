"""Clients of one volume that write, read and flush side by side, and a checker that hears of every call and answer.

The disk is reached as a guest reaches it: over the gateway's NBD socket, and again when the connection was lost. What
had no answer by then may have happened or not; it can happen no more once the next session answers, because that one
runs under a newer generation, which fences the old one.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.thrash.content import block, value_of
from tests.thrash.nbd import Failed, Lost, Nbd
from tests.thrash.register import Register

CHUNK = 64 << 20
RECONNECT_S = 0.05
PAUSE_S = 0.008
WRITES_AT_ONCE_MAX = 3
"""On one block; more makes the checker slow and finds nothing more."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A range of a volume whose registers are ``unit`` bytes each; operations take up to ``most`` of them."""

    start: int
    units: int
    unit: int
    most: int


def zones(size: int) -> list[Zone]:
    """Return the ranges that are written: around chunks' borders, wide, and in sectors."""
    found = [
        Zone(0, 24, 4096, 4),  # few blocks, hot
        Zone(8 << 20, 48, 512, 16),  # parts of blocks
        Zone(16 << 20, 256, 4096, 64),  # wide writes, which take another way to the disk
    ]
    found += [Zone(border - 16 * 4096, 32, 4096, 8) for border in range(CHUNK, size, CHUNK)]
    return found


@dataclass(slots=True)
class Gaps:
    """When the volume answered last, and how long it has ever been silent while something was asked."""

    asked: int = 0
    since: float = 0.0  # since when it owes an answer
    longest: list[tuple[float, float]] = field(default_factory=list)  # (end, length), those above a tenth of a second
    nothing: asyncio.Event = field(default_factory=asyncio.Event)  # nothing is asked

    def call(self) -> None:
        if self.asked == 0:
            self.since = time.monotonic()
            self.nothing.clear()
        self.asked += 1

    def answer(self) -> None:
        now = time.monotonic()
        if now - self.since > 0.1:
            self.longest.append((now, now - self.since))
        self.since = now

    def end(self) -> None:
        self.asked -= 1
        if self.asked == 0:
            self.nothing.set()

    def open_for(self) -> float:
        return time.monotonic() - self.since if self.asked else 0.0

    def longest_since(self, begin: float) -> float:
        return max((length for end, length in self.longest if end >= begin), default=0.0)


class Volume:
    """One volume, its registers, and the clients at work on it."""

    def __init__(self, volume_id: str, number: int, size: int, seed: int, say: Callable[[str], None]) -> None:
        self.id = volume_id
        self.number = number
        self.size = size
        self.say = say
        self.socket = Path()
        self.zones = zones(size)
        self.registers = {
            zone: [Register(f"{volume_id} {zone.start + at * zone.unit:#x}") for at in range(zone.units)]
            for zone in self.zones
        }
        self.gaps = Gaps()
        self.answers = 0
        self.failures: list[str] = []
        self._chance = random.Random(seed)
        self._ids = itertools.count(1)
        self._nbd: Nbd | None = None
        self._connected = asyncio.Event()
        self._sessions = itertools.count(1)
        self._session = 0
        self._unknown: list[tuple[int, Zone, range, int]] = []  # (session, …, operation): writes without an answer
        self._writing: dict[tuple[Zone, int], int] = {}
        self._stopping = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()

    async def run(self, lanes: int) -> None:
        """Work until :meth:`stop`; raise what the checker finds."""
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(self._keep_connected())
            workers = [group.create_task(self._lane()) for _ in range(lanes)]
            await asyncio.wait(workers, return_when=asyncio.ALL_COMPLETED)
            keeper.cancel()

    def stop(self) -> None:
        self._stopping.set()

    def pause(self) -> None:
        """Let what is under way end, and begin nothing."""
        self._running.clear()

    @property
    def paused(self) -> bool:
        return not self._running.is_set()

    def all_registers(self) -> list[Register]:
        return [register for registers in self.registers.values() for register in registers]

    def rolled_back(self, values: dict[Register, set[int]]) -> None:
        """Note that the volume goes on from other contents; nothing is under way, and nothing can come late."""
        self._settle(self._unknown)
        self._unknown = []
        for register, allowed in values.items():
            register.reset(allowed)

    def go_on(self) -> None:
        self._running.set()

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        await self.gaps.nothing.wait()

    async def move(self, socket: Path) -> None:
        """Use another gateway's socket from now on: the old session is left as it is."""
        self.socket = socket
        if self._nbd is not None:
            await self._nbd.close()

    # -- the connection ------------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        try:
            while True:
                try:
                    nbd = await Nbd.connect(self.socket, self.id)
                except Lost:
                    await asyncio.sleep(RECONNECT_S)
                    continue
                self._session = next(self._sessions)
                self._nbd = nbd
                self._connected.set()
                await nbd.lost.wait()
                self._connected.clear()
        finally:
            if self._nbd is not None:
                await self._nbd.close()

    async def _lane(self) -> None:
        while not self._stopping.is_set():
            await self._running.wait()
            await self._one()
            await asyncio.sleep(self._chance.random() * 2 * PAUSE_S)

    async def _one(self) -> None:
        if self._chance.random() < 0.04:
            await self._flush()
            return
        zone = self._chance.choice(self.zones)
        count = min(self._chance.choice((1, 1, 1, 2, zone.most // 2, zone.most)), zone.units)
        first = self._chance.randrange(zone.units - count + 1)
        where = range(first, first + count)
        if self._chance.random() < 0.45:
            await self.read(zone, where)
        elif all(self._writing.get((zone, at), 0) < WRITES_AT_ONCE_MAX for at in where):
            await self._write(zone, where, fua=self._chance.random() < 0.1)

    async def _flush(self) -> None:
        self.gaps.call()
        try:
            nbd, session = await self._connection()
            await nbd.flush()
            self._answered(session)
        except (Lost, Failed) as error:
            self._unanswered(error)
        finally:
            self.gaps.end()

    async def read(self, zone: Zone, where: range) -> None:
        """Read neighbouring registers; again when the connection goes."""
        self.gaps.call()
        try:
            while True:
                if await self._read_once(zone, where):
                    return
                await asyncio.sleep(RECONNECT_S)
        finally:
            self.gaps.end()

    async def _read_once(self, zone: Zone, where: range) -> bool:
        nbd, session = await self._connection()
        operation = next(self._ids)
        registers = self.registers[zone]
        for at in where:
            registers[at].read_called(operation)
        try:
            raw = await nbd.read(zone.start + where.start * zone.unit, len(where) * zone.unit)
        except (Lost, Failed) as error:
            for at in where:
                registers[at].read_lost(operation)
            self._unanswered(error)
            return False
        self._answered(session)
        for place, at in enumerate(where):
            piece = raw[place * zone.unit : (place + 1) * zone.unit]
            registers[at].read_answered(operation, value_of(piece, self.number, zone.start // zone.unit + at))
        return True

    async def _connection(self) -> tuple[Nbd, int]:
        """Return the connection and its session's number, once there is one."""
        await self._connected.wait()
        assert self._nbd is not None
        return self._nbd, self._session

    async def _write(self, zone: Zone, where: range, *, fua: bool) -> None:
        self.gaps.call()
        nbd, session = await self._connection()
        operation = next(self._ids)
        registers = self.registers[zone]
        first = zone.start // zone.unit
        data = b"".join(block(self.number, first + at, operation, zone.unit) for at in where)
        for at in where:
            registers[at].write_called(operation, operation)
            self._writing[zone, at] = self._writing.get((zone, at), 0) + 1
        try:
            await nbd.write(zone.start + where.start * zone.unit, data, fua=fua)
        except (Lost, Failed) as error:
            self._unknown.append((session, zone, where, operation))
            self._unanswered(error)
            return
        finally:
            self.gaps.end()
        self._answered(session)
        for at in where:
            registers[at].write_answered(operation)
            self._writing[zone, at] -= 1

    def _answered(self, session: int) -> None:
        """Note an answer: what older sessions left behind can happen no more."""
        self.gaps.answer()
        self.answers += 1
        if self._unknown:
            self._settle([entry for entry in self._unknown if entry[0] < session])
            self._unknown = [entry for entry in self._unknown if entry[0] >= session]

    def _settle(self, unknown: list[tuple[int, Zone, range, int]]) -> None:
        for _, zone, where, operation in unknown:
            for at in where:
                self.registers[zone][at].settle(operation)
                self._writing[zone, at] -= 1

    def _unanswered(self, error: Exception) -> None:
        if isinstance(error, Failed):
            self.failures.append(str(error))
            self.say(f"{self.id}: I/O failed: {error}")

    async def write_unknown(self) -> None:
        """Write every block of a zone without telling the checker."""
        zone = self.zones[0]
        nbd = await Nbd.connect(self.socket, self.id)
        for at in range(zone.units):
            there = zone.start // zone.unit + at
            await nbd.write(there * zone.unit, block(self.number, there, 1 << 60, zone.unit))
        await nbd.close()

    # -- the whole -----------------------------------------------------------------------------------------------

    async def read_all(self) -> None:
        """Read every register once."""
        for zone in self.zones:
            for first in range(0, zone.units, 16):
                await self.read(zone, range(first, min(first + 16, zone.units)))
