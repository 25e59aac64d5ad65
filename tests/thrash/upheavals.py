"""Faults that lose what a disk had, and work that moves replicas: each on one server at a time, when all is whole."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from yuntai.pangu.errors import PanguError

if TYPE_CHECKING:
    from tests.thrash.world import World

ROTTEN_BLOCKS = 30


async def swap_disk(world: World, target: int, seconds: float) -> None:
    """A chunk server gets another, empty disk: it must not count before it has everything again."""
    if not await _whole(world):
        return
    number = target + 1
    world.site.kill(f"cs-{number}")
    world.site.wipe(number)
    await asyncio.sleep(seconds)
    world.site.launch(f"cs-{number}")


async def rot(world: World, target: int, seconds: float) -> None:
    """Bits flip on a disk; a scrub, or whoever reads, finds it."""
    if not await _whole(world):
        return
    chance = random.Random(f"{world.seed} {target}")
    for path in sorted((world.site.disk(target + 1) / "volumes").rglob("*.data")):
        with path.open("r+b") as file:
            size = path.stat().st_size
            for _ in range(ROTTEN_BLOCKS if size else 0):
                at = chance.randrange(size)
                file.seek(at)
                byte = file.read(1)
                if byte != b"\0":  # a hole stays a hole
                    file.seek(at)
                    file.write(bytes([byte[0] ^ 1 << chance.randrange(8)]))
    await _operate(world, "scrub", {"servers": [f"cs-{target + 1}"]})
    await asyncio.sleep(seconds)


async def drain(world: World, target: int, seconds: float) -> None:
    """A server is emptied, and then wanted again."""
    server = f"cs-{target + 1}"
    await _operate(world, "drain", {"servers": [server]})
    await asyncio.sleep(seconds)
    await _operate(world, "drain", {"servers": [server], "undo": True})


async def balance(world: World, target: int, seconds: float) -> None:
    """Full disks give to emptier ones."""
    await _operate(world, "balance", {})
    await asyncio.sleep(seconds)
    await _operate(world, "balance", {"stop": True})


async def _whole(world: World) -> bool:
    """Return whether every volume has all its replicas now; what would lose the last good one is no fair fault."""
    try:
        async with asyncio.timeout(5):
            return await world.whole()
    except (TimeoutError, PanguError):
        return False


async def _operate(world: World, what: str, body: dict[str, object]) -> None:
    """Ask until it is done: what was drained must be taken back."""
    while True:
        try:
            await world.site.client.operate(what, body)
        except PanguError as error:
            world.say(f"  {what}: {error}")
            await asyncio.sleep(1)
        else:
            return
