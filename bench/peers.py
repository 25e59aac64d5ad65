"""The peers of the ``disk`` figure, started here from the distribution's QEMU and ended here.

``qemu-nbd`` serves one file: no replica, the floor of what an NBD disk costs. ``quorum`` is QEMU's own replication,
three such servers behind ``qemu-storage-daemon`` with ``driver=quorum``: the same number of copies as ours, without
a log, fencing or resynchronisation.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

from bench.measure import CannotMeasure, need_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S = 10.0
SETTLE_S = 0.02


class Peer:
    """A running peer: where it serves, and its processes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uri = ""
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """Return the pids of all its processes."""
        return [process.pid for process in self.processes]

    def start(self, command: list[str], socket: Path) -> None:
        """Start one of its processes and wait for its socket."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.processes.append(process)
        until_s = time.monotonic() + START_S
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > until_s:
                said = process.stderr.read().decode()[-300:] if process.stderr and process.poll() is not None else ""
                raise CannotMeasure(f"{command[0]} does not serve {socket}: {said}")
            time.sleep(SETTLE_S)

    def stop(self) -> None:
        """End its processes, the front one first."""
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextlib.contextmanager
def qemu_nbd(folder: Path, size_bytes: int) -> Iterator[Peer]:
    """Serve one file."""
    peer = Peer("qemu-nbd, 1 copy")
    try:
        _file_server(peer, folder, "single", size_bytes)
        peer.uri = _uri(folder / "single.sock")
        yield peer
    finally:
        peer.stop()


@contextlib.contextmanager
def quorum(folder: Path, size_bytes: int) -> Iterator[Peer]:
    """Serve three files as one disk: writes to all, two must agree; reads from the first."""
    peer = Peer("QEMU quorum, 3 copies")
    program = need_program("qemu-storage-daemon", "qemu-system-common")
    socket = folder / "quorum.sock"
    command = [program]
    try:
        for number in range(3):
            _file_server(peer, folder, f"q{number}", size_bytes)
            path = folder / f"q{number}.sock"
            command += [
                "--blockdev",
                f"driver=nbd,node-name=n{number},server.type=unix,server.path={path},export=vol",
            ]
        children = ",".join(f"children.{number}=n{number}" for number in range(3))
        command += [
            *("--blockdev", f"driver=quorum,node-name=all,vote-threshold=2,read-pattern=fifo,{children}"),
            *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
            *("--export", "type=nbd,id=export,node-name=all,name=vol,writable=on"),
        ]
        peer.start(command, socket)
        peer.uri = _uri(socket)
        yield peer
    finally:
        peer.stop()


def _file_server(peer: Peer, folder: Path, name: str, size_bytes: int) -> None:
    image, socket = folder / f"{name}.img", folder / f"{name}.sock"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    program = need_program("qemu-nbd", "qemu-utils")
    options = ("-f", "raw", "-x", "vol", "-e", "8", "-t", "--cache=none", "--aio=native", "--discard=unmap")
    peer.start([program, *options, "-k", str(socket), str(image)], socket)


def _uri(socket: Path) -> str:
    return f"nbd+unix:///vol?socket={socket}"
