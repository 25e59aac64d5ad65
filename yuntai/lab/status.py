"""How the processes of a lab host are: what the supervisor says, what /proc says, and whether each answers."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from yuntai import __version__
from yuntai.lab import fabric, services, syscalls
from yuntai.lab.layout import HostFolders
from yuntai.lab.processes import machine_pids
from yuntai.lab.record import Record, read_manifest, running
from yuntai.lab.services import Service
from yuntai.lab.spec import HostSpec, load_host
from yuntai.lab.supervisor import Supervisor, SupervisorError
from yuntai.lab.wait import Stage, probe, read_stage

UNKNOWN = "?"
SUPERVISOR_S = 5.0


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process; ``state`` is running, starting, stopped or failing, ``wrong`` is empty when all is well.

    ``pid`` is the machine's number of it, which ``kill`` takes; 0 where it does not run.
    """

    name: str
    state: str
    pid: int
    uptime_s: float
    version: str
    rss_bytes: int
    restarts: int
    wrong: str


class HostStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One host with its processes; ``wrong`` is about the host itself."""

    name: str
    state: str
    address: str
    pid: int
    uptime_s: float
    image: str
    wrong: str
    processes: list[ProcessStatus]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong with the host and its processes."""
        return self.state == "running" and not self.wrong and not any(process.wrong for process in self.processes)


def report(root: Path, name: str) -> HostStatus | None:
    """Return how the host ``name`` with data in ``root`` is, or None where there never was one."""
    spec = load_host(root, name)
    if spec is None:
        return None
    home = spec.cluster.home(root)
    record, manifest = running(home, name), read_manifest(home)
    packages = manifest.packages if manifest is not None else {}
    processes: list[ProcessStatus] = []
    if record is None:
        state, wrong = "stopped", "it does not run; `yuntai lab up` starts it"
    else:
        state, wrong = "running", "" if record.keeper.alive() else "its keeper was killed; `make down up` restores it"
        if manifest is not None and record.image != manifest.id:
            wrong = "it runs on an older image; `make up` restarts it on the present one"
        try:
            processes = _processes(spec, home.host(name), record, packages)
        except SupervisorError as error:
            wrong = str(error)
    return HostStatus(
        name=name,
        state=state,
        address=spec.address,
        pid=record.init.pid if record else 0,
        uptime_s=round(time.time() - record.started_unix_s, 1) if record else 0.0,
        image=record.image if record else "",
        wrong=wrong,
        processes=processes,
    )


def wait_healthy(root: Path, name: str, timeout_s: float) -> HostStatus | None:
    """Return the host's status as soon as it is healthy, or the last one after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        status = report(root, name)
        if (status is not None and status.healthy) or time.monotonic() > deadline:
            return status
        time.sleep(0.2)


def _processes(spec: HostSpec, folders: HostFolders, record: Record, packages: dict[str, str]) -> list[ProcessStatus]:
    known = {entry["name"]: entry for entry in Supervisor(folders.supervisor_socket, SUPERVISOR_S).processes()}
    chosen = services.services(spec)
    answers = _probe_inside(spec, chosen, Path(f"/proc/{record.init.pid}/root"))
    inside = Path(f"/proc/{record.init.pid}/root/proc")
    numbers = machine_pids(record.init.pid)
    made = []
    for service in chosen:
        entry = known.get(service.name)
        stage = read_stage(folders.run / "yuntai/stage" / f"{service.name}.json")
        version = __version__ if service.package == "yuntai" else packages.get(service.package, UNKNOWN)
        made.append(_process(service, entry, stage, version, answers.get(service.name, ""), inside, numbers))
    return made


def _process(
    service: Service,
    entry: dict[str, Any] | None,
    stage: Stage,
    version: str,
    answer: str,
    proc: Path,
    numbers: dict[int, int],
) -> ProcessStatus:
    pid = int(entry["pid"]) if entry else 0
    if entry is None:
        state, wrong = "stopped", "the supervisor does not know it; restart the host"
    elif entry["statename"] != "RUNNING":
        state, wrong = "stopped", f"{entry['statename'].lower()}: {entry['spawnerr'] or entry['description']}"
    elif stage.waits_for:
        state = "failing" if stage.streak else "starting"
        wrong = f"waits for {stage.waits_for}" + (f"; before: {stage.error}" if stage.error else "")
    elif answer:
        state, wrong = "starting", f"does not answer at {service.answers}: {answer}"
    else:
        state, wrong = "running", ""
    if wrong:
        wrong += f"; see its log: {service.name}.log"
    return ProcessStatus(
        name=service.name,
        state=state,
        pid=numbers.get(pid, 0),
        uptime_s=float(max(0, entry["now"] - entry["start"])) if entry and pid else 0.0,
        version=version,
        rss_bytes=rss_bytes(pid, proc) if pid else 0,
        restarts=max(0, stage.starts - 1),
        wrong=wrong,
    )


def rss_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the resident memory of the process ``pid``, 0 where it has just ended."""
    try:
        text = (proc / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _probe_inside(spec: HostSpec, chosen: list[Service], root: Path) -> dict[str, str]:
    """Return what is wrong with each service's answer, asked in the host's network by a thread that moves into it."""
    wrong: dict[str, str] = {}

    def ask() -> None:
        syscalls.setns(fabric.NETNS_FOLDER / spec.netns, syscalls.CLONE_NEWNET)
        for service in chosen:
            kind, _, where = service.answers.partition(":")
            if not kind:
                continue
            need = service.answers if kind in ("tcp", "listen") else f"{kind}:{root}{where}"
            wrong[service.name] = probe(need)

    thread = threading.Thread(target=ask, name="probe", daemon=True)
    thread.start()
    thread.join()
    return wrong
