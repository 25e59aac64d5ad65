"""The control channel against its own server side, and against golden bytes of the Rust side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from yuntai import _native
from yuntai.pangu import wire

SECRET = b"s" * 32


async def _echo(request: dict[str, Any]) -> Any:
    if request["op"] == "no":
        raise wire.Refused("volume 7 is not open here")
    if request["op"] == "slow":
        await asyncio.sleep(5)
    return request


async def _server(secret: bytes = SECRET) -> tuple[asyncio.Server, str]:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.serve_controls(reader, writer, secret, "gateway:t", _echo)

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_question_is_answered() -> None:
    server, address = await _server()
    async with server:
        channel = await wire.connect(address, SECRET, "master:t")
        assert channel.peer["server"] == "gateway:t"
        assert await channel.call({"op": "status"}) == {"op": "status"}
        with pytest.raises(wire.Refused, match="volume 7 is not open here"):
            await channel.call({"op": "no"})
        with pytest.raises(wire.WireError, match=r"did not answer slow within 0\.05 s"):
            await channel.call({"op": "slow"}, timeout_s=0.05)
        await channel.close()
        with pytest.raises(wire.WireError):
            await channel.call({"op": "status"})


async def test_another_secret_is_refused_on_both_sides() -> None:
    server, address = await _server(secret=b"t" * 32)
    async with server:
        with pytest.raises(wire.WireError):
            await wire.connect(address, SECRET, "master:t")


async def test_a_dead_port_says_where() -> None:
    with pytest.raises(wire.WireError, match=r"cannot reach 127\.0\.0\.1:1"):
        await wire.connect("127.0.0.1:1", SECRET, "master:t")


def test_golden_header() -> None:
    """Version 1 of the header, byte for byte: what an older peer sends must still be read."""
    golden = bytes.fromhex(
        "59544631 01 14 0100 04000000 00100000 0700000000000000 0200000000000000 0300000000000000"
        " 0400000000000000 05000000 06000000 0800 0100"
    )
    fields = (20, 1, 4, 4096, 7, 2, 3, 4, 5, 6, 8, 1)
    encoded = _native.encode_header(fields)
    assert encoded[:60] == golden
    assert _native.crc32c(golden) == int.from_bytes(encoded[60:], "little")
    assert _native.decode_header(encoded) == fields


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda raw: b"X" + raw[1:], "magic"),
        (lambda raw: raw[:4] + b"\x02" + raw[5:], "version 2"),
        (lambda raw: raw[:30] + b"\xff" + raw[31:], "checksum"),
        (lambda raw: raw[:-1], "64 bytes"),
    ],
)
def test_a_spoilt_header_is_refused(spoil: Any, says: str) -> None:
    raw = _native.encode_header((20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0))
    with pytest.raises(ValueError, match=says):
        _native.decode_header(spoil(raw))
