"""What an image file is: format and virtual size, told from its first bytes, never by asking a tool to guess."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from yuntai.image import qcow2
from yuntai.image.errors import ImageError

_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"KDMV", "a VMDK"),
    (0, b"COWD", "a VMDK"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX"),
    (0, b"conectix", "a VHD"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI"),
    (0, b"QED\0", "a QED image"),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", "a tar archive"),
    (0x8001, b"CD001", "a CD image (ISO 9660), not a disk"),
)
SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file that may be imported."""

    format: Literal["raw", "qcow2"]
    size_bytes: int
    """Virtual size: what a guest sees."""
    file_bytes: int


def inspect(path: Path | int) -> ImageFile:
    """Look at a file (a path or an open file descriptor); raise :class:`ImageError` if it cannot be imported."""
    name = path if isinstance(path, Path) else f"file descriptor {path}"
    try:
        start, file_bytes = _read(path)
    except OSError as error:
        raise ImageError(f"cannot read {name}: {error.strerror}") from error
    if start.startswith(qcow2.MAGIC):
        try:
            header = qcow2.parse(start, file_bytes)
        except qcow2.RefusedError as error:
            raise ImageError(f"{name} cannot be imported: {error}") from error
        return ImageFile("qcow2", header.size_bytes, file_bytes)
    for offset, magic, what in _OTHERS:
        if start[offset : offset + len(magic)] == magic:
            raise ImageError(f"{name} is {what}; convert it first: qemu-img convert -O qcow2, or unpack it")
    if file_bytes == 0 or file_bytes % SECTOR_BYTES:
        raise ImageError(
            f"{name} has {file_bytes} bytes, not a multiple of {SECTOR_BYTES}: neither qcow2 nor a raw disk"
        )
    if file_bytes > qcow2.SIZE_BYTES_MAX:
        raise ImageError(f"{name} has {file_bytes} bytes; at most {qcow2.SIZE_BYTES_MAX} can be imported")
    return ImageFile("raw", file_bytes, file_bytes)


def _read(path: Path | int) -> tuple[bytes, int]:
    """Return the first bytes and the length; refuse what is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if isinstance(path, Path) else path
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "it is not a regular file")
        return os.pread(descriptor, qcow2.HEADER_READ_BYTES, 0), about.st_size
    finally:
        if isinstance(path, Path):
            os.close(descriptor)
