"""Peers that do not know the cluster's secret get nowhere, whatever they send, and cost nothing that lasts."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.functional.storage import CHUNKSERVER, MIB, SERVERS, Storage, qemu_io
from tests.security.conftest import going_on, unharmed
from tests.security.hostile import CLAIM, Peer, claim, frame, header
from yuntai.pangu import wire

DELETE = {"op": "delete_volume", "volume": 1}


def ports(storage: Storage) -> list[int]:
    return [storage.ports[1], storage.gateway_port]


async def test_the_secret_is_needed(storage: Storage) -> None:
    async with going_on(storage):
        for port in ports(storage):
            with pytest.raises(wire.WireError, match=r"secret|lost"):
                await wire.connect(f"127.0.0.1:{port}", b"x" * 32, "master:evil")
            # The server's nonce answered with proofs of what a stranger may know.
            for mac in ("", "00" * 32, "zz" * 32, "é"):
                peer = await Peer.dial(port)
                nonce = (await peer.answer()).json()["nonce"]
                peer.frame(wire.AUTH, {"client": "master:evil", "nonce": nonce, "mac": mac})
                assert b'"mac"' not in await peer.cut_off()


async def test_nothing_is_heard_before_the_proof(storage: Storage) -> None:
    volume = storage.create(64 * MIB)
    await storage.open(volume)
    first = [
        frame(wire.CONTROL, DELETE),
        frame(wire.CONTROL, {"op": "status"}),
        frame(CLAIM, claim(storage.token(volume, 9)), volume=volume.number),
        frame(wire.EVENT_REPLY, {"answer": "fenced"}),
        frame(wire.AUTH, b"{"),
        frame(wire.AUTH, {"client": "x" * 129, "nonce": "0" * 64, "mac": "0" * 64}),
        frame(wire.AUTH, {"client": "x", "nonce": "0" * 63, "mac": "0" * 64}),
        header(wire.AUTH, body_len=4097),
        header(wire.AUTH, body_len=8 << 20),
        header(wire.AUTH, body_len=10, data_len=4096),
        header(wire.AUTH, version=2),
        header(wire.AUTH, magic=b"YTF0"),
        header(wire.AUTH, crc=1),
        header(250),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 64,
        b"\x16\x03\x01" + bytes(200),
        bytes(10_000),
    ]
    async with going_on(storage):
        with unharmed(storage):
            for port in ports(storage):
                for data in first:
                    peer = await Peer.dial(port)
                    peer.raw(data)
                    answer = await peer.cut_off(4.0)
                    kinds = [answer[at + 5] for at in range(len(answer)) if answer[at : at + 4] == b"YTF1"]
                    assert set(kinds) <= {wire.CHALLENGE, wire.ERROR}, (data, answer)
    assert (await storage.stats(volume))["generation"] == 1


async def test_the_silent_are_cut_off(storage: Storage) -> None:
    began = time.monotonic()
    silent = [await Peer.dial(port) for port in ports(storage)]
    slow = [await Peer.dial(port) for port in ports(storage)]

    async def drip(peer: Peer) -> None:
        """One byte at a time does not renew the limit."""
        try:
            for byte in frame(wire.AUTH, {"client": "slow", "nonce": "0" * 64, "mac": "0" * 64}):
                peer.raw(bytes([byte]))
                await peer.writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            return

    tasks = [asyncio.create_task(drip(peer)) for peer in slow]
    await asyncio.gather(*(peer.cut_off(60.0) for peer in silent + slow))
    assert 3 < time.monotonic() - began < 60
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_recorded_session_is_worth_nothing(storage: Storage) -> None:
    """The bytes of a real client, sent again: the nonce of the day is another one."""
    volume = storage.create(64 * MIB)
    uri = await storage.open(volume)
    await qemu_io(uri, "write -P 7 0 64k", "flush")
    await storage.close(volume)
    for port in ports(storage):
        peer = await Peer.proved(port, storage.secret, "master:m1")
        answer = await peer.ask(wire.CONTROL, {"op": "status"}, request_id=1)
        assert answer.kind == wire.CONTROL_REPLY
        peer.close()
        for cut in range(3):
            again = await Peer.dial(port)
            if cut:
                await again.answer()  # as polite as a client: after the challenge
            again.raw(bytes(peer.sent) * max(1, cut))
            rest = await again.cut_off()
            assert b'"mac"' not in rest
            assert b'"ok"' not in rest


async def test_a_server_without_the_secret_learns_no_token(storage: Storage) -> None:
    """A gateway that is led to an impostor tells it nothing, not even which volume it is about."""
    heard: list[bytes] = []

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(wire.CHALLENGE, {"nonce": "ab" * 32}))
        heard.append(await reader.read(4096))
        writer.write(frame(wire.AUTH_OK, {"mac": "00" * 32, "server": "cs:1", "version": "1"}))
        heard.append(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(impostor, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        volume = storage.create(64 * MIB)
        servers = {**storage.addresses(), "1": f"127.0.0.1:{port}"}
        uri = await storage.open(volume, servers=servers)
        await qemu_io(uri, "write -P 7 0 64k", "read -P 7 0 64k")
        assert volume.stale == {1}, "the impostor is no replica"
        assert heard
        assert b"token" not in b"".join(heard)
        assert all(part == b"" for part in heard[1::2])


async def test_only_loopback_and_only_the_owner(storage: Storage) -> None:
    """By default nothing listens where a network could reach it, and sockets and secrets are for their owner alone."""
    volume = storage.create(64 * MIB)
    await storage.open(volume)
    listening = await asyncio.to_thread(subprocess.check_output, ["ss", "-Htlnp"], text=True)
    mine = {str(process.pid) for process in storage.processes.values()}
    seen = 0
    for line in listening.splitlines():
        found = re.search(r"pid=(\d+)", line)
        if found and found[1] in mine:
            seen += 1
            assert line.split()[3].startswith("127.0.0.1:"), line
    assert seen == len(SERVERS) + 1
    socket = storage.folder / "nbd" / f"{volume.export}.sock"
    assert socket.stat().st_mode & 0o777 == 0o600
    for folder in (storage.folder / f"chunks-{number}" for number in SERVERS):
        loose = [path for path in [folder, *folder.rglob("*")] if path.stat().st_mode & 0o077]
        assert not loose, loose[:3]


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]"])
def test_a_chunk_server_will_not_listen_everywhere(tmp_path: Path, address: str) -> None:
    for name in ("cluster", "token"):
        (tmp_path / name).write_text("00" * 32)
    config = {
        "server": 1,
        "path": str(tmp_path / "chunks"),
        "listen": f"{address}:7199",
        "cluster_secret_file": str(tmp_path / "cluster"),
        "token_secret_file": str(tmp_path / "token"),
    }
    (tmp_path / "cs.json").write_text(json.dumps(config))
    done = subprocess.run([CHUNKSERVER, tmp_path / "cs.json"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "would listen on every address" in done.stderr
