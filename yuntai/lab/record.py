"""What is written down about a running host, and the state of it that follows."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

import msgspec

from yuntai.lab import cgroups, fabric
from yuntai.lab.layout import CLAIMS, MANIFEST, Home
from yuntai.lab.processes import ProcessId
from yuntai.lab.spec import ClusterSpec, HostSpec

REMOVE_TRIES = 50


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A running host: its PID 1 and its keeper as the machine numbers them, the image below it, and its files' hash."""

    init: ProcessId
    keeper: ProcessId
    image: str
    files: str = ""
    started_unix_s: float = 0.0


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an image holds, written into it when it is built."""

    id: str
    suite: str
    built_utc: str
    packages: dict[str, str]


def read_record(home: Home, name: str) -> Record | None:
    """Return the record of the host ``name``, running or not, or None."""
    try:
        return msgspec.json.decode(home.host(name).record.read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def running(home: Home, name: str) -> Record | None:
    """Return the record of the host ``name`` if its PID 1 is alive."""
    record = read_record(home, name)
    return record if record is not None and record.init.alive() else None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` as a whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def read_manifest(home: Home) -> ImageManifest | None:
    """Return what the present image holds, or None where none is built."""
    try:
        return msgspec.json.decode((home.image / MANIFEST).read_bytes(), type=ImageManifest)
    except FileNotFoundError:
        return None


def read_host_uuid(folder: Path) -> str:
    """Return the host's own UUID, which libvirt knows it by; made at its first start."""
    path = folder / "uuid"
    if not path.exists():
        write_atomically(path, str(uuid.uuid4()).encode())
    return path.read_text().strip()


def owner(spec: HostSpec) -> Path | None:
    """Return the home whose hosts have the cluster's name on this machine now, or None."""
    claim = CLAIMS / spec.cluster.name
    return Path(claim.read_text()) if claim.exists() and fabric.hosts_in(spec.cluster) else None


def clean_up(spec: HostSpec, home: Home) -> None:
    """Remove everything that a host leaves outside its namespaces; safe at any time when its PID 1 is gone.

    The caller holds the cluster's lock. Names that belong to a cluster of another home are left alone.
    """
    folders = home.host(spec.name)
    if owner(spec) not in (None, home.root):
        return
    cgroups.remove(cgroups.machine(), spec.netns)
    fabric.detach(spec)
    empty_folder(folders.run)
    folders.record.unlink(missing_ok=True)
    if fabric.remove_if_unused(spec.cluster):
        remove_claim(spec.cluster)


def remove_claim(cluster: ClusterSpec) -> None:
    """Let the cluster's name go, for any home to take."""
    (CLAIMS / cluster.name).unlink(missing_ok=True)
    if CLAIMS.is_dir() and not any(CLAIMS.iterdir()):
        CLAIMS.rmdir()


def empty_folder(folder: Path) -> None:
    """Remove what is in ``folder``, which stays."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            _remove_folder(entry)
        else:
            entry.unlink(missing_ok=True)


def _remove_folder(folder: Path) -> None:
    """Remove a folder that a process in its last moments may still write to."""
    for attempt in range(REMOVE_TRIES):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            return
        except OSError:
            if attempt == REMOVE_TRIES - 1:
                raise
            time.sleep(0.02)
        else:
            return
