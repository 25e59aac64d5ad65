"""What can befall a lab host, done to it from outside: power cut, freeze, cables pulled, reset."""

from __future__ import annotations

from pathlib import Path

from yuntai.lab import cgroups, fabric, lifecycle, storagepath
from yuntai.lab.record import Record, running
from yuntai.lab.spec import HostSpec, load_host


class FaultError(RuntimeError):
    """It cannot be done to the host as it is now; the text says why and what to do."""


def find(root: Path, name: str) -> HostSpec:
    """Return the host ``name`` of the cloud in ``root``."""
    spec = load_host(root, name)
    if spec is None:
        names = ", ".join(lifecycle.host_names(root)) or "no host"
        raise FaultError(f"there is no host {name!r} in {root}, but {names}; `yuntai lab up --hosts N` makes hosts")
    return spec


def find_running(root: Path, name: str) -> tuple[HostSpec, Record]:
    """Return the host and its record; raise where it does not run."""
    spec = find(root, name)
    record = running(spec.cluster.home(root), name)
    if record is None:
        raise FaultError(f"host {name} does not run; start it with `yuntai lab host restart {name}`")
    return spec, record


def kill(root: Path, name: str) -> None:
    """Cut the host's power: every process of it ends at once, its guests too."""
    find_running(root, name)
    lifecycle.kill(root, name)


def freeze(root: Path, name: str) -> None:
    """Stop every process of the host, guests too, where it stands; its kernel still answers pings and connects."""
    spec, _ = find_running(root, name)
    cgroups.freeze(cgroups.machine(), spec.netns, frozen=True)


def thaw(root: Path, name: str) -> None:
    """Let a frozen host go on as if nothing had been."""
    spec, _ = find_running(root, name)
    cgroups.freeze(cgroups.machine(), spec.netns, frozen=False)


def isolate(root: Path, name: str) -> None:
    """Pull the host's cables to the other hosts; everything in it runs on."""
    spec, _ = find_running(root, name)
    fabric.set_plugged(spec, plugged=False)


def cut_storage(root: Path, name: str) -> None:
    """Lose what the host and others send each other about storage; all else, etcd too, goes on."""
    spec, _ = find_running(root, name)
    storagepath.cut(spec)


def heal(root: Path, name: str) -> None:
    """Plug the host's cables in again, and mend its path to the block store."""
    spec, _ = find_running(root, name)
    fabric.set_plugged(spec, plugged=True)
    storagepath.mend(spec)


def restart(root: Path, name: str) -> None:
    """Press the reset button: end the host as a power cut does, if it runs, and start it again."""
    spec = find(root, name)
    lifecycle.kill(root, name)
    lifecycle.start(spec, root)


def afflictions(root: Path, name: str) -> list[str]:
    """Return what was done to a running host and not undone.

    That is "frozen", "isolated", "without storage", or the switches it is unplugged from.
    """
    spec = find(root, name)
    pulled = fabric.unplugged(spec)
    found = ["frozen"] if cgroups.is_frozen(cgroups.machine(), spec.netns) else []
    if storagepath.is_cut(spec):
        found.append("without storage")
    if set(fabric.FAULTY) <= set(pulled):
        return [*found, "isolated"]
    return [*found, *(f"unplugged from {switch}" for switch in pulled)]
