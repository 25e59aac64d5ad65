"""``python -m bench.scale``: the master at the size of a large cloud. ``make bench-scale`` runs it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from bench.measure import machine
from bench.scale import cloud, etcd, loss, term
from bench.scale.cloud import Size
from tests.etcd_process import EtcdProcess
from yuntai import log
from yuntai.pangu import placement
from yuntai.state import EtcdStore

RESULTS = Path(__file__).resolve().parents[1] / "results"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--trials", type=int, default=20_000, help="of simultaneous failures")
    parser.add_argument("--steady", type=float, default=60.0, help="seconds in which nothing happens")
    parser.add_argument("--repair", type=float, default=60.0, help="seconds of moves after each loss")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def show(name: str, value: object) -> None:
    """Print one figure."""
    print(f"{name:56} {value}", flush=True)  # noqa: T201


def spread(size: Size) -> dict[str, object]:
    """Measure placement: its time, how even it is, and how likely it loses data."""
    known = cloud.candidates(cloud.servers(size))
    began = time.perf_counter()
    placement.place(known, 500, seed=1)
    first_s = time.perf_counter() - began
    began = time.perf_counter()
    for seed in range(5):
        placement.place(known, 500, seed=seed)
    next_s = (time.perf_counter() - began) / 5
    groups: dict[loss.Group, int] = {}
    held = dict.fromkeys((one.number for one in known), 0)
    for _, records in cloud.volumes(size):
        for record in records:
            for replicas in record.chunks:
                group = tuple(sorted(replicas))
                groups[group] = groups.get(group, 0) + 1
    partners: dict[int, set[int]] = {number: set() for number in held}
    for group, chunks in groups.items():
        for number in group:
            held[number] += chunks
            partners[number].update(group)
    counts = sorted(held.values())
    helpers = sorted(len(others) - 1 for others in partners.values())
    found: dict[str, object] = {
        "placing a volume of 500 chunks, first / next, ms": f"{first_s * 1e3:.0f} / {next_s * 1e3:.0f}",
        "copysets in use": len(groups),
        "replicas per server, least / median / most": f"{counts[0]} / {counts[len(counts) // 2]} / {counts[-1]}",
        "servers that share chunks with one, least / median / most": (
            f"{helpers[0]} / {helpers[len(helpers) // 2]} / {helpers[-1]}"
        ),
    }
    return found | groups_lost(groups, known, size)


def groups_lost(groups: dict[loss.Group, int], known: list[placement.Candidate], size: Size) -> dict[str, object]:
    """Return the chances of data loss."""
    racks = {one.number: one.rack for one in known}
    found: dict[str, object] = {}
    for failed in (3, 5, 10, 20, 30, 50):
        if failed > size.servers:
            continue
        here = loss.played(groups, racks, failed, OPTIONS.trials)
        other = loss.of_random_placement(size.servers, size.racks, size.chunks, failed)
        found[f"{failed} random servers lost at once: any data lost, copysets / random"] = (
            f"{here.chance:.5f} / {other:.5f}; mean part of all data {here.mean_part:.2e}"
        )
    return found


async def run(size: Size) -> dict[str, object]:
    """Take every figure."""
    found = spread(size)
    for name, value in found.items():
        show(name, value)
    with tempfile.TemporaryDirectory(prefix="yuntai-scale-") as folder:
        process = EtcdProcess(Path(folder))
        await asyncio.to_thread(process.start)
        try:
            began = time.perf_counter()
            async with EtcdStore([process.endpoint]) as store:
                records = await cloud.write(store, size)
            took_s = time.perf_counter() - began
            after = etcd.figures(process.endpoint)
            more: dict[str, object] = {
                "records in etcd": records,
                "etcd's file, MiB": round(after.file_bytes / 2**20),
                "bytes in etcd per chunk": round(after.file_bytes / size.chunks, 1),
                "writing all of it, s": round(took_s, 1),
            }
            for name, value in more.items():
                show(name, value)
            found |= more
            async for name, value in term.figures(size, process.endpoint, OPTIONS.steady, OPTIONS.repair):
                show(name, value)
                found[name] = value
        finally:
            with contextlib.suppress(OSError):
                process.stop()
    return found


OPTIONS = arguments()


def main() -> int:
    """Run, print, and keep the figures."""
    log.setup("scale", "error")
    size = Size(**{name: getattr(OPTIONS, name) for name in asdict(Size())})
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))  # noqa: T201
    print(", ".join(f"{value:,} {name}" for name, value in asdict(size).items()))  # noqa: T201
    found = asyncio.run(run(size))
    OPTIONS.out.mkdir(parents=True, exist_ok=True)
    path = OPTIONS.out / f"scale-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps({"machine": facts, "size": asdict(size), "figures": found}, indent=1) + "\n")
    print(f"kept in {path}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
