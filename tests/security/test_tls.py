"""With certificates: what is said between hosts is read by nobody on the way, and changed by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.functional.storage import MIB, SERVERS, Storage, qemu_io
from tests.security.hostile import Peer
from yuntai.config import Tls
from yuntai.pangu import wire
from yuntai.tls import client_context, issue, make_authority

PATTERN = b"the guest's own secret..........."


def certificates(folder: Path, host: str) -> Tls:
    make_authority(folder)
    cert, key = issue(folder, host)
    return Tls(cert=str(cert), key=str(key), ca=str(folder / "ca.pem"))


@pytest.fixture
async def sealed(tmp_path: Path) -> AsyncIterator[Storage]:
    one = Storage(tmp_path)
    one.tls = certificates(tmp_path / "tls", "h1")
    try:
        await one.start()
        yield one
    finally:
        print(one.log("gateway")[-1500:])
        await one.stop()


class Wiretap:
    """Somebody between the gateway and the chunk servers: reads everything, and may flip a bit."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.flip_at: int | None = None
        self.flipped = 0
        self.connections = 0

    async def _move(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.heard += data
                if self.flip_at is not None and len(self.heard) >= self.flip_at:
                    data = bytes([*data[:-1], data[-1] ^ 1])
                    self.flipped += 1
                    self.flip_at = None
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    @asynccontextmanager
    async def before(self, port: int) -> AsyncIterator[str]:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(self._move(reader, there_writer), self._move(there_reader, writer))

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def tapped_write(storage: Storage, tap: Wiretap) -> str:
    """Write a pattern with a tap on the way to server 1; return the volume's URI."""
    volume = storage.create(64 * MIB)
    source = storage.folder / "pattern"
    source.write_bytes(PATTERN * 2048)
    async with tap.before(storage.ports[1]) as address:
        uri = await storage.open(volume, servers={**storage.addresses(), "1": address})
        for _ in range(4):
            await qemu_io(uri, f"write -s {source} 0 64k", "flush")
        await storage.close(volume)
    return uri


async def test_without_it_the_network_must_be_ones_own(storage: Storage) -> None:
    plain = Wiretap()
    await tapped_write(storage, plain)
    assert PATTERN in plain.heard, "the tap works"


async def test_nobody_on_the_way_reads_or_changes(sealed: Storage) -> None:
    tap = Wiretap()
    await tapped_write(sealed, tap)
    assert len(tap.heard) > 200_000
    assert PATTERN not in tap.heard
    assert b"YTF1" not in tap.heard
    assert b"token" not in tap.heard
    # One flipped bit ends the connection; the gateway comes back, and what was written is right.
    volume = sealed.create(64 * MIB)
    tap = Wiretap()
    async with tap.before(sealed.ports[1]) as address:
        uri = await sealed.open(volume, servers={**sealed.addresses(), "1": address}, prefer=[1])
        await qemu_io(uri, "write -P 7 0 1M")
        tap.flip_at = len(tap.heard) + 100_000
        await qemu_io(uri, "write -P 8 1M 1M", "write -P 9 2M 1M", "flush", "read -P 7 0 1M", "read -P 8 1M 1M")
        assert tap.flipped == 1
        assert tap.connections == 2, "the gateway came back on a connection of its own"
        await sealed.in_sync(volume)
        await qemu_io(uri, "read -P 9 2M 1M")


async def test_who_has_no_certificate_is_not_even_asked_for_the_secret(sealed: Storage) -> None:
    other = client_context(certificates(sealed.folder / "other", "h1"))
    for port in (sealed.gateway_port, *(sealed.ports[number] for number in SERVERS)):
        address = f"127.0.0.1:{port}"
        with pytest.raises(wire.WireError):
            await wire.connect(address, sealed.secret, "master:evil")
        with pytest.raises(wire.WireError):
            await wire.connect(address, sealed.secret, "master:evil", context=other)
        peer = await Peer.dial(port)
        peer.raw(b"YTF1" + bytes(200))
        assert b"nonce" not in await peer.cut_off()
        assert sealed.tls is not None
        channel = await wire.connect(address, sealed.secret, "operator", context=client_context(sealed.tls))
        await channel.close()
