"""``python -m bench``: take figures, print them, keep them under ``bench/results``. ``make bench`` runs all of them."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from bench import api, create, disk, failover, idle, migration, network
from bench.measure import CannotMeasure, Options, machine
from yuntai.lab.layout import default_home

FIGURES = {figure.NAME: figure for figure in (api, network, idle, create, disk, failover, migration)}
ALONE = {failover.NAME, migration.NAME}
"""Taken only when asked for: each makes a cloud of its own and takes minutes."""
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Take the chosen figures; return 1 when one of those that were asked for by name could not be taken."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Yuntai's figures beside its peers'")
    parser.add_argument("figure", nargs="*", help=f"which: {', '.join(FIGURES)}; default: all that can be taken here")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one run (default 4)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the median counts (default 3)")
    parser.add_argument("--home", type=Path, default=default_home(), help="data folder of the running cloud")
    parser.add_argument("--uri", default="", help="disk: an NBD URI of a Yuntai disk, instead of making one")
    parser.add_argument(
        "--case", default="", help="disk, failover: only the cases whose name has this text, such as 1m"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    chosen = parser.parse_args()
    if unknown := set(chosen.figure) - FIGURES.keys():
        parser.error(f"there is no figure {', '.join(sorted(unknown))}; choose from {', '.join(FIGURES)}")
    options = Options(
        seconds=chosen.seconds, repeat=chosen.repeat, home=chosen.home.absolute(), uri=chosen.uri, case=chosen.case
    )
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))  # noqa: T201
    missed = []
    for name in chosen.figure or [name for name in FIGURES if name not in ALONE]:
        began_s = time.monotonic()
        try:
            figure = asyncio.run(FIGURES[name].run(options))
        except CannotMeasure as reason:
            print(f"\n{name}: not taken: {reason}")  # noqa: T201
            missed.append(name)
            continue
        print(f"\n{figure.text()}")  # noqa: T201
        print(f"  {time.monotonic() - began_s:.0f} s, kept in {figure.save(chosen.out, facts)}", flush=True)  # noqa: T201
    return 1 if chosen.figure and missed else 0


if __name__ == "__main__":
    sys.exit(main())
