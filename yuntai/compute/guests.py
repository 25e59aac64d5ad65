"""The processes of this host's guests, by signals alone: no daemon is asked, so nothing that hangs can be in the way.

libvirt keeps a file with the process's number for each running guest. A number may be another process's by now, so the
guest's name is looked for in its command line before anything is done to it.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from yuntai import log

if TYPE_CHECKING:
    from collections.abc import Iterable

PIDS = Path("/run/libvirt/qemu")
_NAME = re.compile(r"(i-[0-9a-z]+)\.pid")
_LOG = log.get("compute.guard")


class Guests(Protocol):
    """What the guard does to guests; each call is done within milliseconds and raises nothing."""

    def running(self) -> dict[str, bool]:
        """Return the guests that have a process, by instance id: whether it is stopped."""

    def pause(self, guests: Iterable[str]) -> None:
        """Stop their processes where they stand."""

    def resume(self, guests: Iterable[str]) -> None:
        """Let stopped processes go on."""

    def kill(self, guests: Iterable[str]) -> None:
        """End their processes."""


class GuestProcesses:
    """See :class:`Guests`."""

    def __init__(self, pids: Path = PIDS, proc: Path = Path("/proc")) -> None:
        self._pids = pids
        self._proc = proc

    def running(self) -> dict[str, bool]:
        """Look into /proc."""
        found = {}
        for guest, pid in self._processes().items():
            try:
                stat = (self._proc / str(pid) / "stat").read_text()
            except OSError:
                continue
            state = stat.rpartition(")")[2].split()[0]
            if state not in "ZX":
                found[guest] = state in "Tt"
        return found

    def pause(self, guests: Iterable[str]) -> None:
        """Send SIGSTOP."""
        self._signal(guests, signal.SIGSTOP)

    def resume(self, guests: Iterable[str]) -> None:
        """Send SIGCONT."""
        self._signal(guests, signal.SIGCONT)

    def kill(self, guests: Iterable[str]) -> None:
        """Send SIGKILL, which a stopped process hears, too."""
        self._signal(guests, signal.SIGKILL)

    def _processes(self) -> dict[str, int]:
        found = {}
        try:
            files = list(self._pids.iterdir())
        except OSError:
            return {}  # no guest was ever started here
        for file in files:
            name = _NAME.fullmatch(file.name)
            if name is None:
                continue
            try:
                pid = int(file.read_text())
                command = (self._proc / str(pid) / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue  # it has just ended
            if f"guest={name[1]}".encode() in command:
                found[name[1]] = pid
        return found

    def _signal(self, guests: Iterable[str], number: signal.Signals) -> None:
        processes = self._processes()
        for guest in guests:
            pid = processes.get(guest)
            if pid is None:
                continue
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
            except OSError as error:
                _LOG.error("signal not sent", instance=guest, pid=pid, signal=number.name, error=str(error))
