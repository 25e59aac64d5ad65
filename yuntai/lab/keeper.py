"""The one process on the machine behind each host: it starts the host, reaps it, and leaves nothing when it ends.

``python -m yuntai.lab.keeper HOME HOST`` is started by ``yuntai.lab.host``, detached. A host whose keeper is killed
runs on; ``stop`` then does the cleaning. A host that ends by itself is cleaned here and stays down, as a host whose
power failed does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from yuntai.lab import cgroups, fabric, rootfs, syscalls
from yuntai.lab.hostfiles import files_digest
from yuntai.lab.layout import CLAIMS, CLUSTER_VARIABLE, Home
from yuntai.lab.processes import identify
from yuntai.lab.record import Record, clean_up, owner, read_host_uuid, read_manifest, write_atomically
from yuntai.lab.spec import CONTROL, HostSpec, load_host

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
TICK_S = 1.0
FORWARD_PAUSE_S = 1.0
LOCK_S = 60.0


class KeeperError(RuntimeError):
    """The host cannot be started; the text says why and what to do."""


@contextlib.contextmanager
def cluster_lock(home: Home) -> Iterator[None]:
    """Hold the lock under which namespaces and cables of the cluster are made and removed."""
    home.root.mkdir(parents=True, exist_ok=True)
    with home.lock.open("w") as file:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KeeperError(
                        f"another command has held {home.lock} for {LOCK_S:.0f} s; find it with `fuser {home.lock}`"
                    ) from None
                time.sleep(0.05)
        yield


def claim_name(spec: HostSpec, home: Home) -> None:
    """Note which home the cluster's namespaces belong to; refuse a name that a cluster of another home has."""
    other = owner(spec)
    if other not in (None, home.root):
        raise KeeperError(
            f"a cluster named {spec.cluster.name!r} already runs from {other}; "
            f"stop that one, or choose another name: {CLUSTER_VARIABLE}=other"
        )
    CLAIMS.mkdir(mode=0o755, exist_ok=True)
    write_atomically(CLAIMS / spec.cluster.name, str(home.root).encode())


def start_host(spec: HostSpec, home: Home) -> Record:
    """Make the host's cables, groups and namespaces and start its PID 1; the caller holds the cluster's lock."""
    folders = home.host(spec.name)
    manifest = read_manifest(home)
    if manifest is None:
        raise KeeperError(f"there is no host image in {home.image}; run `make up`")
    clean_up(spec, home)
    claim_name(spec, home)
    fabric.ensure(spec.cluster)
    fabric.attach(spec)
    trees = cgroups.machine()
    cgroups.make(trees, spec.netns)
    host_uuid = read_host_uuid(folders.root)
    init_pid = _fork_into_namespaces(spec, home, trees, host_uuid)
    init, keeper = identify(init_pid), identify(os.getpid())
    if init is None or keeper is None:
        raise KeeperError(f"the host ended at once; see {folders.console}")
    files = files_digest(spec, host_uuid)
    record = Record(init=init, keeper=keeper, image=manifest.id, files=files, started_unix_s=time.time())
    write_atomically(folders.record, msgspec.json.encode(record))
    return record


def _fork_into_namespaces(spec: HostSpec, home: Home, trees: list[cgroups.Hierarchy], host_uuid: str) -> int:
    """Return the PID 1 of the new host, as this process numbers it.

    The process in between must exist, as unshare(2) gives a new PID namespace only to children; it ends at once, and
    PID 1 becomes a child of this process, which is a subreaper.
    """
    reader, writer = os.pipe()
    middle = os.fork()
    if middle:
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answer = pipe.read()
        os.waitpid(middle, 0)
        if not answer:
            raise KeeperError(f"the namespaces of {spec.name} could not be made; see {home.host(spec.name).console}")
        return int(answer)
    try:
        os.close(reader)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        cgroups.join(trees, spec.netns)
        syscalls.setns(fabric.NETNS_FOLDER / spec.netns, syscalls.CLONE_NEWNET)
        syscalls.unshare(rootfs.NAMESPACES)
        child = os.fork()
        if child:
            os.write(writer, str(child).encode())
            os._exit(0)
        os.close(writer)
        os.setsid()
        rootfs.become_host(spec, home, trees, host_uuid)
    except BaseException:  # noqa: BLE001 - a forked child must end here, whatever happened, and not run its parent's code
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


class Forward:
    """The process that leads the machine's loopback to the living APIs, started again when it ends.

    Every member's keeper can have it; the one that holds the lock does, so another takes over when that one is gone.
    """

    def __init__(self, spec: HostSpec, home: Home) -> None:
        self._spec, self._home = spec, home
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = -FORWARD_PAUSE_S
        self._wanted = CONTROL in spec.roles and spec.cluster.api_port != 0

    def tick(self) -> None:
        """Start it where it should run and does not."""
        ended = self._process is None or self._process.poll() is not None
        if not self._wanted or not ended or time.monotonic() - self._started_s < FORWARD_PAUSE_S:
            return
        if self._lock is None:
            self._lock = _try_lock(self._home.forward_lock)
        if self._lock is not None:
            self._started_s = time.monotonic()
            cluster, port = self._spec.cluster, self._spec.config().api_port
            targets = [f"{address}:{port}" for address in cluster.member_addresses()]
            netns = str(fabric.NETNS_FOLDER / cluster.fabric)
            words = ("--netns", netns, "--health", "/healthz", str(cluster.api_port), *targets)
            self._process = subprocess.Popen((sys.executable, "-m", "yuntai.lab.forward", *words))

    def stop(self) -> None:
        """End it and reap it, and let another keeper have it."""
        self._wanted = False
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
        if self._lock is not None:
            self._lock.close()


def _try_lock(path: Path) -> IO[str] | None:
    """Return the file, locked until it is closed, or None while another process has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def keep(spec: HostSpec, home: Home) -> None:
    """Start the host and stay until it has ended and is cleaned up; TERM is passed on to the host."""
    syscalls.become_subreaper()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    forward = Forward(spec, home)
    try:
        with cluster_lock(home):
            record = start_host(spec, home)
        while _reap_until(record.init.pid):
            forward.tick()
            received = signal.sigtimedwait(_SIGNALS, TICK_S)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                record.init.signal(signal.SIGTERM)
    finally:
        forward.stop()
        with cluster_lock(home):
            clean_up(spec, home)


def _reap_until(init_pid: int) -> bool:
    """Reap every child that ended, orphans too; return False once PID 1 is among them, True while it lives."""
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return True
        os.waitpid(ended.si_pid, 0)
        if ended.si_pid == init_pid:
            return False


def main(arguments: list[str]) -> None:
    """Keep the host that ``arguments`` name until it ends."""
    root, name = Path(arguments[0]), arguments[1]
    spec = load_host(root, name)
    if spec is None:
        raise SystemExit(f"no host {name!r} was ever defined in {root}; use `python -m yuntai.lab.host start`")
    try:
        keep(spec, spec.cluster.home(root))
    except (KeeperError, fabric.FabricError, OSError) as error:
        raise SystemExit(f"host {name}: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
