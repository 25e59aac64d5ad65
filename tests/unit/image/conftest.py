"""Real image files made by qemu-img, and NBD sockets served by qemu-nbd in a gateway's place."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from yuntai.lab.wait import probe

MIB = 1 << 20


def run(*command: str | Path) -> str:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, timeout=60).stdout


def patterned(path: Path, size: int = 16 * MIB) -> Path:
    """A raw file with data at both ends and in the middle, holes between."""
    with path.open("wb") as out:
        out.truncate(size)
        for at, letter in ((0, b"a"), (5 * MIB + 512, b"b"), (size - 4096, b"z")):
            out.seek(at)
            out.write(letter * 4096)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return patterned(tmp_path / "disk.raw")


class Nbd:
    """qemu-nbd processes; each one stopped by its own process object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self, path: Path, export: str, *, read_only: bool = False, source_format: str = "raw") -> str:
        socket = self.folder / f"{export}.sock"
        options = [f"--format={source_format}", f"--export-name={export}", "--persistent", "--shared=4"]
        command = ["qemu-nbd", f"--socket={socket}", *options, *(["--read-only"] if read_only else []), str(path)]
        self.running[export] = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while probe(f"listen:{socket}"):
            assert time.monotonic() < deadline, "qemu-nbd did not listen within 60 s"
            time.sleep(0.02)
        return str(socket)

    def stop(self, export: str) -> None:
        process = self.running.pop(export, None)
        if process is not None:
            process.terminate()
            process.wait(timeout=10)


@pytest.fixture
def nbd(tmp_path: Path) -> Iterator[Nbd]:
    made = Nbd(tmp_path)
    try:
        yield made
    finally:
        for export in list(made.running):
            made.stop(export)


@pytest.fixture
def qcow2_of(tmp_path: Path) -> Callable[..., Path]:
    def make(source: Path, *options: str, name: str = "disk.qcow2") -> Path:
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, source, tmp_path / name)
        return tmp_path / name

    return make
