"""What a chunk server with a tebibyte of chunks keeps in memory."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import Figure
from bench.storage.goals import Goal
from bench.storage.nbd import Client
from bench.storage.ours import storage
from tests.functional.storage import CHUNK_BYTES

if TYPE_CHECKING:
    from bench.storage.settings import Settings
    from tests.functional.storage import Storage

NAME = "memory"
TIB_CHUNKS = (1 << 40) // CHUNK_BYTES
CHECKPOINT_S = 300.0
SERVER = f"a chunk server with {TIB_CHUNKS} chunks (1 TiB)"


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(NAME, "resident, after a start", ("process", "memory", "unit"))
    async with storage(folder / "ours", settings.programs) as one:
        await _take(figure, one)
    return figure


async def _take(figure: Figure, one: Storage) -> None:
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
    ending = [one.processes.pop(f"cs-{number}") for number in one.ports]
    for process in ending:
        process.send_signal(signal.SIGTERM)
    for process in ending:
        await asyncio.to_thread(process.wait, CHECKPOINT_S)
    for number in one.ports:
        one.start_server(number)
    await one.open(volume, CHECKPOINT_S)
    await asyncio.sleep(1)
    most = max(_rss_mib(one.processes[f"cs-{number}"].pid) for number in one.ports)
    figure.rows.append((SERVER, most, "MiB"))
    figure.raw[SERVER] = most
    gateway = _rss_mib(one.processes["gateway"].pid)
    figure.rows.append(("the gateway with that volume", gateway, "MiB"))


def _rss_mib(pid: int) -> float:
    line = next(text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if text.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised."""
    return [Goal("memory of a chunk server with 1 TiB of chunks, MiB", "<=", 150.0, figure.raw[SERVER])]
