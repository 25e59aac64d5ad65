"""A client that says what it likes: raw frames and raw NBD, on raw sockets."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from yuntai import _native
from yuntai.pangu import wire

CLAIM, CLAIM_REPLY, LAYERS = 10, 11, 12
WRITE, ZERO, FILL, ACK, FLUSH = 20, 21, 22, 23, 24
READ, READ_REPLY, VERSIONS, READ_LAYER, BEGIN_REBUILD, PULL, END_REBUILD = 30, 31, 40, 42, 43, 44, 45
BLOCK = 4096
OPTION_MAGIC = 0x49484156454F5054
REQUEST_MAGIC = 0x25609513


class Answer(NamedTuple):
    kind: int
    body: bytes
    data: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """One connection. Everything that is sent is kept, so that it can be sent again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.sent = bytearray()

    @classmethod
    async def dial(cls, port: int) -> Peer:
        """Connect; a server that has just been started may need a moment until it listens."""
        for _ in range(100):
            try:
                return cls(*await asyncio.open_connection("127.0.0.1", port))
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)
        raise ConnectionRefusedError(port)

    @classmethod
    async def unix(cls, path: str | Path) -> Peer:
        return cls(*await asyncio.open_unix_connection(str(path)))

    @classmethod
    async def proved(cls, port: int, secret: bytes, name: str = "gateway:evil") -> Peer:
        """Connect as one who knows the secret: a host that was broken into."""
        peer = await cls.dial(port)
        write = peer.writer.write
        peer.writer.write = lambda data: (peer.sent.extend(data), write(data))[1]  # type: ignore[method-assign]
        await wire.handshake_as_client(peer.reader, peer.writer, secret, name)
        peer.writer.write = write  # type: ignore[method-assign]
        return peer

    def raw(self, data: bytes) -> None:
        self.sent += data
        self.writer.write(data)

    def frame(self, kind: int, body: Any = b"", data: bytes = b"", **fields: int) -> None:
        self.raw(frame(kind, body, data, **fields))

    async def answer(self, timeout_s: float = 10.0) -> Answer:
        """The next frame."""
        async with asyncio.timeout(timeout_s):
            head = _native.decode_header(await self.reader.readexactly(64))
            rest = await self.reader.readexactly(head[2] + head[3])
        return Answer(head[0], rest[: head[2]], rest[head[2] :])

    async def ask(self, kind: int, body: Any = b"", data: bytes = b"", **fields: int) -> Answer:
        self.frame(kind, body, data, **fields)
        return await self.answer()

    async def refused(self, kind: int, body: Any = b"", data: bytes = b"", **fields: int) -> str:
        """Ask, and return the words of the refusal; anything else fails."""
        answer = await self.ask(kind, body, data, **fields)
        assert answer.kind == wire.ERROR, answer
        return json.dumps(answer.json())

    async def cut_off(self, timeout_s: float = 10.0) -> bytes:
        """What still comes until the other side closes; fails if it does not."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.reader.read(-1)
        except ConnectionError:
            return b""
        finally:
            self.writer.close()

    def close(self) -> None:
        self.writer.close()


def frame(kind: int, body: Any = b"", data: bytes = b"", **fields: int) -> bytes:
    """A frame with a right checksum, whatever else is wrong with it; ``body_len``, ``data_len`` may lie."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return header(kind, **{"body_len": len(raw), "data_len": len(data), **fields}) + raw + data


def header(kind: int, *, magic: bytes = b"YTF1", version: int = 1, crc: int | None = None, **fields: int) -> bytes:
    """A header with nothing checked."""
    names = ("flags", "body_len", "data_len", "request_id", "volume", "generation", "sequence", "chunk", "layer")
    values = [fields.pop(name, 0) for name in (*names, "block", "blocks")]
    assert not fields, fields
    out = magic + struct.pack("<BBHIIQQQQIIHH", version, kind, *values)
    return out + struct.pack("<I", _native.crc32c(out) if crc is None else crc)


def claim(token: str, session: int = 7, parents: tuple[int, ...] = (0, 0)) -> dict[str, Any]:
    return {"token": token, "session": session, "parents": list(parents)}


def crcs(data: bytes) -> bytes:
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    return b"".join(struct.pack("<I", _native.crc32c(block)) for block in blocks)


async def nbd(path: str | Path, export: str = "") -> Peer:
    """An NBD client past its negotiation, with simple replies."""
    peer = await Peer.unix(path)
    await peer.reader.readexactly(18)
    body = struct.pack(">I", len(export)) + export.encode() + struct.pack(">H", 0)
    peer.raw(struct.pack(">I", 3) + struct.pack(">QII", OPTION_MAGIC, 7, len(body)) + body)
    while True:
        _, _, kind, length = struct.unpack(">QIII", await peer.reader.readexactly(20))
        await peer.reader.readexactly(length)
        assert not kind & 1 << 31
        if kind == 1:
            return peer


def request(command: int, offset: int, length: int, *, flags: int = 0, magic: int = REQUEST_MAGIC) -> bytes:
    return struct.pack(">IHHQQI", magic, flags, command, 1, offset, length)


async def simple_reply(peer: Peer, length: int = 0, timeout_s: float = 10.0) -> int:
    """The error number of the next reply; its data are dropped."""
    async with asyncio.timeout(timeout_s):
        magic, error, _ = struct.unpack(">IIQ", await peer.reader.readexactly(16))
        assert magic == 0x67446698
        if length and not error:
            await peer.reader.readexactly(length)
    return int(error)


def resident_bytes(pid: int) -> int:
    """Memory that a process really has."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmRSS"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
