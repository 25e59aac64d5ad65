"""The ``disk`` figure: one of our disks beside QEMU's servers, on the same file system, in turns.

Each case runs on every side in turn, ``--repeat`` times round, so that whatever else the machine does meets all of
them; the medians are compared. Ours is taken at the gateway's NBD socket, as a guest's QEMU has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from bench import fio, peers
from bench.client import YUNTAI, CallError
from bench.cloud import HOST, Cloud
from bench.measure import CannotMeasure, Figure, Options
from yuntai.lab.status import report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = "disk"
SIZE = "1g"
SIZE_BYTES = 1 << 30
OURS = "Yuntai, 3 copies"
STORAGE = ("gateway", "chunkserver")


@dataclass(frozen=True, slots=True)
class _Side:
    name: str
    uri: str
    pids: list[int]


async def run(options: Options) -> Figure:
    """Take the figure."""
    figure = Figure(
        NAME,
        f"fio, {SIZE} span, {options.seconds:.0f} s a run, medians of {options.repeat}, sides in turns",
        ("case", "side", "IOPS", "MB/s", "p50 us", "p99 us", "CPU s/10k", "others' cores", "ours / it"),
    )
    async with _ours(options) as ours:
        # The peers' files lie where ours do, so that all share one disk.
        folder = options.home if options.home.is_dir() else Path(tempfile.gettempdir())
        with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as scratch:
            await asyncio.to_thread(_compare, figure, options, ours, Path(scratch))
    return figure


def _compare(figure: Figure, options: Options, ours: _Side, scratch: Path) -> None:
    with peers.qemu_nbd(scratch, SIZE_BYTES) as single, peers.quorum(scratch, SIZE_BYTES) as quorum:
        sides = [ours, *(_Side(peer.name, peer.uri, peer.pids) for peer in (single, quorum))]
        for side in sides:
            fio.fill(side.uri, SIZE)
        for case in (case for case in fio.CASES if options.case in case.name):
            runs: dict[str, list[fio.Run]] = {side.name: [] for side in sides}
            for _ in range(options.repeat):
                for side in sides:
                    runs[side.name].append(fio.fio(case, side.uri, SIZE, options.seconds, side.pids))
            _add(figure, case, runs)


def _add(figure: Figure, case: fio.Case, runs: dict[str, list[fio.Run]]) -> None:
    own = statistics.median(run.iops for run in runs[OURS])
    for name, taken in runs.items():
        median = {field: statistics.median(asdict(run)[field] for run in taken) for field in asdict(taken[0])}
        ratio = "" if name == OURS else f"{own / median['iops']:.2f}"
        figure.rows.append(
            (
                case.name, name, median["iops"], median["mb_s"], median["p50_us"], median["p99_us"],
                median["server_cpu_s_per_10k"], median["others_cores"], ratio,
            )
        )  # fmt: skip
    figure.raw[case.name] = {name: [asdict(run) for run in taken] for name, taken in runs.items()}


@contextlib.asynccontextmanager
async def _ours(options: Options) -> AsyncIterator[_Side]:
    """Make a volume, open it on the host, and take both back at the end; or use the URI of the command line."""
    if options.uri:
        yield _Side(OURS, options.uri, [])
        return
    cloud = Cloud.find(options.home)
    client = cloud.client()
    try:
        made = await client.call("CreateVolume", YUNTAI, SizeBytes=SIZE_BYTES)
        volume = str(made["VolumeId"])
        try:
            opened = await client.call("AttachVolume", YUNTAI, VolumeId=volume, HostId=HOST)
            yield _Side(OURS, _outside(cloud, str(opened["Uri"])), _storage_pids(cloud))
        finally:
            with contextlib.suppress(CallError):  # it may not have been attached
                await client.call("DetachVolume", YUNTAI, VolumeId=volume, HostId=HOST)
            await client.call("DeleteVolume", YUNTAI, VolumeId=volume)
    except CallError as error:
        raise CannotMeasure(f"the cloud refuses: {error}") from error
    finally:
        await client.close()


def _outside(cloud: Cloud, uri: str) -> str:
    """Return the URI by which the machine reaches a socket of the host: its /run lies in the data folder."""
    parts = urlsplit(uri)
    inside = Path(parse_qs(parts.query)["socket"][0])
    socket = cloud.home / "hosts" / HOST / "run" / inside.relative_to("/run")
    if not socket.exists():
        raise CannotMeasure(f"the gateway's socket {socket} is not there")
    return f"{parts.scheme}://{parts.netloc}{parts.path}?socket={socket}"


def _storage_pids(cloud: Cloud) -> list[int]:
    """Return the gateway's and the chunk servers' pids."""
    status = report(cloud.home, HOST)
    found = [process.pid for process in status.processes if process.name.startswith(STORAGE)] if status else []
    if not found or 0 in found:
        raise CannotMeasure("not every process of the block store runs; see `make status`")
    return found
