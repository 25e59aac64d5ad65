"""An operator at work while everything else goes on: snapshots, clones of them, rollbacks, deletions, growth.

What a snapshot shows is held to what the checker knows: each block has a value that it may have had between the call
and the answer. What was read of it once is what it must show ever after.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tests.thrash.content import value_of
from tests.thrash.nbd import Lost, Nbd
from tests.thrash.register import Register, Violation
from tests.thrash.writers import Volume
from yuntai.model.cluster import VolumeSource
from yuntai.pangu.errors import PanguError

if TYPE_CHECKING:
    from tests.thrash.world import World

T = TypeVar("T")

PAUSE_S = 1.5
AGAIN_S = 0.5
SNAPSHOTS_MAX = 12
GROWTHS_MAX = 4
GROW = 32 << 20
PIECE = 128 << 10


@dataclass(slots=True)
class Snapshot:
    """A frozen node of a volume, and what each block of it may hold."""

    volume: Volume
    node: int
    allowed: dict[Register, set[int]]


class Operator:
    """One operation after another, on volumes in turn."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._chance = random.Random(seed)
        self._numbers = itertools.count(1)
        self._growths = 0
        self._stopping = False
        self.snapshots: list[Snapshot] = []
        self.done: dict[str, int] = {}

    async def run(self) -> None:
        """Work until :meth:`finish`; raise what a snapshot should not show."""
        operations = {"snapshot": 5, "clone": 3, "delete": 3, "rollback": 2, "grow": 1}
        while not self._stopping:
            await asyncio.sleep(self._chance.random() * 2 * PAUSE_S)
            name = self._chance.choices(list(operations), list(operations.values()))[0]
            if self._stopping or not await self._operate(name):
                continue
            self.done[name] = self.done.get(name, 0) + 1

    async def _operate(self, name: str) -> bool:
        volume = self._chance.choice(self._world.volumes)
        taken = [one for one in self.snapshots if one.volume is volume]
        match name:
            case "snapshot" if len(self.snapshots) < SNAPSHOTS_MAX:
                await self._snapshot(volume)
            case "clone" if taken:
                await self.read_clone(self._chance.choice(taken))
            case "delete" if taken:
                await self._delete(self._chance.choice(taken))
            case "rollback" if taken:
                await self._rollback(self._chance.choice(taken))
            case "grow" if self._growths < GROWTHS_MAX:
                self._growths += 1
                await self._insist(lambda: self._world.site.client.resize(volume.id, volume.size + GROW))
                volume.size += GROW
            case _:
                return False
        return True

    def finish(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until it is done: the store may be without a master, or the gateway away."""
        for turn in itertools.count(1):
            try:
                return await ask()
            except PanguError as error:
                if turn % 10 == 0:
                    self._world.say(f"  the operator waits: {error}")
                if error.code == "invalid":
                    raise Violation(f"the operator was told: {error}") from error
            await asyncio.sleep(AGAIN_S)
        raise AssertionError

    # -- operations ----------------------------------------------------------------------------------------------

    async def _snapshot(self, volume: Volume) -> None:
        name, key = f"s{next(self._numbers)}", next(self._numbers)
        registers = volume.all_registers()
        for register in registers:
            register.window_opened(key)
        try:
            node = await self._insist(lambda: self._world.site.client.snapshot(volume.id, name))
        finally:
            allowed = {register: register.window_closed(key) for register in registers}
        self.snapshots.append(Snapshot(volume, node, allowed))
        self._world.say(f"  snapshot {node} of {volume.id}")

    async def read_clone(self, snapshot: Snapshot) -> None:
        """Make a volume of a snapshot, read every block of it, and delete it."""
        client, host = self._world.site.client, self._world.host[snapshot.volume.id]
        source = VolumeSource(volume=snapshot.volume.id, node=snapshot.node)
        token = f"clone{next(self._numbers)}"
        size = snapshot.volume.size
        clone = await self._insist(lambda: client.create_volume(size, source=source, client_token=token))
        while True:
            attached = await self._insist(lambda: client.attach(clone.id, host))
            with contextlib.suppress(Lost):
                await self._compare(snapshot, Path(attached.uri.partition("socket=")[2]), clone.id)
                break
            await asyncio.sleep(AGAIN_S)
        await self._insist(lambda: client.detach(clone.id, host, force=True))
        await self._insist(lambda: client.delete_volume(clone.id))

    async def _compare(self, snapshot: Snapshot, socket: Path, export: str) -> None:
        nbd = await Nbd.connect(socket, export)
        try:
            for zone, registers in snapshot.volume.registers.items():
                step = PIECE // zone.unit
                for first in range(0, zone.units, step):
                    count = min(step, zone.units - first)
                    raw = await nbd.read(zone.start + first * zone.unit, count * zone.unit)
                    for place in range(count):
                        piece = raw[place * zone.unit : (place + 1) * zone.unit]
                        index = zone.start // zone.unit + first + place
                        value = value_of(piece, snapshot.volume.number, index)
                        self._held(snapshot, registers[first + place], value)
        finally:
            await nbd.close()

    @staticmethod
    def _held(snapshot: Snapshot, register: Register, value: int) -> None:
        allowed = snapshot.allowed[register]
        if value not in allowed:
            raise Violation(
                f"{register.name} in snapshot {snapshot.node}: {value:x}, allowed {[f'{one:x}' for one in allowed]}"
            )
        # A snapshot does not change: what it showed once it shows always.
        snapshot.allowed[register] = {value}

    async def _delete(self, snapshot: Snapshot) -> None:
        await self._insist(lambda: self._world.site.client.delete_snapshot(snapshot.volume.id, snapshot.node))
        self.snapshots.remove(snapshot)

    async def _rollback(self, snapshot: Snapshot) -> None:
        client, volume = self._world.site.client, snapshot.volume
        volume.pause()
        try:
            await volume.idle()
            token = f"r{next(self._numbers)}"

            async def back() -> None:
                # Somebody may have attached it again in between.
                await client.detach(volume.id, (await client.volume(volume.id)).host, force=True)
                await client.rollback(volume.id, snapshot.node, token)

            await self._insist(back)
            volume.rolled_back(snapshot.allowed)
            await volume.move(await self._world.attach(volume.id, self._world.host[volume.id]))
            self._world.say(f"  {volume.id} rolled back to {snapshot.node}")
        finally:
            volume.go_on()
