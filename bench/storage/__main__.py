"""``python -m bench.storage [PART…]``: every figure of the block store, without a cloud. See ``make bench-storage``."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import CannotMeasure, Figure, machine
from bench.storage import clones, master, memory, plot, rebuild, snapshots, stalls, throughput
from bench.storage.goals import Goal
from bench.storage.settings import ROOT, Settings

PARTS = {part.NAME: part for part in (throughput, stalls, snapshots, clones, rebuild, memory, master)}
RESULTS = ROOT / "bench" / "results"


def main() -> int:
    """Take the chosen parts; return 1 when one could not be taken."""
    parser = argparse.ArgumentParser(prog="python -m bench.storage", description="The block store beside its peers")
    parser.add_argument("part", nargs="*", help=f"which: {', '.join(PARTS)}; default: all")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one run of fio (default 4)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the median counts (default 3)")
    parser.add_argument("--trials", type=int, default=20, help="chunk servers that are killed (default 20)")
    parser.add_argument("--programs", type=Path, default=ROOT / "target" / "release", help="folder of our programs")
    parser.add_argument("--against", type=Path, help="folder of another build of ours, as one more side")
    parser.add_argument("--no-peers", action="store_true", help="without QEMU's servers")
    parser.add_argument("--ceph", action="store_true", help="with Ceph; make bench-storage CEPH=yes installs it")
    parser.add_argument("--case", default="", help="throughput: only the cases whose name has this text, such as 1m")
    parser.add_argument("--dark", type=float, default=300.0, help="seconds without etcd and masters (default 300)")
    parser.add_argument("--folder", type=Path, default=ROOT / "target", help="where the disks' files lie meanwhile")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files and plots")
    chosen = parser.parse_args()
    if unknown := set(chosen.part) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    settings = Settings(
        seconds=chosen.seconds, repeat=chosen.repeat, trials=chosen.trials, programs=chosen.programs.absolute(),
        against=chosen.against.absolute() if chosen.against else None, peers=not chosen.no_peers, ceph=chosen.ceph,
        case=chosen.case, dark_seconds=chosen.dark,
    )  # fmt: skip
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))  # noqa: T201
    missed, goals = [], []
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name in chosen.part or PARTS:
        began_s = time.monotonic()
        try:
            figure, found = _take(name, settings, chosen.folder)
        except (CannotMeasure, AssertionError, OSError, subprocess.SubprocessError) as reason:
            print(f"\n{name}: not taken: {reason}")  # noqa: T201
            missed.append(name)
            continue
        goals += found
        path = figure.save(chosen.out, facts)
        if name == throughput.NAME:
            plot.save(figure, path.with_suffix(".svg"))
        print(f"\n{figure.text()}")  # noqa: T201
        print(f"  {time.monotonic() - began_s:.0f} s, kept in {path}", flush=True)  # noqa: T201
    print("\n".join(["", *(goal.text() for goal in goals)]))  # noqa: T201
    return 1 if missed else 0


def _take(name: str, settings: Settings, folder: Path) -> tuple[Figure, list[Goal]]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as scratch:
        figure = asyncio.run(PARTS[name].run(settings, Path(scratch)))
    return figure, PARTS[name].goals(figure)


if __name__ == "__main__":
    sys.exit(main())
