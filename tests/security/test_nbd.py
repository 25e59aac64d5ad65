"""Hostile clients on a volume's own socket: each harms at most its own connection."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from pathlib import Path

from tests.functional.storage import MIB, Storage, Volume, qemu_io
from tests.security.conftest import going_on, unharmed
from tests.security.hostile import OPTION_MAGIC, Peer, nbd, request, resident_bytes, simple_reply

READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS = 0, 1, 2, 3, 4, 6, 7
EPERM, EINVAL, ENOSPC = 1, 22, 28
FLAGS = struct.pack(">I", 3)


def option(number: int, body: bytes = b"", *, length: int | None = None, magic: int = OPTION_MAGIC) -> bytes:
    return struct.pack(">QII", magic, number, len(body) if length is None else length) + body


async def offered(storage: Storage, **changes: object) -> tuple[Volume, str, Path]:
    volume = storage.create(64 * MIB)
    uri = await storage.open(volume, **changes)
    return volume, uri, storage.folder / "nbd" / f"{volume.export}.sock"


async def test_negotiations_that_lead_nowhere(storage: Storage) -> None:
    volume, uri, path = await offered(storage)
    name = volume.export.encode()
    hopeless = [
        struct.pack(">I", 0xFFFF_FFFF),
        struct.pack(">I", 0),
        b"GET / HTTP/1.1\r\n\r\n" + b"x" * 64,
        os.urandom(4096),
        FLAGS + option(3, magic=1),
        FLAGS + option(7, length=(1 << 20) + 1),
        FLAGS + option(7, length=2**32 - 1),
        FLAGS + option(1, b"another volume"),
        FLAGS + option(1, b"x" * 9000),
        FLAGS + option(2),
        FLAGS + option(99) * 300,
        FLAGS + option(3) * 300,
    ]
    # Answered with an error, and the talk goes on: what follows it is understood.
    wrong = [
        option(7, b""),
        option(7, b"\xff\xff\xff\xff"),
        option(7, struct.pack(">I", len(name)) + name + b"\xff\xff"),
        option(7, struct.pack(">I", 1) + b"x" + b"\0\0"),
        option(6, struct.pack(">I", 4097) + b"x" * 4099),
        option(3, b"unasked"),
        option(10, struct.pack(">I", 0) + struct.pack(">I", 2**32 - 1)),
        option(7, b"x" * 8193),
        option(7, b"x" * (1 << 20)),
        option(5),
    ]
    async with going_on(storage):
        with unharmed(storage):
            for data in hopeless:
                peer = await Peer.unix(path)
                peer.raw(data)
                await peer.cut_off(5.0)
            for data in wrong:
                peer = await Peer.unix(path)
                peer.raw(FLAGS + data)
                await peer.reader.readexactly(18)
                _, _, kind, length = struct.unpack(">QIII", await peer.reader.readexactly(20))
                assert kind >> 31, (data[:40], kind)
                await peer.reader.readexactly(length)
                peer.raw(option(2))
                assert struct.unpack(">QIII", (await peer.cut_off())[:20])[2] == 1
    await qemu_io(uri, "write -P 1 0 64k", "read -P 1 0 64k")


async def test_requests_that_make_no_sense(storage: Storage) -> None:
    _, uri, path = await offered(storage)
    size = 64 * MIB
    refused = [
        (request(READ, 0, (32 << 20) + 1), EINVAL),
        (request(READ, 0, 2**32 - 1), EINVAL),
        (request(READ, size - 1, 2), EINVAL),
        (request(READ, 2**64 - 1, 4096), EINVAL),
        (request(WRITE, size, 4) + b"abcd", ENOSPC),
        (request(WRITE, 2**64 - 2, 4) + b"abcd", ENOSPC),
        (request(WRITE, 0, 4, flags=0x8000) + b"abcd", EINVAL),
        (request(WRITE_ZEROES, size - 4096, 2**32 - 1), ENOSPC),
        (request(TRIM, 2**63, 4096), ENOSPC),
        (request(BLOCK_STATUS, 0, 4096), EINVAL),
        (request(5, 0, 0), EINVAL),
        (request(999, 0, 0), EINVAL),
    ]
    async with going_on(storage):
        with unharmed(storage):
            peer = await nbd(path)
            for data, error in refused:
                peer.raw(data)
                got = await simple_reply(peer)
                assert got in (error, EINVAL), (data[:28], got)
            peer.raw(request(FLUSH, 0, 0))
            assert await simple_reply(peer) == 0
            peer.close()
            for data in (
                request(READ, 0, 4096, magic=1),
                request(WRITE, 0, (32 << 20) + 1),
                request(WRITE, 0, 2**32 - 1),
                os.urandom(64),
            ):
                peer = await nbd(path)
                peer.raw(data)
                await peer.cut_off(10.0)
    await qemu_io(uri, "read -P 0 0 64k", "write -P 1 0 64k", "read -P 1 0 64k")


async def test_a_read_only_export_is_not_written(storage: Storage) -> None:
    volume, uri, _ = await offered(storage)
    await qemu_io(uri, "write -P 7 0 64k", "flush")
    await storage.close(volume)
    await storage.open(volume, read_only=True, token=storage.token(volume, 0))
    peer = await nbd(storage.folder / "nbd" / f"{volume.export}.sock")
    for data in (request(WRITE, 0, 4) + b"abcd", request(WRITE_ZEROES, 0, 4096), request(TRIM, 0, 4096)):
        peer.raw(data)
        assert await simple_reply(peer) == EPERM
    peer.raw(request(READ, 0, 4096))
    assert await simple_reply(peer, 4096) == 0


async def test_half_open_clients_cost_little_and_stop_nobody(storage: Storage) -> None:
    """Slow-loris: in the negotiation they are cut, in the transmission their own volume's memory is all they hold."""
    _, uri, path = await offered(storage)
    gateway = storage.processes["gateway"].pid
    async with going_on(storage):
        before = resident_bytes(gateway)
        began = time.monotonic()
        half = [await Peer.unix(path) for _ in range(8)]
        for peer in half:
            peer.raw(FLAGS + option(7, length=1000))
        # A large write, begun and never ended.
        begun = [await nbd(path) for _ in range(6)]
        for peer in begun:
            peer.raw(request(WRITE, 0, 32 << 20) + bytes(16 << 20))
        # Large reads whose answers are not fetched.
        deaf = await nbd(path)
        await qemu_io(uri, "write -P 5 0 32M")
        for _ in range(200):
            deaf.raw(request(READ, 0, 4 << 20))
        await asyncio.sleep(3)
        grown = resident_bytes(gateway) - before
        print(f"gateway grew by {grown >> 20} MiB")
        assert grown < 400 * MIB
        # Their own volume goes on, too: a client that behaves is served beside them.
        await qemu_io(uri, "write -P 6 40M 64k", "read -P 6 40M 64k")
        await asyncio.gather(*(peer.cut_off(15.0) for peer in half))
        assert time.monotonic() - began < 20
        for peer in [*begun, deaf]:
            peer.close()
    await asyncio.sleep(1)
    print(f"gateway kept {(resident_bytes(gateway) - before) >> 20} MiB")
