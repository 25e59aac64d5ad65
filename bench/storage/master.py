"""What depends on the master: a killed leader, nothing but the data path alive, rollback and clone of a large disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from typing import TYPE_CHECKING

from bench.measure import CannotMeasure, Figure
from bench.storage.goals import Goal
from bench.storage.writers import Writers, longest_ms, rate
from tests.functional.pangu_cluster import MIB, PanguCluster
from yuntai.model.cluster import VolumeSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bench.storage.settings import Settings

NAME = "master"
SIZE_MIB = 256
LARGE_BYTES = 1 << 40
HOST = "h1"
SETTLE_S, AFTER_S = 2.0, 6.0
ELECTION_S = 30.0


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(NAME, "two masters, one etcd; writers of 4 KiB at depth 4", ("what", "figure", "unit"))
    async with _cluster(folder, settings.programs) as cluster:
        volume = await cluster.client.create_volume(SIZE_MIB * MIB)
        uri = await cluster.client.connect(volume.id, HOST)
        await _leader(figure, cluster, folder, uri)
        await _large(figure, cluster)
        await _dark(figure, cluster, folder, uri, settings.dark_seconds)
    return figure


@contextlib.asynccontextmanager
async def _cluster(folder: Path, programs: Path) -> AsyncIterator[PanguCluster]:
    os.environ["YUNTAI_PROGRAMS"] = str(programs)
    one = PanguCluster(folder)
    try:
        await one.start()
        yield one
    except AssertionError as error:
        raise CannotMeasure(f"{error}\n{one.logs(5)}") from error
    finally:
        await one.stop()


async def _leader(figure: Figure, cluster: PanguCluster, folder: Path, uri: str) -> None:
    leader = await cluster.leading()
    with Writers(folder, uri, SETTLE_S + AFTER_S, size=f"{SIZE_MIB}m") as writers:
        await asyncio.sleep(SETTLE_S)
        killed_s = time.time()
        cluster.kill(f"master-{leader}")
        while time.time() < killed_s + ELECTION_S:
            with contextlib.suppress(Exception):  # nobody leads, or answers, at first
                if "leader" in (await cluster.roles()).values():
                    break
            await asyncio.sleep(0.02)
        took_s = time.time() - killed_s
        done = await asyncio.to_thread(writers.finish)
    figure.note("leader killed: new leader after", took_s, "s")
    figure.note("leader killed: longest write meanwhile", longest_ms(done, killed_s, killed_s + took_s), "ms")
    figure.note("longest write before", longest_ms(done, killed_s - SETTLE_S / 2, killed_s - 0.05), "ms")
    cluster.start_master(leader)


async def _large(figure: Figure, cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(LARGE_BYTES)
    await client.connect(volume.id, HOST)
    began = time.perf_counter()
    node = await client.snapshot(volume.id, "bench")
    figure.note("snapshot call, 1 TiB", (time.perf_counter() - began) * 1e3, "ms")
    began = time.perf_counter()
    clone = await client.create_volume(LARGE_BYTES, source=VolumeSource(volume=volume.id, node=node))
    figure.note("clone of 1 TiB", (time.perf_counter() - began) * 1e3, "ms")
    await client.detach(volume.id, HOST)
    began = time.perf_counter()
    await client.rollback(volume.id, node)
    figure.note("rollback of 1 TiB", time.perf_counter() - began, "s")
    began = time.perf_counter()
    await client.connect(volume.id, HOST)
    figure.note("attach of 1 TiB", time.perf_counter() - began, "s")
    await client.detach(volume.id, HOST)
    for one in (clone.id, volume.id):
        await client.delete_volume(one)


async def _dark(figure: Figure, cluster: PanguCluster, folder: Path, uri: str, seconds: float) -> None:
    with Writers(folder, uri, SETTLE_S * 2 + seconds, size=f"{SIZE_MIB}m") as writers:
        await asyncio.sleep(SETTLE_S * 2)
        dark_s = time.time()
        for host in ("h1", "h2"):
            cluster.kill(f"master-{host}")
        await asyncio.to_thread(cluster.etcd.stop)
        done = await asyncio.to_thread(writers.finish)
    before, after = rate(done, dark_s - SETTLE_S, dark_s), rate(done, dark_s, dark_s + seconds - 1)
    figure.note(f"etcd and masters down for {seconds:.0f} s: share of IOPS kept", after / max(before, 1e-9), "")
    figure.note("longest write in the dark", longest_ms(done, dark_s, dark_s + seconds), "ms")


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised."""
    wanted = (
        ("leader killed: new leader, s", 3.0, "leader killed: new leader after"),
        ("leader killed: longest write meanwhile, ms", 100.0, "leader killed: longest write meanwhile"),
        ("snapshot call through the master, 1 TiB, ms", 100.0, "snapshot call, 1 TiB"),
        ("clone of 1 TiB, ms", 100.0, "clone of 1 TiB"),
        ("rollback of 1 TiB, s", 1.0, "rollback of 1 TiB"),
        ("longest write without etcd and masters, ms", 1000.0, "longest write in the dark"),
    )
    return [Goal(what, "<=", limit, figure.raw[key]) for what, limit, key in wanted if key in figure.raw]
