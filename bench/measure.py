"""What every figure needs: percentiles, who burnt the processor, the machine's facts, a table, a JSON file."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_IDLE, _IOWAIT, _KNOWN_FIELDS = 3, 4, 8


class CannotMeasure(Exception):  # noqa: N818 — not a failure of the program
    """A figure cannot be taken here; the text says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    seconds: float
    repeat: int
    home: Path
    uri: str = ""
    case: str = ""


@dataclass(slots=True)
class Figure:
    """A finished measurement: a table for people, and all the raw values for later."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def note(self, what: str, value: float, unit: str) -> None:
        """Add a row of a table of single figures, and keep its value."""
        self.rows.append((what, value, unit))
        self.raw[what] = value

    def text(self) -> str:
        """Return the table and its notes."""
        cells = [[str(column) for column in self.columns], *([_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width)
                      for place, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]  # fmt: skip
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([f"{self.name}: {self.title}", *lines, *(f"  {note}" for note in self.notes)])

    def save(self, folder: Path, machine: dict[str, Any]) -> Path:
        """Write everything as JSON and return where."""
        folder.mkdir(parents=True, exist_ok=True)
        moment = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        path = folder / f"{self.name}-{moment}.json"
        content = {
            "name": self.name, "title": self.title, "time_utc": moment, "machine": machine,
            "columns": list(self.columns), "rows": [list(row) for row in self.rows], "notes": self.notes,
            "raw": self.raw,
        }  # fmt: skip
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path


class Foreign:
    """How much processor time others burnt while we measured: a figure taken in company is worth less.

    Of the whole machine's busy time it takes away that of the processes that belong to the measurement.
    """

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._pids = [*pids, os.getpid()]
        self._begun_s = time.monotonic()
        self._busy_s, self._own_s = busy_s(), self._own()

    def _own(self) -> float:
        children = os.times()
        return sum(cpu_s(pid) for pid in self._pids) + children.children_user + children.children_system

    def cores(self) -> float:
        """Return the processors that others kept busy on average since this was made."""
        elapsed_s = time.monotonic() - self._begun_s
        return max(0.0, (busy_s() - self._busy_s - (self._own() - self._own_s)) / elapsed_s)


def busy_s() -> float:
    """Return the time that all processors together were not idle since boot: proc(5), /proc/stat."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:_KNOWN_FIELDS]) - fields[_IDLE] - fields[_IOWAIT]) / TICKS_PER_S


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, 0 when it is gone: proc(5), /proc/pid/stat."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of the values do not exceed."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine to judge a figure."""
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    ).stdout.strip()
    return {
        "cpus": os.cpu_count(),
        "cpu_model": model[0].partition(":")[2].strip() if model else "",
        "memory_mib": int(memory.split()[1]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1min": os.getloadavg()[0],
        "commit": commit,
    }


def need_program(name: str, package: str) -> str:
    """Return the path of a program, or raise with the package that has it."""
    found = shutil.which(name)
    if found is None:
        raise CannotMeasure(f"{name} is not installed; run: apt-get install --no-install-recommends {package}")
    return found


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)
