"""What must hold before set-up changes anything. Each check says what is wrong and the way out."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from yuntai.lab.layout import CLAIMS, DEFAULT_CLUSTER, Home, wanted_cluster
from yuntai.lab.setup import image, sources

COLD_BYTES = 8 * 1024**3
WARM_BYTES = 1024**3
MEMORY_BYTES = 3 * 1024**3
SUPPORTED = {"12": "bookworm", "13": "trixie"}
NET_S = 60
PROBE_S = 30
_BAD_PATH = frozenset(":,\\ \t\n\"'")
# Tried in a mount namespace of its own: whether an overlay can be made on the data folder's file system.
_OVERLAY_PROBE = """\
cd "$1" && mkdir low up wk m && echo ok > low/file &&
mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=wk m && echo ok > m/other && [ "$(cat m/file)" = ok ]
"""


@dataclass(frozen=True)
class Problem:
    """Something that stands in the way, and what to do about it."""

    text: str
    way_out: str


@dataclass(frozen=True)
class Situation:
    """What set-up is about to do."""

    home: Home
    api_port: int
    cold: bool
    needs_network: bool
    running: bool


def os_release(text: str) -> dict[str, str]:
    """Parse ``/etc/os-release``."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, _, value in pairs}


def codename() -> str:
    """Return this machine's Debian codename, or "" where the system is not one that the lab runs on."""
    path = Path("/etc/os-release")
    release = os_release(path.read_text()) if path.exists() else {}
    return SUPPORTED.get(release.get("VERSION_ID", ""), "") if release.get("ID") == "debian" else ""


def check(situation: Situation) -> list[Problem]:
    """Return everything that stands in the way; an empty list says that set-up can begin."""
    first: list[Callable[[Situation], Problem | None]] = [_root, _system, _path]
    found = [problem for probe in first if (problem := probe(situation)) is not None]
    if found:
        return found
    rest: list[Callable[[Situation], Problem | None]] = [
        _disk,
        _memory,
        _overlay,
        _cgroups,
        _tun,
        _name,
        _port,
        _mirror,
    ]
    return [problem for probe in rest if (problem := probe(situation)) is not None]


def _root(_: Situation) -> Problem | None:
    if os.geteuid() == 0:
        return None
    return Problem("this needs root: it makes namespaces, mounts and network devices", "run: sudo make up")


def _system(_: Situation) -> Problem | None:
    if not codename():
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
        return Problem(f"this system is {name}, but the lab runs on Debian 12 and 13", "use such a machine or VM")
    if platform.machine() != "x86_64":
        return Problem(
            f"this machine is {platform.machine()}, but the lab's images are for x86_64", "use such a machine"
        )
    return None


def _path(situation: Situation) -> Problem | None:
    for path in (situation.home.root, situation.home.shared):
        wrong = sorted(_BAD_PATH & set(str(path)))
        if wrong:
            return Problem(f"the data folder {str(path)!r} has {wrong[0]!r} in it, which mount takes amiss", _MOVE)
    return None


_MOVE = "choose another data folder: make up YUNTAI_HOME=/some/folder"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _disk(situation: Situation) -> Problem | None:
    wanted = COLD_BYTES if situation.cold else WARM_BYTES
    free = shutil.disk_usage(_existing(situation.home.root)).free
    if free >= wanted:
        return None
    return Problem(
        f"{situation.home.root} has {free / 1024**3:.1f} GiB free, but {wanted / 1024**3:.0f} GiB are needed",
        f"free some space, or {_MOVE}",
    )


def _memory(situation: Situation) -> Problem | None:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    if available >= MEMORY_BYTES or situation.running:
        return None
    return Problem(
        f"{available / 1024**3:.1f} GiB of memory are available, but {MEMORY_BYTES / 1024**3:.0f} GiB are needed",
        "end other programs, or give the machine more memory",
    )


def _overlay(situation: Situation) -> Problem | None:
    with tempfile.TemporaryDirectory(prefix=".yuntai-probe-", dir=_existing(situation.home.root)) as folder:
        command = (
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "/bin/sh",
            "-eu",
            "-c",
            _OVERLAY_PROBE,
            "sh",
            folder,
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, check=False)
    if done.returncode == 0:
        return None
    return Problem(
        f"an overlay cannot be mounted on {situation.home.root}: {done.stderr.strip()}",
        f"inside a container, give it --privileged; else put the data on ext4 or xfs: {_MOVE}",
    )


def _cgroups(_: Situation) -> Problem | None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    trees = [fields for fields in mounts if fields[2] in ("cgroup", "cgroup2")]
    if any("rw" in fields[3].split(",") and os.access(fields[1], os.W_OK) for fields in trees):
        return None
    return Problem(
        "no control group tree is mounted for writing below /sys/fs/cgroup",
        "run: mount -t cgroup2 cgroup2 /sys/fs/cgroup (inside a container, give it --privileged)",
    )


def _tun(_: Situation) -> Problem | None:
    device = Path("/dev/net/tun")
    try:
        device.open("rb").close()
    except OSError as error:
        return Problem(
            f"{device} cannot be opened: {error.strerror}", "run: modprobe tun (as root, outside containers)"
        )
    return None


def _name(situation: Situation) -> Problem | None:
    if situation.api_port == 0:  # the tests give their clouds names of their own
        return None
    name = wanted_cluster() or DEFAULT_CLUSTER
    claim = CLAIMS / name
    if not claim.exists() or claim.read_text() == str(situation.home.root):
        return None
    return Problem(
        f"a cloud named {name!r} already runs on this machine, from {claim.read_text()}",
        "stop that one, or give this one another name and port: make up YUNTAI_CLUSTER=second API_PORT=18080",
    )


def _port(situation: Situation) -> Problem | None:
    if situation.running or situation.api_port == 0:
        return None
    try:
        socket.create_server(("127.0.0.1", situation.api_port)).close()
    except OSError as error:
        return Problem(
            f"127.0.0.1:{situation.api_port}, where the API is to be, cannot be had: {error.strerror}",
            "end the program that has it (`ss -ltnp` names it), or choose another: make up API_PORT=18080",
        )
    return None


def _mirror(situation: Situation) -> Problem | None:
    if not situation.needs_network:
        return None
    try:
        mirror = sources.choose_mirror(sources.read_machine(), codename())
    except sources.SourcesError as error:
        return Problem(str(error), "then run: apt-get update")
    address = f"{mirror.archive.uri.rstrip('/')}/dists/{image.SUITE}/InRelease"
    with tempfile.TemporaryDirectory(prefix="yuntai-") as folder:
        # apt's own helper: it takes the same proxies, certificates and logins as apt.
        command = ("/usr/lib/apt/apt-helper", "download-file", address, f"{folder}/InRelease")
        done = subprocess.run(command, capture_output=True, text=True, timeout=NET_S, check=False)
    if done.returncode == 0:
        return None
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return Problem(
        f"the package mirror does not give {address}: {said[-1] if said else 'no reason given'}",
        "check the network with `apt-get update`; set a proxy in /etc/apt/apt.conf.d if there is one",
    )
