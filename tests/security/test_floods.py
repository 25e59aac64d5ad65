"""Thousands of connections at once, on every door: bounded memory and descriptors, and others' I/O goes on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.functional.storage import MIB, Storage, qemu_io
from tests.security.conftest import going_on, unharmed
from tests.security.hostile import CLAIM, CLAIM_REPLY, Peer, claim, descriptors, frame, header, nbd, resident_bytes
from yuntai.pangu import wire

CONNECTIONS = 3000
AT_ONCE = 600
"""As many are held open by the attacker; this machine's own limit of descriptors is not what is tested."""

Dial = Callable[[], Awaitable[Peer]]


async def flood(dial: Dial, first: bytes) -> int:
    """Open connection after connection, say something, and hold the last ones open. Return how many came about."""
    held: asyncio.Queue[Peer] = asyncio.Queue()
    made = 0

    async def attacker(count: int) -> None:
        nonlocal made
        for _ in range(count):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(5):
                    peer = await dial()
                peer.raw(first)
                made += 1
                held.put_nowait(peer)
                if held.qsize() > AT_ONCE:
                    held.get_nowait().close()

    await asyncio.gather(*(attacker(CONNECTIONS // 50) for _ in range(50)))
    while not held.empty():
        held.get_nowait().close()
    return made


@pytest.mark.parametrize(
    "first", [b"", header(wire.AUTH, body_len=4000), b"\0" * 200], ids=["mute", "half", "nonsense"]
)
@pytest.mark.parametrize("door", ["data", "control", "socket"])
async def test_a_flood_stops_nobody(storage: Storage, door: str, first: bytes) -> None:
    target = storage.create(64 * MIB)
    uri = await storage.open(target)
    path = storage.folder / "nbd" / f"{target.export}.sock"
    dial, name = {
        "data": (lambda: Peer.dial(storage.ports[1]), "cs-1"),
        "control": (lambda: Peer.dial(storage.gateway_port), "gateway"),
        "socket": (lambda: Peer.unix(path), "gateway"),
    }[door]
    pid = storage.processes[name].pid
    before, files = resident_bytes(pid), descriptors(pid)
    newcomers: list[float] = []

    async def come_in() -> None:
        """The cluster's own processes connect in the middle of it, and get in."""
        while True:
            began = time.monotonic()
            if door == "data":
                peer = await Peer.proved(storage.ports[1], storage.secret, "gateway:h2")
                token = storage.token(target, 0)
                assert (await peer.ask(CLAIM, claim(token), volume=target.number)).kind == CLAIM_REPLY
            elif door == "control":
                peer = await Peer.proved(storage.gateway_port, storage.secret, "operator")
                assert (await peer.ask(wire.CONTROL, {"op": "status"})).kind == wire.CONTROL_REPLY
            else:
                peer = await nbd(path)
            newcomers.append(time.monotonic() - began)
            peer.close()
            await asyncio.sleep(0.1)

    async with going_on(storage):
        with unharmed(storage):
            coming = asyncio.create_task(come_in())
            began = time.monotonic()
            made = await flood(dial, first)
            took_s = time.monotonic() - began
            grown, opened = resident_bytes(pid) - before, descriptors(pid) - files
            coming.cancel()
            (outcome,) = await asyncio.gather(coming, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError), outcome
            print(
                f"{door}: {made} connections in {took_s:.1f} s; {name} grew by {grown >> 10} KiB, {opened} files; "
                f"{len(newcomers)} newcomers got in, the slowest in {1000 * max(newcomers):.0f} ms"
            )
            assert made > CONNECTIONS / 2
            assert newcomers
            assert grown < 48 * MIB
            assert opened < 700
    assert len(storage.log(name).splitlines()) < 200 + 30 * took_s, "the log is not flooded"
    await qemu_io(uri, "write -P 1 0 64k", "read -P 1 0 64k")


async def test_a_peer_that_asks_and_does_not_read_is_cut(storage: Storage) -> None:
    """One who knows the secret has a bounded share of memory all the same."""
    theirs = storage.create(64 * MIB)
    uri = await storage.open(theirs)
    await qemu_io(uri, "write -P 5 0 32M", "flush")
    pid = storage.processes["cs-1"].pid
    before = resident_bytes(pid)
    async with going_on(storage):
        with unharmed(storage):
            peer = await Peer.proved(storage.ports[1], storage.secret)
            token = storage.token(theirs, 0)
            assert (await peer.ask(CLAIM, claim(token), volume=theirs.number)).kind == CLAIM_REPLY
            asked = frame(30, volume=theirs.number, layer=1, blocks=1024)
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(4):
                    for _ in range(5000):
                        peer.raw(asked)
                        await peer.writer.drain()
                    await asyncio.sleep(4)
            grown = resident_bytes(pid) - before
            print(f"cs-1 grew by {grown >> 20} MiB")
            assert grown < 160 * MIB
            peer.close()
