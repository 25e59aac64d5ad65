"""A writer of the ``newc`` cpio format: an initramfs with device nodes, made without root and without cpio."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field


@dataclass
class Archive:
    """An archive in memory. Owner root, time 0 and inode numbers in order: equal input gives equal bytes."""

    _parts: list[bytes] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a folder and, before it, the folders above it."""
        name = path.strip("/")
        if not name or name in self._seen:
            return
        above, _, _ = name.rpartition("/")
        self.directory(above)
        self._add(name, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._entry(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def character(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._entry(path, stat.S_IFCHR | mode, b"", major, minor)

    def data(self) -> bytes:
        """Return the whole archive with its trailer."""
        return b"".join([*self._parts, _entry(0, "TRAILER!!!", 0, b"", 0, 0)])

    def _entry(self, path: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        name = path.strip("/")
        self.directory(name.rpartition("/")[0])
        if name in self._seen:
            raise ValueError(f"the archive has two entries named {name!r}")
        self._add(name, mode, data, major, minor)

    def _add(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._seen.add(name)
        self._parts.append(_entry(len(self._seen), name, mode, data, major, minor))


def _entry(number: int, name: str, mode: int, data: bytes, major: int, minor: int) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(encoded), 0)
    head = b"070701" + b"".join(f"{value:08x}".encode() for value in fields)
    return _padded(head + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
