"""A small NBD client for a volume's unix socket: a snapshot is read, and a new volume written, through it.

Fixed newstyle negotiation and simple replies; several requests may be under way. A volume that has lost too many
replicas lets its I/O wait rather than fail, so a request has a long time limit of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from typing import TYPE_CHECKING

from yuntai.archive.errors import ArchiveError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 300.0
REQUEST_BYTES_MAX = 4 << 20
BUFFER_BYTES = 4 << 20

_MAGIC, _OPTION_MAGIC, _OPTION_REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x67446698
_GO, _ACK, _INFO, _INFO_EXPORT, _REPLY_ERROR = 7, 1, 3, 0, 1 << 31
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_READ_ONLY = 2

_GREETING = struct.Struct(">QQH")
_OPTION = struct.Struct(">QII")
_OPTION_ANSWER = struct.Struct(">QIII")
_EXPORT = struct.Struct(">HQH")
_REQUEST_HEAD = struct.Struct(">IHHQQI")
_REPLY_HEAD = struct.Struct(">IIQ")


class NbdClient:
    """One connection to one export. Made by :meth:`connect`; use it with ``async with``."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size_bytes: int, read_only: bool
    ) -> None:
        self.size_bytes = size_bytes
        self.read_only = read_only
        self._reader = reader
        self._writer = writer
        self._cookies = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[bytes], int]] = {}
        self._lost = ""
        self._sending = asyncio.Lock()
        self._task = asyncio.create_task(self._receive())

    @classmethod
    async def connect(cls, socket: str, export: str) -> NbdClient:
        """Connect to an export on a unix socket."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(socket, limit=BUFFER_BYTES)
                try:
                    size_bytes, read_only = await _negotiate(reader, writer, export)
                except BaseException:
                    writer.close()
                    raise
        except TimeoutError as error:
            raise ArchiveError(f"{socket}: no answer within {CONNECT_TIMEOUT_S:g} s") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise ArchiveError(f"{socket}: cannot connect: {error}") from error
        return cls(reader, writer, size_bytes, read_only)

    async def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the export."""
        parts = []
        while length:
            part = min(length, REQUEST_BYTES_MAX)
            parts.append(await self._ask(_READ, offset, part))
            offset, length = offset + part, length - part
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, offset: int, data: bytes) -> None:
        """Write bytes."""
        for start in range(0, len(data), REQUEST_BYTES_MAX):
            part = data[start : start + REQUEST_BYTES_MAX]
            await self._ask(_WRITE, offset + start, len(part), part)

    async def flush(self) -> None:
        """Have everything that was answered on stable storage."""
        await self._ask(_FLUSH, 0, 0)

    async def _ask(self, command: int, offset: int, length: int, data: bytes = b"") -> bytes:
        if self._lost:
            raise ArchiveError(self._lost)
        cookie = next(self._cookies)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[cookie] = (future, length if command == _READ else 0)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                async with self._sending:
                    self._writer.write(_REQUEST_HEAD.pack(_REQUEST, 0, command, cookie, offset, length))
                    self._writer.write(data)
                    await self._writer.drain()
                return await future
        except TimeoutError as error:
            self._fail(f"the volume did not answer within {REQUEST_TIMEOUT_S:g} s; are two of its replicas up?")
            raise ArchiveError(self._lost) from error
        except OSError as error:
            self._fail(f"the connection to the volume was lost: {error}")
            raise ArchiveError(self._lost) from error

    async def _receive(self) -> None:
        try:
            while True:
                magic, error, cookie = _REPLY_HEAD.unpack(await self._reader.readexactly(_REPLY_HEAD.size))
                future, length = self._waiting.get(cookie, (None, 0))
                if magic != _REPLY or future is None:
                    return self._fail("the volume's gateway sent something that is no answer")
                data = await self._reader.readexactly(length) if length and not error else b""
                # Only now: a connection that is lost within the data must fail this request too.
                self._waiting.pop(cookie, None)
                if future.done():
                    continue
                if error:
                    future.set_exception(ArchiveError(f"the volume's gateway answered with error {error}"))
                else:
                    future.set_result(data)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._fail(f"the connection to the volume was lost: {error}; try again, what was written is found again")

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        self._writer.close()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(ArchiveError(self._lost))
        self._waiting.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._lost:
            self._writer.write(_REQUEST_HEAD.pack(_REQUEST, 0, _DISCONNECT, 0, 0, 0))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._fail("the connection was closed here")


async def _negotiate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, export: str) -> tuple[int, bool]:
    magic, option_magic, _ = _GREETING.unpack(await reader.readexactly(_GREETING.size))
    if (magic, option_magic) != (_MAGIC, _OPTION_MAGIC):
        raise ArchiveError("the socket does not speak NBD")
    name = export.encode()
    body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    writer.write(struct.pack(">I", 3) + _OPTION.pack(_OPTION_MAGIC, _GO, len(body)) + body)
    found: tuple[int, bool] | None = None
    while True:
        magic, _, kind, length = _OPTION_ANSWER.unpack(await reader.readexactly(_OPTION_ANSWER.size))
        if magic != _OPTION_REPLY or length > 65536:
            raise ArchiveError("the socket does not speak NBD")
        body = await reader.readexactly(length)
        if kind & _REPLY_ERROR:
            raise ArchiveError(f"the gateway refuses the export {export!r}: {body.decode(errors='replace')}")
        if kind == _INFO and length == _EXPORT.size and _EXPORT.unpack(body)[0] == _INFO_EXPORT:
            found = (_EXPORT.unpack(body)[1], bool(_EXPORT.unpack(body)[2] & _READ_ONLY))
        if kind == _ACK:
            if found is None:
                raise ArchiveError(f"the gateway says nothing of the export {export!r}")
            return found
