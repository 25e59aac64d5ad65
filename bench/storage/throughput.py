"""IOPS, bandwidth, latency and processor time, beside the peers: every case on every side in turn."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bench import fio, peers
from bench.measure import Figure
from bench.storage import ceph
from bench.storage.goals import MIB, Goal
from bench.storage.ours import pids, storage

if TYPE_CHECKING:
    from pathlib import Path

    from bench.storage.settings import Settings

NAME = "throughput"
OURS = "Yuntai, 3 copies"
OTHER = "another build of ours"
SIZE_MIB = 1024
CASES = {case.name: case for case in fio.CASES}


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    uri: str
    pids: Callable[[], list[int]]


async def run(settings: Settings, folder: Path) -> Figure:
    """Take the figure."""
    figure = Figure(
        NAME,
        f"fio, {SIZE_MIB} MiB span, {settings.seconds:.0f} s a run, medians of {settings.repeat}, sides in turns",
        ("case", "side", "IOPS", "MB/s", "p50 us", "p99 us", "sync p50", "CPU s/10k", "others' cores", "ours / it"),
    )
    async with contextlib.AsyncExitStack() as stack:
        sides = [await _ours(stack, OURS, folder / "ours", settings.programs)]
        if settings.against is not None:
            sides.append(await _ours(stack, OTHER, folder / "other", settings.against))
        if settings.peers:
            for make in (peers.qemu_nbd, peers.quorum):
                peer = stack.enter_context(make(folder, SIZE_MIB * MIB))
                sides.append(_Side(peer.name, peer.uri, _fixed(peer.pids)))
        if settings.ceph:
            cluster = stack.enter_context(ceph.cluster(folder / "ceph", SIZE_MIB * MIB))
            sides.append(_Side(cluster.name, cluster.uri, _fixed(cluster.pids)))
        await asyncio.to_thread(_compare, figure, settings, sides)
    return figure


def _fixed(those: list[int]) -> Callable[[], list[int]]:
    return lambda: those


async def _ours(stack: contextlib.AsyncExitStack, name: str, folder: Path, programs: Path) -> _Side:
    one = await stack.enter_async_context(storage(folder, programs))
    uri = await one.open(one.create(SIZE_MIB * MIB))
    return _Side(name, uri, lambda: pids(one))


def _compare(figure: Figure, settings: Settings, sides: list[_Side]) -> None:
    for side in sides:
        fio.fill(side.uri, f"{SIZE_MIB}m")
    for case in (case for case in fio.CASES if settings.case in case.name):
        runs: dict[str, list[fio.Run]] = {side.name: [] for side in sides}
        for turn in range(settings.repeat):
            # Whoever comes first after a pause has it a little better: take turns at that too.
            for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
                runs[side.name].append(fio.fio(case, side.uri, f"{SIZE_MIB}m", settings.seconds, side.pids()))
        _add(figure, case, runs)
        if settings.talk:
            print(figure.text().splitlines()[0] if len(figure.rows) == len(sides) else "", flush=True)  # noqa: T201
            for row in figure.rows[-len(sides) :]:
                print("  ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row), flush=True)  # noqa: T201


def _add(figure: Figure, case: fio.Case, runs: dict[str, list[fio.Run]]) -> None:
    own = [run.iops for run in runs[OURS]]
    for name, taken in runs.items():
        median = {field: statistics.median(asdict(run)[field] for run in taken) for field in asdict(taken[0])}
        # Pair by pair, as the machine's speed drifts while others work on it.
        ratio = statistics.median(mine / run.iops for mine, run in zip(own, taken, strict=True))
        figure.rows.append(
            (
                case.name, name, median["iops"], median["mb_s"], median["p50_us"], median["p99_us"],
                median["sync_p50_us"], median["server_cpu_s_per_10k"], median["others_cores"],
                "" if name == OURS else f"{ratio:.2f}",
            )
        )  # fmt: skip
    figure.raw[case.name] = {name: [asdict(run) for run in taken] for name, taken in runs.items()}


def _ratio(figure: Figure, case: str, peer: str, field: str) -> float | None:
    sides = figure.raw.get(case, {})
    if peer not in sides or OURS not in sides:
        return None
    pairs = zip(sides[OURS], sides[peer], strict=True)
    return float(statistics.median(mine[field] / theirs[field] for mine, theirs in pairs if theirs[field]))


def _durable(figure: Figure, case: str, peer: str) -> float | None:
    sides = figure.raw.get(case, {})
    if peer not in sides or OURS not in sides:
        return None
    pairs = zip(sides[OURS], sides[peer], strict=True)
    whole = [[run["p50_us"] + run["sync_p50_us"] for run in pair] for pair in pairs]
    return float(statistics.median(mine / theirs for mine, theirs in whole))


def goals(figure: Figure) -> list[Goal]:
    """Compare with what was promised."""
    quorum, single = "QEMU quorum, 3 copies", "qemu-nbd, 1 copy"
    wanted = (
        ("4 KiB random write, depth 16, x quorum", ">=", 1.5, _ratio(figure, "randwrite 4k qd16", quorum, "iops")),
        ("4 KiB random write, depth 16, x Ceph", ">=", 10.0, _ratio(figure, "randwrite 4k qd16", ceph.NAME, "iops")),
        ("4 KiB random write, depth 1, p50, x quorum", "<=", 0.9, _ratio(figure, "randwrite 4k qd1", quorum, "p50_us")),
        ("4 KiB random read, depth 16, x qemu-nbd", ">=", 0.6, _ratio(figure, "randread 4k qd16", single, "iops")),
        ("1 MiB write, depth 4, x quorum", ">=", 1.2, _ratio(figure, "write 1m qd4", quorum, "mb_s")),
        ("1 MiB read, depth 4, x quorum", ">=", 1.0, _ratio(figure, "read 1m qd4", quorum, "mb_s")),
        (
            *("server CPU per 4 KiB write, depth 16, x quorum", "<=", 1.0),
            _ratio(figure, "randwrite 4k qd16", quorum, "server_cpu_s_per_10k"),
        ),
        ("write + flush, depth 1, p50, x quorum", "<=", 1.2, _durable(figure, "randwrite 4k qd1 fsync", quorum)),
    )
    return [Goal(what, sense, limit, value) for what, sense, limit, value in wanted if value is not None]
