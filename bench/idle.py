"""The ``idle`` figure: what each process of a running cloud costs when nobody asks for anything.

Memory is the proportional share (PSS), so that what processes share is counted once: proc(5), smaps_rollup.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from bench.cloud import HOST, Cloud
from bench.measure import TICKS_PER_S, CannotMeasure, Figure, Options
from yuntai.lab.processes import machine_pids
from yuntai.lab.status import report

NAME = "idle"
SECONDS_MIN = 20.0


@dataclass(slots=True)
class _Process:
    parent: int
    name: str
    cpu_s: float
    pss_bytes: int
    rss_bytes: int


@dataclass(slots=True)
class _Total:
    processes: int = 0
    cpu_s: float = 0.0
    pss_bytes: int = 0
    rss_bytes: int = 0
    pids: list[int] = field(default_factory=list)


async def run(options: Options) -> Figure:
    """Take the figure."""
    cloud = Cloud.find(options.home)
    status = report(options.home, HOST)
    if status is None or status.state != "running":
        raise CannotMeasure("the host has just stopped")
    inside = {machine: own for own, machine in machine_pids(cloud.record.init.pid).items()}
    services = {inside[process.pid]: process.name for process in status.processes if process.pid in inside}
    proc = Path(f"/proc/{cloud.record.init.pid}/root/proc")
    seconds = max(SECONDS_MIN, options.seconds)
    before = _processes(proc)
    await asyncio.sleep(seconds)
    after = _processes(proc)
    totals: dict[str, _Total] = defaultdict(_Total)
    for pid, process in after.items():
        total = totals[_owner(pid, after, services)]
        total.processes += 1
        total.cpu_s += process.cpu_s - (before[pid].cpu_s if pid in before else 0.0)
        total.pss_bytes += process.pss_bytes
        total.rss_bytes += process.rss_bytes
    figure = Figure(
        NAME,
        f"a running cloud's processes over {seconds:.0f} s; 100 % = one core",
        ("process", "number", "PSS MB", "RSS MB", "CPU %"),
    )
    for name, total in sorted(totals.items(), key=lambda item: -item[1].pss_bytes):
        figure.rows.append(_row(name, total, seconds))
    for label, guests in (("sum without guests", False), ("sum", True)):
        chosen = [total for name, total in totals.items() if guests or not name.startswith("guest")]
        everything = _Total(
            sum(total.processes for total in chosen),
            sum(total.cpu_s for total in chosen),
            sum(total.pss_bytes for total in chosen),
            sum(total.rss_bytes for total in chosen),
        )
        figure.rows.append(_row(label, everything, seconds))
    wrong = [f"{process.name}: {process.wrong}" for process in status.processes if process.wrong]
    figure.notes += [f"not healthy, so not a fair figure: {text}" for text in wrong]
    figure.raw = {"seconds": seconds, "healthy": status.healthy}
    return figure


def _row(name: str, total: _Total, seconds: float) -> tuple[object, ...]:
    return name, total.processes, total.pss_bytes / 1e6, total.rss_bytes / 1e6, total.cpu_s / seconds * 100


def _owner(pid: int, processes: dict[int, _Process], services: dict[int, str]) -> str:
    """Return the service whose process this is or descends from; guests and the rest have lines of their own."""
    seen = pid
    while seen in processes:
        if seen in services:
            return services[seen]
        if processes[seen].name.startswith("qemu-system"):
            return "guest (QEMU)"
        seen = processes[seen].parent
    return "supervisor and others"


def _processes(proc: Path) -> dict[int, _Process]:
    found: dict[int, _Process] = {}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            memory = (folder / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile, or is a kernel thread
        fields = rest.split()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in memory.splitlines()[1:]}
        cpu_s = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        found[int(folder.name)] = _Process(int(fields[1]), name, cpu_s, sizes.get("Pss", 0), sizes.get("Rss", 0))
    return found
