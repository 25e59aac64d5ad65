"""An NBD server that answers a read by half: its head, some of the data, and then the end or silence."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PART = 100


@asynccontextmanager
async def half_answering(socket: Path, *, ends: bool) -> AsyncIterator[None]:
    """Serve an export of 1 MiB; after ``PART`` bytes of a read the connection ends, or nothing more comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3))
        _, _, _, length = struct.unpack(">I8sII", await reader.readexactly(20))
        await reader.readexactly(length)
        writer.write(struct.pack(">QIIIHQH", 0x3E889045565A9, 7, 3, 12, 0, 1 << 20, 1))
        writer.write(struct.pack(">QIII", 0x3E889045565A9, 7, 1, 0))
        _, _, _, cookie, _, _ = struct.unpack(">IHHQQI", await reader.readexactly(28))
        writer.write(struct.pack(">IIQ", 0x67446698, 0, cookie) + bytes(PART))
        await writer.drain()
        if not ends:
            await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(serve, socket):
        yield
