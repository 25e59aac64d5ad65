"""The life of a lab host as its user sees it: start, stop, and what must be there before and after."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from yuntai.lab import cgroups
from yuntai.lab.enter import run_inside
from yuntai.lab.hostfiles import files_digest
from yuntai.lab.keeper import KeeperError, cluster_lock
from yuntai.lab.layout import REPOSITORY, Home
from yuntai.lab.processes import POLL_S, processes_with
from yuntai.lab.record import Record, clean_up, read_host_uuid, read_manifest, read_record, running, write_atomically
from yuntai.lab.secrets import make_secrets
from yuntai.lab.services import services
from yuntai.lab.spec import HostSpec, check, load_host
from yuntai.lab.supervisor import Supervisor, SupervisorError
from yuntai.lab.versions import code_of_services

START_S = 60.0
STOP_S = 90.0
GUEST_GRACE_S = 10.0
CONSOLE_LINES = 15


def start(spec: HostSpec, root: Path) -> Record:
    """Start the host ``spec`` with its data in ``root``; one that runs as asked is only brought to the present code.

    Returns once its supervisor answers; how far its processes are, :func:`yuntai.lab.status.report` tells.
    """
    home = check(spec).cluster.home(root)
    folders = home.host(spec.name)
    record, manifest = running(home, spec.name), read_manifest(home)
    if manifest is None:
        raise KeeperError(f"there is no host image in {home.image}; run `make up`")
    if record is not None:
        files = files_digest(spec, read_host_uuid(folders.root))
        if (record.image, record.files) == (manifest.id, files) and load_host(root, spec.name) == spec:
            _bring_up_to_date(spec, home)
            return record
        stop(root, spec.name)
    folders.make()
    _discard_stale_upper(home, spec.name, manifest.id)
    with cluster_lock(home):
        make_secrets(spec, home)
        write_atomically(home.cluster, msgspec.json.encode(spec.cluster))
    write_atomically(folders.spec, msgspec.json.encode(spec))
    write_atomically(folders.code, msgspec.json.encode(code_of_services(spec, home)))
    with folders.console.open("wb") as console:
        keeper = subprocess.Popen(
            (sys.executable, "-m", "yuntai.lab.keeper", str(root), spec.name),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            cwd=REPOSITORY,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_S
    while True:
        if keeper.poll() is not None:
            raise KeeperError(f"the host {spec.name} ended while it started; it said:\n{console_tail(home, spec.name)}")
        record = running(home, spec.name)
        if record is not None and Supervisor(folders.supervisor_socket).answers():
            return record
        if time.monotonic() > deadline:
            raise KeeperError(f"the host {spec.name} is not up after {START_S:.0f} s; see {folders.console}")
        time.sleep(POLL_S)


def _bring_up_to_date(spec: HostSpec, home: Home) -> None:
    """Restart those processes of a running host whose code has changed, one after the other, guests left running."""
    folders = home.host(spec.name)
    now = code_of_services(spec, home)
    then = msgspec.json.decode(folders.code.read_bytes(), type=dict[str, str]) if folders.code.exists() else {}
    supervisor = Supervisor(folders.supervisor_socket)
    for name, code in now.items():
        if then.get(name) != code:
            print(f"{spec.name}: restarting {name}, whose code has changed")
            supervisor.restart(name)
            write_atomically(folders.code, msgspec.json.encode({**then, name: code}))
            then[name] = code


def console_tail(home: Home, name: str) -> str:
    """Return the last lines that the host's keeper and first process printed."""
    lines = home.host(name).console.read_text(errors="replace").splitlines()
    return "\n".join(lines[-CONSOLE_LINES:])


def _discard_stale_upper(home: Home, name: str, image: str) -> None:
    """Forget what the host changed on top of another image: an overlay must not outlive the layer below it."""
    folders = home.host(name)
    noted = folders.root / "image.id"
    if not noted.exists() or noted.read_text() != image:
        for folder in (folders.upper, folders.work):
            shutil.rmtree(folder, ignore_errors=False)
            folder.mkdir()
        write_atomically(noted, image.encode())


def stop(root: Path, name: str, grace_s: float = GUEST_GRACE_S) -> bool:
    """Stop the host ``name`` and leave nothing of it but its data; return whether it ran."""
    spec = load_host(root, name)
    if spec is None:
        return False
    home = spec.cluster.home(root)
    record = read_record(home, name)
    ran = record is not None and record.init.alive()
    if record is None:
        end_keepers(root, name)
    elif cgroups.is_frozen(cgroups.machine(), spec.netns):
        print(f"{name}: it is frozen, so it is stopped as by a power cut", file=sys.stderr)
        return kill(root, name)
    elif ran:
        stop_guests(home, name, record, grace_s)
        _stop_programs(home, spec)
        record.init.signal(signal.SIGTERM)
        if not record.init.wait(STOP_S):
            record.init.signal(signal.SIGKILL)
            record.init.wait(STOP_S)
    _finish(spec, home, record)
    return ran


def kill(root: Path, name: str) -> bool:
    """End the host ``name`` as a power cut does, frozen or not; return whether it ran."""
    spec = load_host(root, name)
    if spec is None:
        return False
    home = spec.cluster.home(root)
    record = running(home, name)
    if record is not None:
        record.init.signal(signal.SIGKILL)
        trees = cgroups.machine()
        if cgroups.is_frozen(trees, spec.netns):
            # A frozen process takes no signal, with the old hierarchies not even this one. Every process has it waiting
            # before any goes on, so none does anything more.
            cgroups.kill(trees, spec.netns)
            cgroups.freeze(trees, spec.netns, frozen=False)
        record.init.wait(STOP_S)
    _finish(spec, home, record)
    return record is not None


def _finish(spec: HostSpec, home: Home, record: Record | None) -> None:
    """Wait for the keeper's own cleaning and do what it left; a keeper that was killed cleans nothing."""
    if record is not None and not record.keeper.wait(STOP_S):
        record.keeper.signal(signal.SIGKILL)
        record.keeper.wait(STOP_S)
    with cluster_lock(home):
        clean_up(spec, home)


def end_keepers(root: Path, name: str) -> None:
    """End keepers that have not come as far as a record: those of a start that was itself ended."""
    for keeper in processes_with("yuntai.lab.keeper", str(root), name):
        keeper.signal(signal.SIGTERM)
        if not keeper.wait(STOP_S):
            keeper.signal(signal.SIGKILL)
            keeper.wait(STOP_S)


def stop_guests(home: Home, name: str, record: Record, grace_s: float) -> None:
    """Ask the guests to shut down, and give them ``grace_s``; the agent is stopped first, as it would start them again.

    What still runs afterwards ends with the host, as at a power cut; a host too broken to be asked is stopped too.
    """
    supervisor = Supervisor(home.host(name).supervisor_socket)
    try:
        supervisor.stop_if_present("agent")
        guests = run_inside(record, "virsh", "list", "--name", timeout_s=5).split()
        for guest in guests:
            run_inside(record, "virsh", "shutdown", guest, timeout_s=5)
        deadline = time.monotonic() + grace_s
        while guests and time.monotonic() < deadline:
            time.sleep(0.2)
            guests = run_inside(record, "virsh", "list", "--name", timeout_s=5).split()
    except (SupervisorError, subprocess.SubprocessError) as error:
        print(f"{name}: the guests were not asked to shut down: {error}", file=sys.stderr)


def _stop_programs(home: Home, spec: HostSpec) -> None:
    """Stop the host's programs in order and quickly; where that fails, the end of PID 1 does it less quickly."""
    try:
        names = [service.name for service in reversed(services(spec))]
        Supervisor(home.host(spec.name).supervisor_socket).stop_in_order(names, STOP_S)
    except SupervisorError as error:
        print(f"{spec.name}: its programs are stopped together with it: {error}", file=sys.stderr)


def stop_all(root: Path, grace_s: float = GUEST_GRACE_S) -> list[str]:
    """Stop every host whose data is in ``root``, the first one last; return the names of those that ran."""
    ordered = sorted(host_specs(root), key=lambda host: -host.number)
    return [host.name for host in ordered if stop(root, host.name, grace_s)]


def host_specs(root: Path) -> list[HostSpec]:
    """Return all hosts that were ever started from ``root``, by number."""
    found = (load_host(root, name) for name in host_names(root))
    return sorted((host for host in found if host is not None), key=lambda host: host.number)


def host_names(root: Path) -> list[str]:
    """Return the names of all hosts that were ever started from ``root``."""
    folder = Home(root).hosts
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
