"""Image files in and out of volumes, over the NBD socket of a volume's gateway. Blocking; run in a thread from asyncio.

``progress(done_bytes, whole_bytes)`` is called as work goes on. It may raise to stop the work.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from yuntai.image.errors import ImageError
from yuntai.image.probe import ImageFile
from yuntai.image.tool import convert

Progress = Callable[[int, int], None]
READ_BYTES = 4 << 20


def quiet(_done_bytes: int, _whole_bytes: int) -> None:
    """Take progress and say nothing."""


def checksum(path: Path | int, progress: Progress = quiet) -> str:
    """Return ``sha256:<hex>`` of a whole file (a path, or a file descriptor whose position is not moved)."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if isinstance(path, Path) else path
    try:
        whole, done = os.fstat(descriptor).st_size, 0
        while piece := os.pread(descriptor, READ_BYTES, done):
            digest.update(piece)
            done += len(piece)
            progress(done, max(whole, done))
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    finally:
        if isinstance(path, Path):
            os.close(descriptor)
    return f"sha256:{digest.hexdigest()}"


def nbd_uri(socket: str, export: str) -> str:
    """Return the URI of an export on a unix socket; refuse a path that a URI would change."""
    if not socket.startswith("/") or any(letter in socket for letter in "?&#%\n"):
        raise ImageError(
            f"the socket's path {socket!r} cannot stand in a URI; it must be absolute, without ?, &, # and %"
        )
    return f"nbd+unix:///{export}?socket={socket}"


def write(path: Path | int, image: ImageFile, socket: str, export: str, progress: Progress = quiet) -> None:
    """Copy an image's content into a new, blank volume: zeros are not written, and all of it is flushed at the end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if isinstance(path, Path) else path
    try:
        convert(
            # The volume is blank, so what is zero in the image is zero there already. "writeback" makes the tool
            # flush at the end; its default for the target would not.
            [
                *("-n", "--target-is-zero", "-t", "writeback", "-f", image.format, "-O", "raw"),
                *(f"/dev/fd/{descriptor}", nbd_uri(socket, export)),
            ],
            [descriptor],
            lambda part: progress(int(part * image.size_bytes), image.size_bytes),
        )
    finally:
        if isinstance(path, Path):
            os.close(descriptor)


def export(socket: str, export_name: str, path: Path, progress: Progress = quiet, *, compress: bool = False) -> None:
    """Write a volume's content to a new qcow2 file; the file appears under its name when it is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        convert(
            [
                *("-f", "raw", "-O", "qcow2", "-t", "writeback", *(["-c"] if compress else [])),
                *(nbd_uri(socket, export_name), f"file:{partial.absolute()}"),
            ],
            [],
            lambda part: progress(int(part * 100), 100),
        )
        _make_durable(partial)
        partial.replace(path)
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
