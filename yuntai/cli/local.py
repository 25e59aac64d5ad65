"""From what a host of this machine calls a socket or a process to what the machine calls it."""

from __future__ import annotations

from pathlib import Path

from yuntai.lab.layout import Home, default_home
from yuntai.lab.processes import machine_pids
from yuntai.lab.record import running


def local_path(host: str, path: str) -> str:
    """Return where this machine sees ``path`` of a lab host's ``/run``; a real host's path stays as it is."""
    run = Home(default_home()).host(host).run
    if not run.exists() or not path.startswith("/run/"):
        return path
    return str(run / Path(path).relative_to("/run"))


def local_uri(host: str, uri: str) -> str:
    """Return an NBD URI with its socket's path as this machine sees it."""
    before, mark, socket = uri.partition("?socket=")
    return f"{before}{mark}{local_path(host, socket)}"


def local_pid(host: str, pid: int) -> int:
    """Return the machine's number of a lab host's process, 0 if it is gone; a real host's number stays as it is."""
    record = running(Home(default_home()), host)
    return pid if record is None else machine_pids(record.init.pid).get(pid, 0)
