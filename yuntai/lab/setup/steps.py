"""What a step of set-up is, and what its work is made of: commands with a log, hashes, folders put in place whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOG_LINES = 15
QUERY_S = 300
"""How long a program may take that only answers a question: some seconds of work on a very busy machine."""
POLL_S = 0.1


class SetupError(Exception):
    """Set-up cannot go on; the text says why, ``way_out`` what to do."""

    def __init__(self, text: str, way_out: str) -> None:
        super().__init__(text)
        self.way_out = way_out


@dataclass(frozen=True)
class Step:
    """One step. ``inputs`` is what its result depends on, ``is_there`` whether the result is, ``run`` makes it.

    It begins when the steps named in ``after`` are done.
    """

    name: str
    title: str
    inputs: Callable[[], str]
    is_there: Callable[[], bool]
    run: Callable[[Log], None]
    way_out: str
    after: tuple[str, ...] = ()


class Log:
    """The log of one step; every command's output goes there. ``stop`` ends a command that runs."""

    def __init__(self, path: Path, stop: threading.Event | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stop = stop or threading.Event()
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
        deadline = time.monotonic() + timeout_s
        try:
            while (code := process.poll()) is None:
                if time.monotonic() > deadline:
                    raise SetupError(f"`{command[0]}` took more than {timeout_s:.0f} s", "try again on a faster line")
                if self._stop.wait(POLL_S):
                    raise SetupError(f"`{command[0]}` was ended", "")
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
