"""Processes named by more than a number: a number is used again, a number with its start time is not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec

POLL_S = 0.02


class ProcessId(msgspec.Struct, frozen=True):
    """A process for good: its number and when it started, in clock ticks since boot."""

    pid: int
    started_ticks: int

    def alive(self) -> bool:
        """Return whether it still runs; a zombie does not."""
        fields = stat_fields(self.pid)
        return fields is not None and fields[0] != "Z" and int(fields[19]) == self.started_ticks

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)

    def wait(self, timeout_s: float) -> bool:
        """Return whether it ended within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True


def identify(pid: int) -> ProcessId | None:
    """Return the process that has the number ``pid`` now, or None."""
    fields = stat_fields(pid)
    return ProcessId(pid, int(fields[19])) if fields is not None else None


def processes_with(*words: str) -> list[ProcessId]:
    """Return the processes whose command line has all ``words`` as arguments."""
    wanted = {word.encode() for word in words}
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                given = (folder / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            known = identify(int(folder.name))
            if wanted.issubset(given) and known is not None:
                found.append(known)
    return found


def stat_fields(pid: int, proc: Path = Path("/proc")) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` from the state on (index 0), or None where there is no such process."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def machine_pids(init_pid: int) -> dict[int, int]:
    """Return the machine's number of each process of a host, by the host's own number for it.

    A host numbers its processes by itself, from 1 on; those numbers mean other processes on the machine. ``init_pid``
    is the machine's number of the host's first process.
    """
    numbers: dict[int, int] = {}
    namespace = _pid_namespace(init_pid)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or namespace is None or _pid_namespace(int(folder.name)) != namespace:
            continue
        try:
            status = (folder / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        nested = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
        if len(nested) > 1:
            numbers[int(nested[-1])] = int(folder.name)
    return numbers


def _pid_namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
