"""A chunk server that comes back with an empty disk: how fast it is filled, and what the writers keep meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from typing import TYPE_CHECKING

from bench import fio
from bench.measure import Figure
from bench.storage.goals import MIB, Goal
from bench.storage.ours import storage
from bench.storage.writers import Writers, rate
from yuntai.pangu.tokens import Signer
from yuntai.pangu.wire import WireError, connect

if TYPE_CHECKING:
    from pathlib import Path

    from bench.storage.settings import Settings
    from tests.functional.storage import Storage, Volume

NAME = "rebuild"
SIZE_MIB = 1024
BUSY_MIB = 64
LOST = 3
BEFORE_S = 4.0


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(NAME, f"{SIZE_MIB} MiB on the lost disk", ("what", "figure", "unit"))
    async with storage(folder / "ours", settings.programs) as one:
        volume, busy = one.create(SIZE_MIB * MIB), one.create(BUSY_MIB * MIB)
        uri, busy_uri = await one.open(volume), await one.open(busy)
        await asyncio.to_thread(fio.fill, uri, f"{SIZE_MIB}m")
        await asyncio.to_thread(fio.fill, busy_uri, f"{BUSY_MIB}m")
        seconds = await _swap(one, volume)
        figure.note("rebuild, nothing else to do", SIZE_MIB / seconds, "MiB/s")
        await one.in_sync(busy)
        with Writers(folder, busy_uri, 90.0, size=f"{BUSY_MIB}m", depth=16) as writers:
            await asyncio.sleep(1.0 + BEFORE_S)
            began_s = time.time()
            seconds = await _swap(one, volume)
            writers.stop()
            done = await asyncio.to_thread(writers.finish)
        alone, beside = rate(done, began_s - BEFORE_S, began_s), rate(done, began_s + 0.5, began_s + seconds)
        figure.note("rebuild beside writers at depth 16", SIZE_MIB / seconds, "MiB/s")
        figure.note("writers before", alone, "IOPS")
        figure.note("writers meanwhile", beside, "IOPS")
        figure.note("share that the writers keep", beside / alone, "")
    return figure


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
                    admit = {"op": "admit", "store": status["store"]}
                    order = Signer(one.token_secret).order(LOST, status["run"], 1, admit)
                    await channel.call({"op": "order", "order": order})
                return
            finally:
                await channel.close()
        await asyncio.sleep(0.05)


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised."""
    wanted = (
        ("rebuild of a lost disk, idle, MiB/s", ">=", 200.0, "rebuild, nothing else to do"),
        ("share that writers keep beside a rebuild", ">=", 0.7, "share that the writers keep"),
    )
    return [Goal(what, sense, limit, figure.raw[key]) for what, sense, limit, key in wanted if key in figure.raw]
