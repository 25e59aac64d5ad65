"""Start one program of a host: wait for what it needs, prepare, and then become it (exec), so that it costs nothing.

The supervisor starts every program through this file and restarts it whenever it ends. The rest lives here, because a
supervisor that gives up after some tries would leave a host half dead: a program is tried again for ever, with a pause
that grows while it keeps dying early and is bounded. What it waits for is in ``/run/yuntai/stage/NAME.json``.

Standard library only, and run as a file: it must start in milliseconds, before anything else works.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

STAGE_FOLDER = Path("/run/yuntai/stage")
POLL_S = 0.05
HEALTHY_S = 30.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
LONGEST_HOOK_S = 60.0
CONNECT_S = 1.0
EXIT_NOT_READY = 75
_ACCEPTS = 0x10000


@dataclass
class Stage:
    """How a program's start stands; its last one is kept, because the pause and the restart count follow from it."""

    starts: int = 0
    streak: int = 0
    started_s: float = 0.0
    waits_for: str = ""
    error: str = ""


def read_stage(path: Path) -> Stage:
    """Return what ``path`` holds, or a fresh stage where there is none or it was cut short."""
    try:
        return Stage(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Stage()


def write_stage(path: Path, stage: Stage) -> None:
    """Replace ``path`` as a whole, so that a reader never sees half a stage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(stage)))
    partial.replace(path)


def pause_s(stage: Stage, now_s: float) -> tuple[int, float]:
    """Return the new streak of early deaths and the pause before this start."""
    if stage.starts == 0 or now_s - stage.started_s >= HEALTHY_S:
        return 0, 0.0
    streak = stage.streak + 1
    return streak, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(streak - 1, 16))


def probe(need: str) -> str:
    """Return "" when ``need`` is there, else what is wrong; see ``--need`` for its forms.

    ``listen`` asks the kernel whether somebody listens on a unix socket: some programs log every connection that says
    nothing as an error.
    """
    if "|" in need:
        wrong = []
        for one in need.split("|"):
            wrong.append(probe(one))
            if not wrong[-1]:
                return ""
        return "; ".join(wrong)
    kind, _, where = need.partition(":")
    try:
        if kind == "tcp":
            address, _, port = where.rpartition(":")
            socket.create_connection((address, int(port)), CONNECT_S).close()
        elif kind == "unix":
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(CONNECT_S)
                client.connect(where)
        elif kind == "listen":
            if not listens(where, Path("/proc/thread-self/net/unix").read_text()):
                return "nobody listens"
        elif kind == "file":
            Path(where).stat()
        else:
            raise SystemExit(f"--need {need}: write tcp:ADDRESS:PORT, unix:PATH, listen:PATH or file:PATH")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def listens(path: str, table: str) -> bool:
    """Return whether ``table``, the text of /proc/net/unix, has a socket at ``path`` that accepts connections."""
    rows = (line.split() for line in table.splitlines()[1:])
    return any(len(row) >= 8 and row[7] == path and int(row[3], 16) & _ACCEPTS for row in rows)


def await_needs(needs: list[str], timeout_s: float, stage: Stage, path: Path) -> None:
    """Return when every need is there; end the process after ``timeout_s``, to be started again."""
    deadline = time.monotonic() + timeout_s
    for need in needs:
        wrong = probe(need)
        while wrong:
            if stage.waits_for != need:
                stage.waits_for = need
                write_stage(path, stage)
            if time.monotonic() > deadline:
                stage.error = f"{need}: {wrong} after {timeout_s:.0f} s"
                write_stage(path, stage)
                print(f"yuntai wait: {stage.error}; trying again", file=sys.stderr, flush=True)
                raise SystemExit(EXIT_NOT_READY)
            time.sleep(POLL_S)
            wrong = probe(need)


def run_prepare(script: str, stage: Stage, path: Path) -> None:
    """Run the script that makes what the program needs; its failure is the program's."""
    try:
        code = subprocess.run(["/bin/sh", script], timeout=LONGEST_HOOK_S, check=False).returncode
    except subprocess.TimeoutExpired:
        code = -signal.SIGKILL
    if code != 0:
        stage.error = f"{script} failed with {code}"
        write_stage(path, stage)
        print(f"yuntai wait: {stage.error}; trying again", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_NOT_READY)


def leave_follower(script: str, path: Path) -> None:
    """Fork twice a follower that runs ``script`` once the program has begun, and ends the program if that fails.

    Forked twice, because a child of the program's own process would stay a zombie: the program knows nothing of it.
    """
    program = os.pidfd_open(os.getpid())
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        os.close(program)
        return
    if os.fork():
        os._exit(0)
    try:
        code = subprocess.run(["/bin/sh", script], timeout=LONGEST_HOOK_S, check=False).returncode
    except subprocess.TimeoutExpired:
        code = -signal.SIGKILL
    if code != 0:
        stage = read_stage(path)
        stage.error = f"{script} failed with {code}"
        write_stage(path, stage)
        print(f"yuntai wait: {stage.error}; the program is started again", file=sys.stderr, flush=True)
        try:
            signal.pidfd_send_signal(program, signal.SIGTERM)
        except ProcessLookupError:
            print("yuntai wait: the program had ended by itself", file=sys.stderr, flush=True)
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Start the program that ``arguments`` name; does not return."""
    parser = argparse.ArgumentParser(prog="yuntai wait", description="wait for what a program needs, then become it")
    parser.add_argument("--name", required=True)
    parser.add_argument(
        "--need",
        action="append",
        default=[],
        help="tcp:ADDRESS:PORT, unix:PATH, listen:PATH or file:PATH; several with | between them: any of these",
    )
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for all needs together")
    parser.add_argument("--prepare", default="", help="a sh script to run before the program")
    parser.add_argument("--after", default="", help="a sh script to run beside the starting program")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    path = STAGE_FOLDER / f"{options.name}.json"
    stage = read_stage(path)
    now_s = time.monotonic()
    stage.streak, pause = pause_s(stage, now_s)
    stage.starts, stage.started_s, stage.waits_for, stage.error = stage.starts + 1, now_s + pause, "", ""
    if pause:
        stage.waits_for = f"pause of {pause:.1f} s after {stage.streak} early ends"
    write_stage(path, stage)
    time.sleep(pause)
    await_needs(options.need, options.timeout, stage, path)
    if options.prepare:
        run_prepare(options.prepare, stage, path)
    stage.waits_for = ""
    write_stage(path, stage)
    if options.after:
        leave_follower(options.after, path)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main(sys.argv[1:])
