"""An NBD client in asyncio with requests side by side; what has no answer when the connection goes is :class:`Lost`."""

from __future__ import annotations

import asyncio
import itertools
import struct
from pathlib import Path

_HELLO = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_OPT_GO = 7
_REP_ACK = 1
_REP_ERROR = 1 << 31
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
READ, WRITE, FLUSH, TRIM, ZEROES = 0, 1, 3, 4, 6
FUA = 1
CONNECT_TIMEOUT_S = 5.0


class Lost(Exception):  # noqa: N818 — as the library's own ConnectionResetError
    """The connection ended before the answer: what was asked may have happened or not."""


class Failed(Exception):  # noqa: N818 — it is an answer
    """The server answered with an error number."""


class Nbd:
    """One connection to one export."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._cookies = itertools.count(1)
        self._waiting: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        self._task = asyncio.create_task(self._receive())
        self.lost = asyncio.Event()

    @classmethod
    async def connect(cls, socket: Path, export: str) -> Nbd:
        """Connect to a unix socket and choose the export; raise :class:`Lost` if that does not work now."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(socket)
                try:
                    await _negotiate(reader, writer, export)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise Lost(f"{socket}: {error!r}") from error
        return cls(reader, writer)

    async def read(self, offset: int, length: int) -> bytes:
        return await self._ask(READ, 0, offset, length)

    async def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        await self._ask(WRITE, FUA if fua else 0, offset, len(data), data)

    async def flush(self) -> None:
        await self._ask(FLUSH, 0, 0, 0)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._fail("closed here")

    async def _ask(self, kind: int, flags: int, offset: int, length: int, data: bytes = b"") -> bytes:
        if self.lost.is_set():
            raise Lost("the connection is gone")
        cookie = next(self._cookies)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[cookie] = (length if kind == READ else 0, future)
        self._writer.write(_REQUEST.pack(_REQUEST_MAGIC, flags, kind, cookie, offset, length) + data)
        return await future

    async def _receive(self) -> None:
        try:
            while True:
                magic, error, cookie = _REPLY.unpack(await self._reader.readexactly(_REPLY.size))
                if magic != _REPLY_MAGIC:
                    return self._fail(f"a reply begins {magic:x}")
                length, future = self._waiting[cookie]
                data = await self._reader.readexactly(length) if length and not error else b""
                # Only now: when the connection goes in the middle of the data, this one is lost too.
                del self._waiting[cookie]
                if error and not future.done():
                    future.set_exception(Failed(f"error {error}"))
                elif not future.done():
                    future.set_result(data)
        except (OSError, asyncio.IncompleteReadError) as error:
            self._fail(repr(error))

    def _fail(self, why: str) -> None:
        self.lost.set()
        self._writer.close()
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(Lost(why))


async def _negotiate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, export: str) -> None:
    magic, options, _ = _HELLO.unpack(await reader.readexactly(_HELLO.size))
    if (magic, options) != (b"NBDMAGIC", b"IHAVEOPT"):
        raise Lost("this is no NBD server")
    name = export.encode()
    body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    writer.write(struct.pack(">I", 3) + _OPTION.pack(b"IHAVEOPT", _OPT_GO, len(body)) + body)
    while True:
        _, _, kind, length = _OPTION_REPLY.unpack(await reader.readexactly(_OPTION_REPLY.size))
        body = await reader.readexactly(length)
        if kind == _REP_ACK:
            return
        if kind & _REP_ERROR:
            raise Lost(f"the export {export} is refused: {body.decode(errors='replace')}")
