"""What snapshots and clones cost: the pause, reads below a thousand snapshots, the first write to a clone."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from typing import TYPE_CHECKING

from bench import fio
from bench.measure import Figure, percentile
from bench.storage.goals import MIB, Goal
from bench.storage.nbd import Client
from bench.storage.ours import pids, storage
from bench.storage.writers import Writers, longest_ms

if TYPE_CHECKING:
    from pathlib import Path

    from bench.storage.settings import Settings
    from tests.functional.storage import Storage, Volume

NAME = "snapshots"
SIZE_MIB = 256
DEPTHS = (0, 100, 1000)
WRITES_BETWEEN = 8
TAKEN = 10
BLOCK = 4096
FIRST_WRITES = 1500
READ = next(case for case in fio.CASES if case.name == "randread 4k qd16")


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(NAME, f"{SIZE_MIB} MiB volumes, {settings.repeat} runs in turns", ("what", "figure", "unit"))
    async with storage(folder / "ours", settings.programs) as one:
        await _pause(figure, one, folder)
        await _depth(figure, one, settings)
        await _clone(figure, one)
    return figure


async def _pause(figure: Figure, one: Storage, folder: Path) -> None:
    volume = one.create(SIZE_MIB * MIB)
    uri = await one.open(volume)
    pauses, calls, waits = [], [], []
    with Writers(folder, uri, TAKEN * 0.5 + 2, size=f"{SIZE_MIB}m") as writers:
        await asyncio.sleep(1)
        moments = []
        for _ in range(TAKEN):
            began_s, began = time.time(), time.perf_counter()
            _, answer = await one.snapshot(volume)
            calls.append((time.perf_counter() - began) * 1e3)
            pauses.append(answer["pause_us"] / 1e3)
            moments.append((began_s, time.time()))
            await asyncio.sleep(0.4)
        done = await asyncio.to_thread(writers.finish)
    waits = [longest_ms(done, *moment) for moment in moments]
    await one.close(volume)
    figure.note("snapshot: pause", max(pauses), "ms, worst")
    figure.note("snapshot: longest write meanwhile", max(waits), "ms, worst")
    figure.note("snapshot: call at the gateway", statistics.median(calls), "ms, median")


async def _depth(figure: Figure, one: Storage, settings: Settings) -> None:
    uris = {}
    chance = random.Random(1)  # noqa: S311 — places of blocks
    for depth in DEPTHS:
        volume = one.create(SIZE_MIB * MIB)
        uris[depth] = await one.open(volume)
        await asyncio.to_thread(fio.fill, uris[depth], f"{SIZE_MIB}m")
        with Client(uris[depth]) as client:
            for _ in range(depth):
                await one.snapshot(volume)
                for _ in range(WRITES_BETWEEN):
                    client.write(chance.randrange(SIZE_MIB * MIB // BLOCK) * BLOCK, os.urandom(BLOCK))
    rates: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for turn in range(settings.repeat + 1):
        for depth in DEPTHS:
            taken = await asyncio.to_thread(fio.fio, READ, uris[depth], f"{SIZE_MIB}m", settings.seconds, pids(one))
            if turn:  # the first one only warms up
                rates[depth].append(taken.iops)
    for depth in DEPTHS:
        figure.note(f"random reads, depth 16, below {depth} snapshots", statistics.median(rates[depth]), "IOPS")
        shares = [mine / base for mine, base in zip(rates[depth], rates[0], strict=True)]
        if depth:
            figure.note(f"share kept below {depth} snapshots", statistics.median(shares), "of depth 0")


async def _clone(figure: Figure, one: Storage) -> None:
    origin = one.create(SIZE_MIB * MIB)
    uri = await one.open(origin)
    await asyncio.to_thread(fio.fill, uri, f"{SIZE_MIB}m")
    frozen, _ = await one.snapshot(origin)
    clone: Volume = one.create(SIZE_MIB * MIB, (origin, frozen))
    began = time.perf_counter()
    copy = await one.open(clone)
    figure.note("clone: opened", (time.perf_counter() - began) * 1e3, "ms")
    first, usual, reads = [], [], []
    with Client(uri) as normal, Client(copy) as cloned:
        places = list(range(SIZE_MIB * MIB // BLOCK))
        random.Random(2).shuffle(places)  # noqa: S311
        for place in places[:FIRST_WRITES]:
            data = os.urandom(BLOCK)
            usual.append(normal.write(place * BLOCK, data) * 1e6)
            first.append(cloned.write(place * BLOCK, data) * 1e6)
        reads = [cloned.read(place * BLOCK, BLOCK) * 1e6 for place in places[FIRST_WRITES : FIRST_WRITES + 500]]
    figure.note("clone: first write, p50", percentile(first, 50), "us")
    figure.note("a normal write, p50", percentile(usual, 50), "us")
    figure.note("clone: first write / normal write", percentile(first, 50) / percentile(usual, 50), "")
    figure.note("clone: read while it is loading, p50", percentile(reads, 50), "us")


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised."""
    wanted = (
        ("snapshot: writers' pause, ms", "<=", 20.0, "snapshot: pause"),
        ("snapshot: call (at the gateway), ms", "<=", 100.0, "snapshot: call at the gateway"),
        ("random reads below 100 snapshots, x depth 0", ">=", 0.95, "share kept below 100 snapshots"),
        ("random reads below 1000 snapshots, x depth 0", ">=", 0.95, "share kept below 1000 snapshots"),
        ("first write to a clone, p50, x a normal write", "<=", 2.0, "clone: first write / normal write"),
    )
    return [Goal(what, sense, limit, figure.raw[key]) for what, sense, limit, key in wanted if key in figure.raw]
