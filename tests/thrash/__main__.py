"""``python -m tests.thrash --minutes N --seed S``: the block store under faults. Exit 0: nothing was found."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tests.thrash import net
from tests.thrash.schedule import KINDS, schedule
from tests.thrash.world import World


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.thrash", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--short", action="store_true", help="short faults only")
    parser.add_argument("--storm", type=int, default=0, help="so many faults side by side")
    parser.add_argument("--only", default="", help=f"these faults only, with commas between: {', '.join(KINDS)}")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and disks")
    return parser.parse_args()


async def thrash(options: argparse.Namespace, folder: Path) -> int:
    only = [name for name in options.only.split(",") if name]
    seconds = options.minutes * 60 * max(options.storm, 1)
    faults = schedule(options.seed, seconds, long=not options.short, only=only)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, show_tasks)
    world = World(folder, options.seed)
    world.say(f"seed {options.seed}, commit {commit()}, {len(faults)} faults:")
    for fault in faults:
        print(f"          {fault}")
    try:
        await world.start()
        if options.storm:
            await world.storm(faults, options.storm)
        else:
            for fault in faults:
                await world.conduct(fault)
        await world.finish()
        world.report()
    except BaseException as error:  # noqa: BLE001 — whatever it is, the logs are wanted
        print(world.site.logs(), file=sys.stderr)
        show_tasks()
        traceback.print_exc()
        print(f"FOUND: {error}", file=sys.stderr)
        print(f"again with: make thrash SEED={options.seed} MINUTES={options.minutes:g}", file=sys.stderr)
        return 1
    finally:
        await world.stop()
        world.site.unmount()
    return 0


def show_tasks() -> None:
    """Print where every task waits: for SIGUSR1, when a run seems to hang."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def main() -> int:
    options = arguments()
    # The seed is chosen before, so that the process inside has the same.
    net.enter("tests.thrash", [*sys.argv[1:], f"--seed={options.seed}"])
    folder = Path(tempfile.mkdtemp(prefix="yuntai-thrash-"))
    code = 1
    try:
        code = asyncio.run(thrash(options, folder))
    finally:
        if code and options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
