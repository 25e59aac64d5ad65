"""Writers that note when each of their requests ended and how long it took, so that a stall can be put to its cause."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from bench.fio import engine
from bench.measure import CannotMeasure, need_program

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

FINISH_S = 120.0
"""How much longer than it was told to a run of fio may take."""


@dataclass(frozen=True, slots=True)
class Done:
    """A request: when it ended (seconds since 1970) and how long it took."""

    at_s: float
    took_ms: float


class Writers:
    """fio with 4 KiB random writes at a depth, ``seconds`` long; leaving ends it."""

    def __init__(self, folder: Path, uri: str, seconds: float, *, size: str, depth: int = 4) -> None:
        self._within_s = seconds + FINISH_S
        self._log = folder / f"writers-{time.monotonic_ns()}"
        program = need_program("fio", "fio")
        command = [
            *(program, "--name=writers", *engine(uri), "--rw=randwrite", "--bs=4k", f"--iodepth={depth}"),
            *(f"--size={size}", "--time_based", f"--runtime={seconds}", "--norandommap", "--randrepeat=0"),
            *(f"--write_lat_log={self._log}", "--log_unix_epoch=1", "--disable_slat=1", "--disable_clat=1"),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End before the time."""
        self._process.send_signal(signal.SIGINT)

    def finish(self) -> list[Done]:
        """Wait for the end; return every request."""
        said, _ = self._process.communicate(timeout=self._within_s)
        if self._process.returncode not in (0, 128):  # fio says 128 when it was interrupted
            raise CannotMeasure(f"the writers failed: {said.strip()[-300:]}")
        path = self._log.with_name(self._log.name + "_lat.1.log")
        done = []
        for line in path.read_text().splitlines():
            at_ms, took_ns = line.split(",")[:2]
            done.append(Done(int(at_ms) / 1e3, int(took_ns) / 1e6))
        path.unlink()
        return done


def longest_ms(done: list[Done], begin_s: float, end_s: float) -> float:
    """Return the longest request that was under way at some time within the window."""
    within = (one.took_ms for one in done if begin_s <= one.at_s and one.at_s - one.took_ms / 1e3 <= end_s)
    return max(within, default=0.0)


def rate(done: list[Done], begin_s: float, end_s: float) -> float:
    """Return the requests per second that ended within the window."""
    return sum(begin_s <= one.at_s < end_s for one in done) / max(1e-9, end_s - begin_s)
