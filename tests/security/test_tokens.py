"""A peer that knows the cluster's secret, but holds no token, or not the right one: a host that was broken into."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from tests.functional.storage import MIB, Storage, Volume, qemu_io
from tests.security.conftest import going_on, unharmed
from tests.security.hostile import (
    ACK,
    BEGIN_REBUILD,
    BLOCK,
    CLAIM,
    CLAIM_REPLY,
    END_REBUILD,
    FILL,
    FLUSH,
    LAYERS,
    PULL,
    READ,
    READ_LAYER,
    READ_REPLY,
    VERSIONS,
    WRITE,
    ZERO,
    Peer,
    claim,
    crcs,
    frame,
    header,
)
from yuntai import _native
from yuntai.pangu import wire
from yuntai.pangu.tokens import Signer

BLOCKS = os.urandom(BLOCK)
CHANGES = [WRITE, ZERO, FILL, FLUSH, LAYERS, BEGIN_REBUILD, PULL, END_REBUILD]
READS = [READ, READ_LAYER, VERSIONS]
BODIES = {LAYERS: {"parents": [0, 0]}, VERSIONS: {"volume": 1}}


async def written(storage: Storage) -> tuple[Volume, str]:
    volume = storage.create(64 * MIB)
    uri = await storage.open(volume)
    await qemu_io(uri, "write -P 7 0 1M", "flush")
    return volume, uri


async def evil(storage: Storage) -> Peer:
    return await Peer.proved(storage.ports[1], storage.secret)


def fields(volume: Volume, kind: int, generation: int) -> dict[str, int]:
    one = {"volume": volume.number, "generation": generation, "layer": 1, "blocks": 1, "sequence": 1000}
    return one if kind not in (FLUSH, LAYERS) else {"volume": volume.number, "generation": generation}


def payload(kind: int) -> tuple[object, bytes]:
    if kind == WRITE:
        return crcs(BLOCKS), BLOCKS
    if kind == FILL:
        return b"\x02" + crcs(BLOCKS), BLOCKS
    if kind == PULL:
        return {"source": "127.0.0.1:1", "token": "", "min_sequence": 0, "bytes_per_s_max": 0}, b""
    return BODIES.get(kind, b""), b""


async def test_without_a_token_nothing_is_served(storage: Storage) -> None:
    volume, uri = await written(storage)
    peer = await evil(storage)
    for kind in CHANGES + READS:
        body, data = payload(kind)
        words = await peer.refused(kind, body, data, **fields(volume, kind, volume.generation))
        assert "claim the volume on this connection first" in words
    await qemu_io(uri, "read -P 7 0 1M")


async def test_tokens_that_are_not_right(storage: Storage) -> None:
    volume, uri = await written(storage)
    other = storage.create(64 * MIB)
    good = storage.token(volume, volume.generation)
    text, _, mac = good.rpartition(".")
    expired = _native.sign_token(storage.token_secret, volume.number, 99, int(time.time()) - 1)
    forged = _native.sign_token(storage.secret, volume.number, 99, int(time.time()) + 3600)
    read = storage.token(volume, 0)
    raised = text.replace('"generation":1', '"generation":99') + "." + mac
    promoted = read.replace('"read"', '"write"')
    assert raised != good
    assert promoted != read
    wrong = {
        "": "malformed",
        ".": "malformed",
        "é.é": "malformed",
        text: "malformed",
        f"{text}.{mac[:-2]}": "malformed",
        f"{text}.{'0' * 64}": "malformed",
        raised: "malformed",
        promoted: "malformed",
        forged: "malformed",
        expired: "expired",
        storage.token(other, 1): "another volume",
        _native.sign_token(storage.token_secret, 0, 5, 2**62): "another volume",
    }
    peer = await evil(storage)
    for token, why in wrong.items():
        assert why in await peer.refused(CLAIM, claim(token), volume=volume.number), token
        assert "first" in await peer.refused(FLUSH, volume=volume.number)
    for parents in ((1,), (0, 1), (0, 0, 5), ()):
        assert "parents" in await peer.refused(CLAIM, claim(read, parents=parents), volume=volume.number)
    # A gateway, too, opens nothing on a token that no chunk server takes.
    gateway = await wire.connect(f"127.0.0.1:{storage.gateway_port}", storage.secret, "operator")
    with pytest.raises(wire.WireError):
        await gateway.call(storage.open_request(other, generation=3, token=forged), 3.0)
    await gateway.close()
    await qemu_io(uri, "write -P 8 0 64k", "read -P 8 0 64k")


def short_lived(storage: Storage, volume: Volume, generation: int, seconds: int) -> str:
    return _native.sign_token(storage.token_secret, volume.number, generation, int(time.time()) + seconds)


async def test_a_token_ends_for_who_came_with_it_in_time_too(storage: Storage) -> None:
    """Else a host that was broken into would keep its connections, and with them what it may, for ever."""
    volume, uri = await written(storage)
    reader = await evil(storage)
    token = short_lived(storage, volume, 0, 2)
    assert (await reader.ask(CLAIM, claim(token), volume=volume.number)).kind == CLAIM_REPLY
    assert (await reader.ask(READ, volume=volume.number, layer=1, blocks=1)).kind == READ_REPLY
    theirs = storage.create(64 * MIB)
    writer = await evil(storage)
    token = short_lived(storage, theirs, 1, 2)
    assert (await writer.ask(CLAIM, claim(token), volume=theirs.number)).kind == CLAIM_REPLY
    await asyncio.sleep(5)
    assert "expired" in await reader.refused(READ, volume=volume.number, layer=1, blocks=1)
    for kind in CHANGES:
        body, data = payload(kind)
        assert "expired" in await writer.refused(kind, body, data, **fields(theirs, kind, 1))
    # With a newer one they go on, on the same connection.
    assert (await reader.ask(CLAIM, claim(storage.token(volume, 0)), volume=volume.number)).kind == CLAIM_REPLY
    assert (await reader.ask(READ, volume=volume.number, layer=1, blocks=1)).kind == READ_REPLY
    await qemu_io(uri, "read -P 7 0 1M", "write -P 8 0 64k")


async def test_a_guest_does_not_notice_that_tokens_are_renewed(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    generation = volume.generation + 1
    uri = await storage.open(volume, token=short_lived(storage, volume, generation, 3))
    await qemu_io(uri, "write -P 7 0 1M", "flush")
    await storage.channel.call(storage.open_request(volume))  # as the master does, every day
    await asyncio.sleep(6)
    began = time.monotonic()
    await qemu_io(uri, "read -P 7 0 64k", "write -P 8 0 64k", "flush", "read -P 8 0 64k")
    took_s = time.monotonic() - began
    print(f"across the end of a token that was renewed: {1000 * took_s:.0f} ms")
    assert took_s < 15


async def test_a_gateway_whose_tokens_were_not_renewed_waits_for_newer_ones(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    generation = volume.generation + 1
    uri = await storage.open(volume, token=short_lived(storage, volume, generation, 2))
    await qemu_io(uri, "write -P 7 0 1M", "flush")
    await asyncio.sleep(5)
    reading = asyncio.create_task(qemu_io(uri, "read -P 7 0 64k"))
    await asyncio.sleep(3)
    assert not reading.done(), "no error, and nothing that it may not read any more"
    await storage.channel.call(storage.open_request(volume))
    await reading
    await qemu_io(uri, "write -P 8 0 64k", "flush", "read -P 8 0 64k")


async def test_a_read_token_does_not_write(storage: Storage) -> None:
    volume, uri = await written(storage)
    peer = await evil(storage)
    answer = await peer.ask(CLAIM, claim(storage.token(volume, 0)), volume=volume.number)
    assert answer.kind == CLAIM_REPLY
    answer = await peer.ask(READ, volume=volume.number, layer=1, blocks=1)
    assert (answer.kind, answer.data) == (READ_REPLY, b"\x07" * BLOCK)
    for kind in CHANGES:
        body, data = payload(kind)
        for generation in (0, volume.generation, volume.generation + 1):
            assert "for reading only" in await peer.refused(kind, body, data, **fields(volume, kind, generation))
    # For one volume only.
    assert "first" in await peer.refused(READ, volume=volume.number + 2, layer=1, blocks=1)
    await qemu_io(uri, "read -P 7 0 1M", "write -P 8 0 64k")


async def test_who_was_fenced_stays_out(storage: Storage) -> None:
    """The token of yesterday's writer is still signed and not expired; the fence is what refuses it."""
    volume, _ = await written(storage)
    old = storage.token(volume, volume.generation)
    uri = await storage.open(volume)
    peer = await evil(storage)
    assert "fenced" in (await peer.refused(CLAIM, claim(old), volume=volume.number)).lower()
    # Of the present generation, but another session: two writers of one generation cannot be.
    now = storage.token(volume, volume.generation)
    assert "fenced" in (await peer.refused(CLAIM, claim(now, session=1), volume=volume.number)).lower()
    await qemu_io(uri, "write -P 9 0 64k", "flush", "read -P 9 0 64k")
    # With the right claim, a frame of another generation is refused all the same.
    theirs = storage.create(64 * MIB)
    assert (await peer.ask(CLAIM, claim(storage.token(theirs, 5)), volume=theirs.number)).kind == CLAIM_REPLY
    for generation in (0, 4, 6, 2**63):
        words = await peer.refused(WRITE, crcs(BLOCKS), BLOCKS, **fields(theirs, WRITE, generation))
        assert "fenced" in words.lower()


async def test_a_deleted_volume_is_gone_for_every_token(storage: Storage) -> None:
    volume, _ = await written(storage)
    reader = await evil(storage)
    read = storage.token(volume, 0)
    assert (await reader.ask(CLAIM, claim(read), volume=volume.number)).kind == CLAIM_REPLY
    await storage.close(volume)
    master = await wire.connect(f"127.0.0.1:{storage.ports[1]}", storage.secret, "master:test")
    run = (await master.call({"op": "status"}))["run"]
    order = Signer(storage.token_secret).order(1, run, 1, {"op": "delete_volume", "volume": volume.number})
    assert await master.call({"op": "order", "order": order}) is True
    await master.close()
    assert "deleted" in await reader.refused(READ, volume=volume.number, layer=1, blocks=1)
    assert "deleted" in await reader.refused(CLAIM, claim(read), volume=volume.number)
    words = await reader.refused(CLAIM, claim(storage.token(volume, 99)), volume=volume.number)
    assert "fenced" in words.lower()


async def test_a_writer_cannot_harm_more_than_its_volume(storage: Storage) -> None:
    """With a right claim: numbers that make no sense are refused one by one, and the server lives."""
    theirs = storage.create(64 * MIB)
    token = storage.token(theirs, 1)
    one = {"volume": theirs.number, "generation": 1, "layer": 1, "sequence": 1, "blocks": 1}
    nonsense = [
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "layer": 2}),
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "layer": 2**32 - 1}),
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "block": 16_384}),
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "block": 65_535, "blocks": 65_535}),
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "blocks": 0}),
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "blocks": 2}),
        (WRITE, b"", BLOCKS, one),
        (WRITE, crcs(BLOCKS), BLOCKS[:-1], one),
        (WRITE, b"\0\0\0\0", BLOCKS, one),
        (WRITE, crcs(BLOCKS) * 2, BLOCKS, one),
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "sequence": 0}),
        (WRITE, crcs(BLOCKS), BLOCKS, {**one, "sequence": 2**64 - 1}),
        (ZERO, b"", b"", {**one, "block": 16_000, "blocks": 1000}),
        (FILL, b"\x07" + crcs(BLOCKS), BLOCKS, one),
        (FILL, b"\x02" + crcs(BLOCKS), b"", one),
        (READ, b"", b"", {**one, "blocks": 1025}),
        (READ, b"", b"", {**one, "blocks": 65_535, "block": 65_535}),
        (READ, b"", b"", {**one, "layer": 77}),
        (READ, b"", b"", {**one, "flags": 2, "block": 65_535, "blocks": 65_535}),
        (READ_LAYER, b"", b"", {**one, "block": 65_535, "blocks": 1024}),
        (LAYERS, {"parents": [0, 1]}, b"", one),
        (LAYERS, {"parents": []}, b"", one),
        (LAYERS, b"\xff", b"", one),
        (PULL, b"{}", b"", one),
        (CLAIM, b"[" * 100_000, b"", one),
    ]
    async with going_on(storage):
        with unharmed(storage):
            peer = await evil(storage)
            assert (await peer.ask(CLAIM, claim(token), volume=theirs.number)).kind == CLAIM_REPLY
            for kind, body, data, numbers in nonsense:
                answer = await peer.ask(kind, body, data, **numbers)
                if kind in (READ, READ_LAYER) and answer.kind == READ_REPLY:
                    assert not answer.data, (numbers, "there is nothing to read")
                else:
                    assert answer.kind == wire.ERROR, (kind, numbers, answer)
            assert (await peer.ask(WRITE, crcs(BLOCKS), BLOCKS, **one)).kind == ACK


async def test_frames_that_cannot_be_followed_end_the_connection(storage: Storage) -> None:
    hopeless = [
        header(WRITE, data_len=(4 << 20) + 1),
        header(WRITE, data_len=2**32 - 1),
        header(wire.CONTROL, body_len=(8 << 20) + 1),
        header(wire.CONTROL, body_len=2**32 - 1, data_len=2**32 - 1),
        header(WRITE, magic=b"YTF2"),
        header(WRITE, version=0),
        header(WRITE, crc=0),
        header(255),
        frame(wire.CHALLENGE, {"nonce": "0" * 64}),
        frame(wire.AUTH_OK, {"mac": "0" * 64, "server": "x", "version": "x"}),
    ]
    async with going_on(storage):
        with unharmed(storage):
            for port in (storage.ports[1], storage.gateway_port):
                for data in hopeless:
                    peer = await Peer.proved(port, storage.secret)
                    peer.raw(data)
                    await peer.cut_off()


async def test_flipped_bits_on_the_way_are_noticed(storage: Storage) -> None:
    """Any one bit of a write: refused or cut off, never taken for another write."""
    theirs = storage.create(64 * MIB)
    token = storage.token(theirs, 1)
    good = frame(WRITE, crcs(BLOCKS), BLOCKS, volume=theirs.number, generation=1, layer=1, sequence=1, blocks=1)
    places = [*range(64 * 8), 64 * 8 + 5, 68 * 8, 68 * 8 + 4095 * 8 + 7, 69 * 100]
    peer: Peer | None = None
    with unharmed(storage):
        for bit in places:
            if peer is None:
                peer = await evil(storage)
                assert (await peer.ask(CLAIM, claim(token), volume=theirs.number)).kind == CLAIM_REPLY
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            peer.raw(bytes(bad))
            if bit < 64 * 8:
                rest = await peer.cut_off()
                kinds = [rest[at + 5] for at in range(len(rest)) if rest[at : at + 4] == b"YTF1"]
                assert ACK not in kinds
                peer = None
            else:
                assert (await peer.answer()).kind == wire.ERROR
        if peer is None:
            peer = await evil(storage)
            assert (await peer.ask(CLAIM, claim(token), volume=theirs.number)).kind == CLAIM_REPLY
        peer.raw(good)
        assert (await peer.answer()).kind == ACK, "nothing of all that was written"
