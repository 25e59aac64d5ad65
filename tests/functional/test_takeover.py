"""A volume whose guest moves: real gateways and masters, with qemu-io in place of QEMU's two ends."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.functional.pangu_cluster import CHUNKSERVER, GATEWAY, GIB, PanguCluster, eventually, qemu_io
from yuntai.model.cluster import Volume
from yuntai.pangu import handing
from yuntai.pangu.errors import Conflict
from yuntai.pangu.requests import Attached

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]


async def moving(cluster: PanguCluster) -> tuple[Volume, str, Attached]:
    """Return a volume written at h1, its address there, and the place that h2 keeps for it."""
    await cluster.add_gateway()
    volume = await cluster.client.create_volume(GIB)
    source = await cluster.client.connect(volume.id, "h1")
    await qemu_io(source, "write -P 1 0 8M")
    return volume, source, await handing.announce(cluster.client, volume.id, "h2", "j-1")


async def connected(place: Attached) -> asyncio.subprocess.Process:
    """Return a client that is through the negotiation and asks nothing, until it is told on its standard input."""
    client = await asyncio.create_subprocess_exec(
        *("qemu-io", "-f", "raw", place.uri),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert client.stdin is not None
    # It answers this from what it was told when it connected.
    client.stdin.write(b"length\n")
    await client.stdin.drain()
    assert client.stdout is not None
    assert "1 GiB" in (await asyncio.wait_for(client.stdout.readline(), 20)).decode()
    return client


async def test_the_first_request_at_the_destination_takes_the_volume(cluster: PanguCluster) -> None:
    volume, source, place = await moving(cluster)
    assert place.generation == 0
    client = await connected(place)
    # The source writes on while the destination is connected and has even flushed.
    assert client.stdin is not None
    client.stdin.write(b"flush\n")
    await client.stdin.drain()
    await qemu_io(source, "write -P 2 1M 1M", "flush")
    before = await cluster.client.volume(volume.id)
    assert (before.host, before.handover_to) == ("h1", "h2")

    said, _ = await asyncio.wait_for(
        client.communicate(b"read -P 1 0 1M\nread -P 2 1M 1M\nwrite -P 3 0 4k\nflush\nq\n"), 30
    )
    assert client.returncode == 0, said
    assert b"failed" not in said, said
    after = await cluster.client.volume(volume.id)
    assert (after.host, after.handover_to, after.generation) == ("h2", "", before.generation + 1)
    with pytest.raises(AssertionError):
        await qemu_io(source, "write -P 9 0 4k", within_s=3)
    await qemu_io(place.uri, "read -P 3 0 4k", "read -P 2 1M 1M")
    assert await handing.call_off(cluster.client, [volume.id], "h2", "j-1"), "too late: h2 has it"


async def test_a_migration_that_was_called_off_leaves_nothing(cluster: PanguCluster) -> None:
    volume, source, place = await moving(cluster)
    client = await connected(place)
    assert not await handing.call_off(cluster.client, [volume.id], "h2", "j-1")
    await eventually(lambda: _is_gone(place), "the destination's socket is gone")
    client.kill()
    await client.wait()
    with pytest.raises(Conflict):
        await handing.take(cluster.client, volume.id, "h2", "j-1")
    await qemu_io(source, "read -P 1 0 8M", "write -P 4 0 1M", "flush")
    after = await cluster.client.volume(volume.id)
    assert (after.host, after.handover_to, after.handover_ticket) == ("h1", "", "")


async def test_who_asks_too_late_is_turned_away(cluster: PanguCluster) -> None:
    """The migration is called off while the destination's gateway cannot be told."""
    volume, source, place = await moving(cluster)
    client = await connected(place)
    cluster.processes["gateway-h2"].send_signal(signal.SIGSTOP)
    too_late = await handing.call_off(cluster.client, [volume.id], "h2", "j-1")
    cluster.processes["gateway-h2"].send_signal(signal.SIGCONT)
    assert not too_late
    assert client.stdin is not None
    client.stdin.write(b"write -P 9 0 1M\n")
    await eventually(lambda: _is_gone(place), "the destination's place is ended")
    client.kill()
    await client.wait()
    await qemu_io(source, "read -P 1 0 8M")
    assert (await cluster.client.volume(volume.id)).host == "h1"


async def test_places_outlive_a_killed_gateway_and_master(cluster: PanguCluster) -> None:
    volume, _, place = await moving(cluster)
    cluster.kill("gateway-h2")
    cluster.kill(f"master-{await cluster.leading()}")
    await cluster.add_gateway()
    await eventually(lambda: _is_there(place), "the new gateway keeps the place, told by the new master")
    await qemu_io(place.uri, "read -P 1 0 8M", "write -P 5 0 1M", "flush")
    assert (await cluster.client.volume(volume.id)).host == "h2"


def _socket(place: Attached) -> Path:
    return Path(place.socket)


async def _is_gone(place: Attached) -> bool:
    return not _socket(place).exists()


async def _is_there(place: Attached) -> bool:
    return _socket(place).exists()
