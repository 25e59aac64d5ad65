"""Two hundred clones of one image start at once: what each waits, and what somebody else's disk keeps meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench import fio
from bench.measure import Figure, cpu_s, percentile
from bench.storage.goals import MIB, Goal
from bench.storage.nbd import Client
from bench.storage.ours import storage
from bench.storage.writers import Writers, longest_ms, rate

if TYPE_CHECKING:
    from pathlib import Path

    from bench.storage.settings import Settings
    from tests.functional.storage import Storage, Volume

NAME = "clones"
CLONES = 200
IMAGE_MIB = 64
BUSY_MIB = 64
READS = 128
"""What a guest reads until it is up: the same places for all, as they run the same image."""
READ_BYTES = (4 << 10, 16 << 10, 64 << 10, 128 << 10)
BEFORE_S = 5.0
STORM_S_MAX = 300.0
SERVERS = ("cs-1", "cs-2", "cs-3")


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(NAME, f"{CLONES} clones of {IMAGE_MIB} MiB, {READS} reads each", ("what", "figure", "unit"))
    async with storage(folder / "ours", settings.programs) as one:
        origin, busy = one.create(IMAGE_MIB * MIB), one.create(BUSY_MIB * MIB)
        uri, busy_uri = await one.open(origin), await one.open(busy)
        await asyncio.to_thread(fio.fill, uri, f"{IMAGE_MIB}m")
        await asyncio.to_thread(fio.fill, busy_uri, f"{BUSY_MIB}m")
        frozen, _ = await one.snapshot(origin)
        with Writers(folder, busy_uri, STORM_S_MAX, size=f"{BUSY_MIB}m", depth=1) as writers:
            await asyncio.sleep(1 + BEFORE_S)
            cpu = {name: cpu_s(one.processes[name].pid) for name in SERVERS}
            began_s = time.time()
            boots, waits = await _storm(one, [one.create(IMAGE_MIB * MIB, (origin, frozen)) for _ in range(CLONES)])
            ended_s = time.time()
            burnt = [cpu_s(one.processes[name].pid) - cpu[name] for name in SERVERS]
            writers.stop()
            done = await asyncio.to_thread(writers.finish)
    alone, beside = rate(done, began_s - BEFORE_S, began_s), rate(done, began_s, ended_s)
    figure.note("all of them up after", ended_s - began_s, "s")
    figure.note("one of them up after, p50", percentile(boots, 50), "s")
    figure.note("one of them up after, worst", max(boots), "s")
    figure.note("a read of theirs, p50", percentile(waits, 50) * 1e3, "ms")
    figure.note("a read of theirs, p99", percentile(waits, 99) * 1e3, "ms")
    figure.note("a read of theirs, worst", max(waits) * 1e3, "ms")
    figure.note("writes of another disk before, depth 1", alone, "IOPS")
    figure.note("writes of another disk meanwhile", beside, "IOPS")
    figure.note("longest write of another disk meanwhile", longest_ms(done, began_s, ended_s), "ms")
    figure.note("busiest server / mean of the servers, CPU", max(burnt) * len(burnt) / max(1e-9, sum(burnt)), "")
    figure.notes.append(f"{os.cpu_count()} cores for the servers, the gateway and {CLONES} readers")
    return figure


async def _storm(one: Storage, clones: list[Volume]) -> tuple[list[float], list[float]]:
    """Open all, let each read what a boot reads; return the seconds of each until it is up, and of each read."""
    chance = random.Random(3)  # noqa: S311 — places of reads
    lengths = [chance.choice(READ_BYTES) for _ in range(READS)]
    places = [(chance.randrange((IMAGE_MIB * MIB - length) // 4096) * 4096, length) for length in lengths]
    began_s = time.monotonic()
    waits: list[float] = []

    def boot(uri: str) -> float:
        with Client(uri) as client:
            waits.extend([client.read(place, length) for place, length in places])
        return time.monotonic() - began_s

    with ThreadPoolExecutor(CLONES) as readers:
        loop = asyncio.get_running_loop()

        async def start(clone: Volume) -> float:
            return await loop.run_in_executor(readers, boot, await one.open(clone, STORM_S_MAX))

        boots = await asyncio.wait_for(asyncio.gather(*(start(clone) for clone in clones)), STORM_S_MAX)
    return boots, waits


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised: nobody waits for seconds, and no server does the work of all."""
    wanted = (
        ("200 clones at once: worst read of theirs, ms", "<=", 2000.0, "a read of theirs, worst"),
        (
            "200 clones at once: longest write of another disk, ms",
            "<=",
            1000.0,
            "longest write of another disk meanwhile",
        ),
        ("200 clones at once: busiest server, x mean", "<=", 1.5, "busiest server / mean of the servers, CPU"),
    )
    return [Goal(what, sense, limit, figure.raw[key]) for what, sense, limit, key in wanted]
