"""Steps of set-up: each runs only when its inputs changed, shows one line with its time, and writes a log."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from yuntai.lab.layout import Home

LOG_LINES = 15
TICK_S = 1.0


class SetupError(Exception):
    """Set-up cannot go on; the text says why, ``way_out`` what to do."""

    def __init__(self, text: str, way_out: str) -> None:
        super().__init__(text)
        self.way_out = way_out


@dataclass(frozen=True)
class Step:
    """One step. ``inputs`` is what its result depends on, ``is_there`` whether the result is, ``run`` makes it."""

    name: str
    title: str
    inputs: Callable[[], str]
    is_there: Callable[[], bool]
    run: Callable[[Log], None]
    way_out: str


class Log:
    """The log of one step; every command's output goes there."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[bytes] = path.open("wb")

    def say(self, text: str) -> None:
        """Write a line of our own."""
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def run(
        self,
        *command: str,
        timeout_s: float,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Run a command with its output in the log; raise :class:`SetupError` when it fails or takes too long."""
        self.say(f"$ {' '.join(command)}")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise SetupError(f"`{command[0]}` took more than {timeout_s:.0f} s", "try again on a faster line") from None
        finally:
            # Its group is gone too after an interrupt or a timeout: no half of it goes on beside a second try.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            raise SetupError(f"`{' '.join(command[:3])} …` failed with {code}", "")

    def tail(self) -> str:
        """Return the last lines."""
        lines = self.path.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-LOG_LINES:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def digest(*parts: str) -> str:
    """Return a hash of texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def digest_files(paths: Iterable[Path]) -> str:
    """Return a hash of files and of everything in folders, except compiled Python: names and contents."""
    state = hashlib.sha256()
    for path in paths:
        files = sorted(entry for entry in path.rglob("*") if _counts(entry)) if path.is_dir() else [path]
        for file in files:
            state.update(str(file).encode() + b"\0")
            state.update(file.read_bytes() if file.is_file() else b"")
    return state.hexdigest()[:32]


def _counts(entry: Path) -> bool:
    return entry.is_file() and "__pycache__" not in entry.parts


class Runner:
    """Runs steps in order, and remembers in ``stamps`` which results are good."""

    def __init__(self, home: Home, count: int) -> None:
        self._home, self._count, self._number = home, count, 0

    def stale(self, step: Step) -> bool:
        """Return whether the step must run."""
        try:
            stamp = json.loads((self._home.stamps / step.name).read_text())
        except (FileNotFoundError, ValueError):
            return True
        return stamp.get("inputs") != step.inputs() or not step.is_there()

    def do(self, step: Step) -> None:
        """Run the step if it must be, with its line on the terminal."""
        self._number += 1
        label = f"[{self._number}/{self._count}] {step.title}"
        started_s = time.monotonic()
        if not self.stale(step):
            print(f"{label:<48} ready", flush=True)
            return
        # Taken before the work: what changes meanwhile makes the step stale again.
        inputs = step.inputs()
        (self._home.stamps / step.name).unlink(missing_ok=True)
        log = Log(self._home.log / f"setup-{step.name}.log")
        try:
            with _ticking(label, started_s):
                step.run(log)
        except SetupError as error:
            print(f"\n\n{step.title} failed: {error}\nThe end of {log.path}:\n{log.tail()}", file=sys.stderr)
            print(f"\nWay out: {error.way_out or step.way_out}\nThen run the same command again.", file=sys.stderr)
            raise SystemExit(1) from error
        finally:
            log.close()
        took_s = time.monotonic() - started_s
        self._home.stamps.mkdir(parents=True, exist_ok=True)
        stamp = self._home.stamps / f"{step.name}.partial"
        stamp.write_text(json.dumps({"inputs": inputs, "took_s": round(took_s, 1)}))
        stamp.replace(self._home.stamps / step.name)
        print(f"{took_s:6.1f} s", flush=True)


@contextlib.contextmanager
def _ticking(label: str, started_s: float) -> Iterator[None]:
    """Show ``label`` with the time that has passed, which grows while the work is done where a person looks on."""
    done = threading.Event()
    live = sys.stdout.isatty()

    def tick() -> None:
        while not done.wait(TICK_S):
            print(f"\r{label:<48} {time.monotonic() - started_s:4.0f} s", end="", flush=True)

    print(f"{label:<48} ", end="", flush=True)
    thread = threading.Thread(target=tick, daemon=True)
    if live:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if live:
            thread.join()
            print(f"\r{label:<48} ", end="", flush=True)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def swap_in(partial: Path, final: Path) -> None:
    """Put the finished ``partial`` in the place of ``final``, which is kept for its users; see :func:`replaced`."""
    if final.exists():
        final.rename(final.with_name(f"{final.name}.replaced-{time.time_ns()}"))
    partial.rename(final)


def replaced(folder: Path) -> list[Path]:
    """Return what :func:`swap_in` has kept in ``folder``: running hosts may stand on it."""
    return sorted(folder.glob("*.replaced-*"))
