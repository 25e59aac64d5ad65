"""One term of the real master over a large cloud: from its election to the repair of a lost rack."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.scale import cloud, etcd
from bench.scale.played import Played
from yuntai.model.cluster import PanguSettings
from yuntai.pangu import master as master_module
from yuntai.pangu import wire
from yuntai.pangu.master import Master
from yuntai.pangu.settings import SETTINGS_ID
from yuntai.state import EtcdStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bench.scale.cloud import Size
    from yuntai.pangu.session import Session

REPAIR_AFTER_S = 10
GIVE_UP_S = 600.0
TUNABLES = {
    "repair_after_s": REPAIR_AFTER_S,
    "repair_bytes_per_s": 1 << 50,
    "moves_at_once": 10_000,
    "moves_per_volume": 256,
    "moves_per_server": 1_000,
}
"""Nothing holds the moves back but the master itself: the servers that are played copy in no time."""


def rss_mib() -> int:
    """Return what this process occupies."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def cpu_s() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def until(true: Callable[[], Any], what: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + GIVE_UP_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.02)


class Lag:
    """How long the event loop was busy with one thing: nothing else is answered meanwhile."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest_s = max(self.longest_s, time.monotonic() - began - 0.01)

    def take(self) -> float:
        """Return the longest since the last time."""
        longest, self.longest_s = self.longest_s, 0.0
        return longest


async def figures(size: Size, endpoint: str, steady_s: float, repair_s: float) -> AsyncIterator[tuple[str, object]]:
    """Yield one figure after another."""
    used = 3 * size.chunks * cloud.CHUNK_BYTES // size.servers
    played = Played(cloud.DISK_BYTES, used, 3 * size.chunks // size.servers)
    # The whole wire: whoever dials gets somebody who only answers.
    wire.connect = played.connect  # type: ignore[assignment]
    # Whoever else is busy on this machine must not depose the master that is measured.
    master_module.TERM_TTL_S = 120.0
    async with EtcdStore([endpoint]) as store:
        await store.put(PanguSettings(id=SETTINGS_ID, tunables=TUNABLES))
        await _open_everything(size, played)
        gc.collect()
        before_mib = rss_mib()
        lag = Lag()
        master = Master(store, host="m1", url="http://m1:7300", cluster_secret=b"c" * 32, token_secret=b"t" * 32)
        began, spent = time.monotonic(), cpu_s()
        tasks = [asyncio.create_task(lag.run()), asyncio.create_task(master.run())]
        try:
            await until(lambda: master.session is not None, "elected")
            session = master.session
            assert session is not None  # noqa: S101
            yield "elected after, s", round(time.monotonic() - began, 2)
            await until(lambda: played.answered_at, "the first event is decided")
            yield "first event of a gateway decided after, s", round(time.monotonic() - began, 2)
            await session.atlas.ready()
            yield "all records in memory after, s", round(time.monotonic() - began, 2)
            await until(lambda: sum(one["state"] == "up" for one in session.gateways.states()) == size.gateways, "up")
            yield "every gateway connected after, s", round(time.monotonic() - began, 2)
            yield "processor time until then, s", round(cpu_s() - spent, 1)
            gc.collect()
            yield "memory of the master, MiB", rss_mib() - before_mib
            lag.take()
            async for one in _steady(endpoint, played, lag, steady_s):
                yield one
            async for one in _lost(session, played, endpoint, lag, {7}, repair_s, "a server"):
                yield one
            rack = {number for number in range(1, size.servers + 1) if number % size.racks == 3}
            async for one in _lost(session, played, endpoint, lag, rack, repair_s, "a rack"):
                yield one
            yield "memory of the master in the end, MiB", rss_mib() - before_mib
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _open_everything(size: Size, played: Played) -> None:
    """Let the gateways have what the records say, as after a change of masters; one has an event to tell."""
    for place in range(size.volumes):
        if place % 10:
            played.opened[f"h{place % size.gateways:03}"][place + 1] = 1
    played.degrade = (f"h{1:03}", 2, next(iter(_servers_of(size, 1))))


def _servers_of(size: Size, place: int) -> tuple[int, ...]:
    for at, (_, records) in enumerate(cloud.volumes(size)):
        if at == place:
            return records[0].chunks[0]
    raise AssertionError


async def _steady(endpoint: str, played: Played, lag: Lag, seconds: float) -> AsyncIterator[tuple[str, object]]:
    before, spent, calls = etcd.figures(endpoint), cpu_s(), played.calls.total()
    await asyncio.sleep(seconds)
    now = etcd.figures(endpoint).minus(before)
    yield "quiet: processor, % of a core", round(100 * (cpu_s() - spent) / seconds, 1)
    yield "quiet: questions to servers and gateways per second", round((played.calls.total() - calls) / seconds)
    yield "quiet: etcd writes per second", round(now.puts / seconds, 2)
    yield "quiet: etcd bytes in / out per second", f"{now.bytes_in / seconds:.0f} / {now.bytes_out / seconds:.0f}"
    yield "quiet: longest time that the master was busy with one thing, ms", round(lag.take() * 1e3)


async def _lost(
    session: Session, played: Played, endpoint: str, lag: Lag, numbers: set[int], seconds: float, what: str
) -> AsyncIterator[tuple[str, object]]:
    """Lose servers for good."""
    played.first_moves_at = 0.0
    loop = asyncio.get_running_loop()
    began = loop.time()
    played.down |= numbers
    await until(lambda: numbers <= session.mover.view.lost, f"{what} lost: noticed")
    played.first_moves_at = 0.0
    await until(lambda: played.first_moves_at, f"{what} lost: moves are told")
    yield f"{what} lost: first moves told after (grace {REPAIR_AFTER_S} s), s", round(played.first_moves_at - began, 1)
    turn = time.process_time()
    await session.mover._scan()  # noqa: SLF001
    yield f"{what} lost: finding and ordering what is to move, processor s", round(time.process_time() - turn, 2)
    yield f"{what} lost: replicas that must move", sum(session.mover.left.values())
    before, spent, placed, since = etcd.figures(endpoint), cpu_s(), played.moves_placed, loop.time()
    last = since + seconds
    await until(lambda: loop.time() > last or not session.mover.left, "the moves go on")
    took = loop.time() - since
    now = etcd.figures(endpoint).minus(before)
    moved = played.moves_placed - placed
    yield f"{what} lost: replicas moved per second", round(moved / took)
    yield f"{what} lost: processor, % of a core", round(100 * (cpu_s() - spent) / took)
    yield f"{what} lost: processor per move, ms", round(1e3 * (cpu_s() - spent) / max(1, moved), 2)
    yield f"{what} lost: etcd writes per second", round(now.puts / took)
    yield f"{what} lost: etcd bytes in per move", round(now.bytes_in / max(1, moved))
    yield f"{what} lost: longest time that the master was busy with one thing, ms", round(lag.take() * 1e3)
