"""A chunk server that comes back with an empty disk: how fast it is filled, and what the writers keep meanwhile.

And the memory of a chunk server that has a tebibyte of chunks.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import fio
from bench.measure import Figure
from bench.storage.goals import MIB, Goal
from bench.storage.nbd import Client
from bench.storage.ours import storage
from bench.storage.writers import Writers, rate
from tests.functional.storage import CHUNK_BYTES
from yuntai.pangu.wire import WireError, connect

if TYPE_CHECKING:
    from bench.storage.settings import Settings
    from tests.functional.storage import Storage, Volume

NAME = "rebuild"
SIZE_MIB = 1024
BUSY_MIB = 64
LOST = 3
BEFORE_S = 4.0
TIB_CHUNKS = (1 << 40) // CHUNK_BYTES
CHECKPOINT_S = 90.0


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(NAME, f"{SIZE_MIB} MiB on the lost disk", ("what", "figure", "unit"))
    async with storage(folder / "ours", settings.programs) as one:
        volume, busy = one.create(SIZE_MIB * MIB), one.create(BUSY_MIB * MIB)
        uri, busy_uri = await one.open(volume), await one.open(busy)
        await asyncio.to_thread(fio.fill, uri, f"{SIZE_MIB}m")
        await asyncio.to_thread(fio.fill, busy_uri, f"{BUSY_MIB}m")
        seconds = await _swap(one, volume)
        _note(figure, "rebuild, nothing else to do", SIZE_MIB / seconds, "MiB/s")
        await one.in_sync(busy)
        with Writers(folder, busy_uri, 90.0, size=f"{BUSY_MIB}m", depth=16) as writers:
            await asyncio.sleep(1.0 + BEFORE_S)
            began_s = time.time()
            seconds = await _swap(one, volume)
            writers.stop()
            done = await asyncio.to_thread(writers.finish)
        alone, beside = rate(done, began_s - BEFORE_S, began_s), rate(done, began_s + 0.5, began_s + seconds)
        _note(figure, "rebuild beside writers at depth 16", SIZE_MIB / seconds, "MiB/s")
        _note(figure, "writers before", alone, "IOPS")
        _note(figure, "writers meanwhile", beside, "IOPS")
        _note(figure, "share that the writers keep", beside / alone, "")
    async with storage(folder / "large", settings.programs) as one:
        await _memory(figure, one)
    return figure


def _note(figure: Figure, what: str, value: float, unit: str) -> None:
    figure.rows.append((what, value, unit))
    figure.raw[what] = value


async def _swap(one: Storage, volume: Volume) -> float:
    """Lose a server with its disk, give it an empty one; return the seconds from its start until all is whole."""
    one.kill(f"cs-{LOST}")
    shutil.rmtree(one.folder / f"chunks-{LOST}")
    await asyncio.sleep(0.5)
    began = time.monotonic()
    one.start_server(LOST)
    await _admit(one)
    await one.in_sync(volume, 300.0)
    return time.monotonic() - began


async def _admit(one: Storage) -> None:
    """Let gateways use a store that is new, as the master does when it has taken the old one out everywhere."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with contextlib.suppress(WireError, OSError):
            channel = await connect(f"127.0.0.1:{one.ports[LOST]}", one.secret, "master:bench")
            try:
                status = await channel.call({"op": "status"})
                if status.get("store") and not status.get("admitted", True):
                    await channel.call({"op": "admit", "store": status["store"]})
                return
            finally:
                await channel.close()
        await asyncio.sleep(0.05)


async def _memory(figure: Figure, one: Storage) -> None:
    volume = one.create(TIB_CHUNKS * CHUNK_BYTES)
    uri = await one.open(volume)

    def touch() -> None:
        with Client(uri) as client:
            for chunk in range(TIB_CHUNKS):
                client.write(chunk * CHUNK_BYTES, b"x" * 4096)
            client.flush()

    await asyncio.to_thread(touch)
    await one.close(volume)
    # Every server ends with a checkpoint: what it has after the start is what it needs.
    for number in one.ports:
        one.kill(f"cs-{number}", signal.SIGTERM)
        one.start_server(number)
    await one.open(volume, CHECKPOINT_S)
    await asyncio.sleep(1)
    most = max(_rss_mib(one.processes[f"cs-{number}"].pid) for number in one.ports)
    _note(figure, f"memory of a chunk server with {TIB_CHUNKS} chunks (1 TiB)", most, "MiB")
    _note(figure, "memory of the gateway with that volume", _rss_mib(one.processes["gateway"].pid), "MiB")


def _rss_mib(pid: int) -> float:
    line = next(text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if text.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised."""
    wanted = (
        ("rebuild of a lost disk, idle, MiB/s", ">=", 200.0, "rebuild, nothing else to do"),
        ("share that writers keep beside a rebuild", ">=", 0.7, "share that the writers keep"),
        ("memory of a chunk server with 1 TiB of chunks, MiB", "<=", 150.0,
         f"memory of a chunk server with {TIB_CHUNKS} chunks (1 TiB)"),
    )  # fmt: skip
    return [Goal(what, sense, limit, figure.raw[key]) for what, sense, limit, key in wanted if key in figure.raw]
