"""Certificates of a cluster's own authority let its hosts in, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from yuntai.config import Tls
from yuntai.tls import NAME, client_context, issue, make_authority, server_context


def files(folder: Path, host: str) -> Tls:
    make_authority(folder)
    cert, key = issue(folder, host)
    assert key.stat().st_mode & 0o777 == 0o600
    return Tls(cert=str(cert), key=str(key), ca=str(folder / "ca.pem"))


async def talk(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=NAME)
        writer.write(b"hello")
        try:
            return await reader.read(100)
        finally:
            writer.close()


async def test_hosts_of_one_cluster_talk(tmp_path: Path) -> None:
    one, two = files(tmp_path / "ca", "h1"), files(tmp_path / "ca", "h2")
    assert await talk(server_context(one), client_context(two)) == b"hello"
    assert (tmp_path / "ca" / "ca-key.pem").stat().st_mode & 0o777 == 0o600


async def test_others_do_not(tmp_path: Path) -> None:
    ours, theirs = files(tmp_path / "ours", "h1"), files(tmp_path / "theirs", "h1")
    with pytest.raises(ssl.SSLError):
        await talk(server_context(theirs), client_context(ours))
    mixed = Tls(cert=theirs.cert, key=theirs.key, ca=ours.ca)
    nobody = ssl.create_default_context(cafile=ours.ca)
    for client in (client_context(mixed), nobody):
        # In TLS 1.3 a client has said its first words before it learns that it was refused; nobody hears them.
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert await talk(server_context(ours), client) == b""
