"""Control groups of a host, on a machine with the old hierarchies (v1) and on one with the unified one (v2)."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from yuntai.lab import syscalls

V1_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")
INSIDE = "sys/fs/cgroup"
REMOVE_S = 5.0
FREEZE_S = 10.0


@dataclass(frozen=True)
class Hierarchy:
    """One mounted tree of control groups."""

    path: Path
    controllers: tuple[str, ...]
    version: int


def detect(mounts: str) -> list[Hierarchy]:
    """Return the hierarchies to use, from the text of ``/proc/self/mounts``: all of v1 where there are any, else v2."""
    old: list[Hierarchy] = []
    unified: list[Hierarchy] = []
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        path, kind, options = Path(fields[1]), fields[2], fields[3].split(",")
        if kind == "cgroup":
            held = tuple(option for option in options if option in V1_CONTROLLERS)
            if held and all(held != other.controllers for other in old):
                old.append(Hierarchy(path, held, 1))
        elif kind == "cgroup2" and not unified:
            unified.append(Hierarchy(path, V2_CONTROLLERS, 2))
    return old or unified


def machine() -> list[Hierarchy]:
    """Return the hierarchies of this machine."""
    return detect(Path("/proc/self/mounts").read_text())


def make(hierarchies: list[Hierarchy], name: str) -> None:
    """Make the group ``name`` in every hierarchy, able to hold processes."""
    for tree in hierarchies:
        if tree.version == 2:
            enable_controllers(tree.path)
        group = tree.path / name
        group.mkdir(exist_ok=True)
        if "cpuset" in tree.controllers and tree.version == 1:
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((tree.path / setting).read_text())


def join(hierarchies: list[Hierarchy], name: str) -> None:
    """Move this process into the group ``name``."""
    for tree in hierarchies:
        (tree.path / name / "cgroup.procs").write_text(str(os.getpid()))


def enable_controllers(group: Path) -> None:
    """Hand the v2 group's controllers on to its children; on one that others have set already, nothing changes."""
    held = (group / "cgroup.controllers").read_text().split()
    wanted = [name for name in V2_CONTROLLERS if name in held]
    given = (group / "cgroup.subtree_control").read_text().split()
    for name in wanted:
        if name not in given:
            (group / "cgroup.subtree_control").write_text(f"+{name}")


def mount_inside(hierarchies: list[Hierarchy], root: Path) -> None:
    """Mount the hierarchies below ``root`` from inside the host's own control group namespace."""
    base = root / INSIDE
    if hierarchies and hierarchies[0].version == 2:
        syscalls.mount("cgroup2", base, "cgroup2", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
        _leave_root_group(base)
        return
    syscalls.mount("cgroup", base, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755")
    for tree in hierarchies:
        folder = base / ",".join(tree.controllers)
        folder.mkdir()
        syscalls.mount("cgroup", folder, "cgroup", options=",".join(tree.controllers))
        for controller in tree.controllers:
            if folder.name != controller:
                (base / controller).symlink_to(folder.name)


def _leave_root_group(base: Path) -> None:
    """Move into a child group, as v2 lets only a group without processes hand controllers on.

    The process that forked this one is in the root group until it has ended, hence the bounded tries.
    """
    child = base / "init"
    child.mkdir(exist_ok=True)
    (child / "cgroup.procs").write_text("0")
    deadline = time.monotonic() + REMOVE_S
    while True:
        try:
            enable_controllers(base)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def processes(hierarchies: list[Hierarchy], name: str) -> set[int]:
    """Return the processes in the group ``name`` and below, in any hierarchy, as the machine numbers them."""
    found: set[int] = set()
    for tree in hierarchies:
        for file in (tree.path / name).rglob("cgroup.procs"):
            try:
                found.update(int(word) for word in file.read_text().split())
            except FileNotFoundError:
                continue
    return found


def freeze(hierarchies: list[Hierarchy], name: str, *, frozen: bool) -> None:
    """Stop every process of the group ``name`` where it stands, or let them go on; return when it is done."""
    tree, file = _freezer(hierarchies)
    group = tree.path / name
    (group / file).write_text(("FROZEN" if frozen else "THAWED") if tree.version == 1 else str(int(frozen)))
    deadline = time.monotonic() + FREEZE_S
    while is_frozen(hierarchies, name) != frozen:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the processes of {group} are not {'frozen' if frozen else 'thawed'} in {FREEZE_S} s")
        time.sleep(0.01)


def is_frozen(hierarchies: list[Hierarchy], name: str) -> bool:
    """Return whether every process of the group ``name`` is stopped by :func:`freeze`."""
    tree, file = _freezer(hierarchies)
    group = tree.path / name
    try:
        if tree.version == 1:
            return (group / file).read_text().strip() == "FROZEN"
        return "frozen 1" in (group / "cgroup.events").read_text().splitlines()
    except FileNotFoundError:
        return False


def _freezer(hierarchies: list[Hierarchy]) -> tuple[Hierarchy, str]:
    for tree in hierarchies:
        if tree.version == 2:
            return tree, "cgroup.freeze"
        if "freezer" in tree.controllers:
            return tree, "freezer.state"
    raise OSError("no control group hierarchy here can freeze; mount the freezer controller, or cgroup v2")


def kill(hierarchies: list[Hierarchy], name: str) -> None:
    """Send every process of the group ``name`` and below the signal that ends it."""
    _kill(processes(hierarchies, name))


def remove(hierarchies: list[Hierarchy], name: str) -> None:
    """Kill what is left in the group ``name`` and remove it; nothing where it never was."""
    deadline = time.monotonic() + REMOVE_S
    for tree in hierarchies:
        group = tree.path / name
        while group.is_dir():
            try:
                _remove_tree(group)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                _kill(processes([tree], name))
                if tree.version == 2 or "freezer" in tree.controllers:
                    freeze([tree], name, frozen=False)
                time.sleep(0.02)


def _kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _remove_tree(group: Path) -> None:
    for child in group.iterdir():
        if child.is_dir():
            _remove_tree(child)
    try:
        group.rmdir()
    except FileNotFoundError:
        return
