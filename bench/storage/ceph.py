"""Ceph RBD with three copies on loopback, with the settings under which it does best on one machine.

One monitor, one manager, three BlueStore OSDs on plain files in three racks; no cephx, no systemd. Debian's OSD lacks
tcmalloc and takes a file for a spinning disk: both are mended, or Ceph would look slower than it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

from bench.measure import CannotMeasure
from bench.peers import Peer
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "Ceph RBD, 3 copies"
PACKAGES = "ceph-osd ceph-mon ceph-mgr ceph-mgr-modules-core ceph-common libtcmalloc-minimal4"
TCMALLOC = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"
OSDS = range(3)
COME_UP_S = 90.0
OSD_BYTES = 12 << 30


class _Ceph:
    """The processes, and the command line of one cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peer = Peer(NAME)
        self.conf = folder / "ceph.conf"
        self.fsid = str(uuid.uuid4())
        self.port = free_port()

    def configure(self) -> None:
        for name in ("run", "log", "mon", "mgr", *(f"osd.{number}" for number in OSDS)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "keyring").touch()
        lines = [
            "[global]", f"fsid = {self.fsid}", f"mon host = [v2:127.0.0.1:{self.port}/0]", "mon initial members = a",
            "auth cluster required = none", "auth service required = none", "auth client required = none",
            "public network = 127.0.0.0/8", "public addr = 127.0.0.1", "cluster addr = 127.0.0.1",
            f"run dir = {self.folder}/run", f"admin socket = {self.folder}/run/$name.asok",
            f"log file = {self.folder}/log/$name.log", f"crash dir = {self.folder}/log",
            f"keyring = {self.folder}/keyring", f"mon data = {self.folder}/mon", f"mgr data = {self.folder}/mgr",
            f"osd data = {self.folder}/osd.$id", "osd objectstore = bluestore", "bluestore block create = true",
            f"bluestore block size = {OSD_BYTES}", "bluestore fsck on mount = false", "osd memory target = 1073741824",
            "bluestore debug enforce settings = ssd", "osd op num shards = 4", "osd op num threads per shard = 1",
            "osd pool default size = 3", "osd pool default min size = 2", "osd pool default pg num = 32",
            "osd pool default pg autoscale mode = off", "mon data avail warn = 1", "mon data avail crit = 1",
            "mon warn on insecure global id reclaim = false", "mon warn on insecure global id reclaim allowed = false",
            "mgr initial modules =", "[client]", "rbd cache = false", "admin socket =",
            f"log file = {self.folder}/log/client.log",
        ]  # fmt: skip
        for number in OSDS:
            lines += [f"[osd.{number}]", f"crush location = root=default rack=rack{number} host=host{number}"]
        self.conf.write_text("\n".join(lines) + "\n")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "CEPH_CONF": str(self.conf)},
        )
        if done.returncode != 0:
            raise CannotMeasure(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def start(self, program: str, name: str) -> None:
        environment = {**os.environ, "LD_PRELOAD": TCMALLOC}
        with (self.folder / "log" / f"{program}-{name}.out").open("ab") as out:
            self.peer.processes.append(
                subprocess.Popen(
                    [program, "-i", name, "-c", str(self.conf), "-f"],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment,
                )
            )  # fmt: skip

    def up(self, size_bytes: int) -> None:
        self.configure()
        monmap = str(self.folder / "monmap")
        self.run(
            "monmaptool",
            "--create",
            "--clobber",
            "--fsid",
            self.fsid,
            "--addv",
            "a",
            f"[v2:127.0.0.1:{self.port}]",
            monmap,
        )
        self.run(
            "ceph-mon",
            "--mkfs",
            "-i",
            "a",
            "--monmap",
            monmap,
            "--mon-data",
            f"{self.folder}/mon",
            "-c",
            str(self.conf),
        )
        self.start("ceph-mon", "a")
        self.wait("ceph", "--connect-timeout", "5", "status")
        self.start("ceph-mgr", "x")
        for number in OSDS:
            name = str(uuid.uuid4())
            self.run("ceph", "osd", "new", name, str(number))
            self.run(
                "ceph-osd",
                "-i",
                str(number),
                "--mkfs",
                "--mkkey",
                "--osd-uuid",
                name,
                "--no-mon-config",
                "-c",
                str(self.conf),
            )
            self.start("ceph-osd", str(number))
        self.wait("ceph", "osd", "stat", until=f"{len(OSDS)} up")
        self.run("ceph", "osd", "crush", "rule", "create-replicated", "byrack", "default", "rack")
        self.run("ceph", "osd", "pool", "create", "rbd", "32", "32", "replicated", "byrack")
        self.run("rbd", "pool", "init", "rbd")
        self.wait("ceph", "pg", "stat", until="active+clean")
        self.run("rbd", "create", "rbd/bench", "--size", f"{size_bytes >> 20}M")

    def wait(self, *command: str, until: str = "") -> None:
        deadline_s = time.monotonic() + COME_UP_S
        while True:
            try:
                if until in self.run(*command):
                    return
            except CannotMeasure:
                if time.monotonic() > deadline_s:
                    raise
            if time.monotonic() > deadline_s:
                raise CannotMeasure(f"Ceph does not come up: {' '.join(command)} never says {until!r}")
            time.sleep(0.5)


@contextlib.contextmanager
def cluster(folder: Path, size_bytes: int) -> Iterator[Peer]:
    """Serve one image; fio finds the cluster through ``CEPH_CONF``."""
    if shutil.which("ceph-osd") is None:
        raise CannotMeasure(f"Ceph is not installed; run: apt-get install --no-install-recommends {PACKAGES}")
    one = _Ceph(folder)
    before = os.environ.get("CEPH_CONF")
    try:
        one.up(size_bytes)
        os.environ["CEPH_CONF"] = str(one.conf)
        one.peer.uri = "rbd:rbd/bench"
        yield one.peer
    finally:
        if before is None:
            os.environ.pop("CEPH_CONF", None)
        else:
            os.environ["CEPH_CONF"] = before
        one.peer.stop()
