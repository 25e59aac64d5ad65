"""A client of one request at a time, for latencies of single requests and for tens of thousands of small steps."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit

from bench.measure import CannotMeasure

if TYPE_CHECKING:
    from types import TracebackType

OPTION_EXPORT_NAME, FLAG_NO_ZEROES_FIXED = 1, 3
READ, WRITE, DISCONNECT, FLUSH = 0, 1, 2, 3
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
WAIT_S = 60.0


class Client:
    """A connection to an export, by its ``nbd+unix:`` URI."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WAIT_S)
        self._socket.connect(parse_qs(parts.query)["socket"][0])
        name = parts.path.strip("/").encode()
        if self._take(16) != b"NBDMAGICIHAVEOPT":
            raise CannotMeasure(f"{uri} is not an NBD export")
        self._take(2)
        self._socket.sendall(struct.pack(">I8sII", FLAG_NO_ZEROES_FIXED, b"IHAVEOPT", OPTION_EXPORT_NAME, len(name)))
        self._socket.sendall(name)
        self.size_bytes = struct.unpack(">QH", self._take(10))[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def write(self, offset: int, data: bytes) -> float:
        """Write; return the seconds that it took."""
        return self._ask(WRITE, offset, len(data), data)

    def read(self, offset: int, length: int) -> float:
        """Read; return the seconds that it took."""
        return self._ask(READ, offset, length, b"")

    def flush(self) -> float:
        """Flush; return the seconds that it took."""
        return self._ask(FLUSH, 0, 0, b"")

    def _ask(self, command: int, offset: int, length: int, data: bytes) -> float:
        began_s = time.perf_counter()
        self._socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, command, 1, offset, length) + data)
        magic, error, _ = struct.unpack(">IIQ", self._take(16))
        if magic != REPLY_MAGIC or error:
            raise CannotMeasure(f"the export answered command {command} with error {error}")
        if command == READ:
            self._take(length)
        return time.perf_counter() - began_s

    def _take(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                raise CannotMeasure("the export closed the connection")
            parts += part
        return bytes(parts)
