"""How long a writer waits when a chunk server is killed, hangs, and comes back."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from typing import TYPE_CHECKING

from bench.measure import Figure
from bench.storage.goals import MIB, Goal
from bench.storage.ours import storage
from bench.storage.writers import Writers, longest_ms

if TYPE_CHECKING:
    from pathlib import Path

    from bench.storage.settings import Settings
    from tests.functional.storage import Storage

NAME = "stalls"
SIZE_MIB = 256
SETTLE_S, DOWN_S, BACK_S = 3.0, 2.0, 2.5
HUNG_S = 4.0
HUNG_TRIALS = 3
KILLED, HUNG, BACK, CALM = "chunk server killed", "chunk server hung", "it comes back", "nothing happens"


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(
        NAME,
        f"longest 4 KiB write of writers at depth 4, {settings.trials} kills and {HUNG_TRIALS} hangs in turns",
        ("event", "trials", "median ms", "worst ms"),
    )
    found: dict[str, list[float]] = {CALM: [], KILLED: [], HUNG: [], BACK: []}
    async with storage(folder / "ours", settings.programs) as one:
        volume = one.create(SIZE_MIB * MIB)
        uri = await one.open(volume)
        hang_after = {settings.trials * (turn + 1) // HUNG_TRIALS - 1 for turn in range(HUNG_TRIALS)}
        for trial in range(settings.trials):
            number = trial % 3 + 1
            await _trial(one, folder, uri, number, found, hang=False)
            await one.in_sync(volume)
            if trial in hang_after:
                await _trial(one, folder, uri, number, found, hang=True)
                await one.in_sync(volume)
    for event, taken in found.items():
        if taken:
            figure.rows.append((event, len(taken), statistics.median(taken), max(taken)))
    figure.raw = dict(found)
    return figure


async def _trial(
    one: Storage, folder: Path, uri: str, number: int, found: dict[str, list[float]], *, hang: bool
) -> None:
    down_s = HUNG_S if hang else DOWN_S
    with Writers(folder, uri, SETTLE_S + down_s + BACK_S + 0.5, size=f"{SIZE_MIB}m") as writers:
        await asyncio.sleep(SETTLE_S)
        lost_s = time.time()
        if hang:
            one.send(f"cs-{number}", signal.SIGSTOP)
        else:
            one.kill(f"cs-{number}")
        await asyncio.sleep(down_s)
        back_s = time.time()
        if hang:
            one.send(f"cs-{number}", signal.SIGCONT)
        else:
            one.start_server(number)
        done = await asyncio.to_thread(writers.finish)
    found[CALM].append(longest_ms(done, lost_s - SETTLE_S / 2, lost_s - 0.05))
    found[HUNG if hang else KILLED].append(longest_ms(done, lost_s, back_s))
    found[BACK].append(longest_ms(done, back_s + 0.001, back_s + BACK_S))


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised."""
    wanted = (
        ("longest stall, chunk server killed, ms", 100.0, KILLED),
        ("longest stall, chunk server hung, ms", 1500.0, HUNG),
        ("longest stall when it comes back, ms", 100.0, BACK),
    )
    return [Goal(what, "<=", limit, max(figure.raw[event])) for what, limit, event in wanted if figure.raw.get(event)]
