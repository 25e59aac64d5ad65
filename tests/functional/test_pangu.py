"""The block store as a whole, with its real programs, while they are killed."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.functional.pangu_cluster import (
    CHUNKSERVER,
    GATEWAY,
    GIB,
    MIB,
    PanguCluster,
    disk_bytes,
    eventually,
    qemu_io,
)
from yuntai.image.library import export_image, import_image
from yuntai.model.cluster import VolumeSource
from yuntai.model.compute import Image
from yuntai.pangu.client import PanguClient
from yuntai.pangu.errors import Conflict, InUse, NotFound
from yuntai.state import EtcdStore

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]


async def test_a_volume_lives_and_its_space_comes_back(cluster: PanguCluster) -> None:
    client = cluster.client
    empty = disk_bytes(cluster.folder / "chunks")
    volume = await client.create_volume(2 * GIB)
    uri = await client.connect(volume.id, "h1")
    # More than the journals hold, so that it must be in the chunk files.
    await qemu_io(uri, *(f"write -P 0xab {at}M 32M" for at in range(0, 192, 32)), "write -P 0xcd 1G 4M", "flush")
    await qemu_io(
        uri,
        "read -P 0xab 0 32M",
        "read -P 0xab 160M 32M",
        "read -P 0xcd 1G 4M",
        "read -P 0 512M 4M",
        "read -P 0 2047M 1M",
    )
    assert (await client.stats(volume.id))["generation"] == 1
    with pytest.raises(Conflict, match="detach it first"):
        await client.delete_volume(volume.id)
    await client.detach(volume.id, "h1")
    assert disk_bytes(cluster.folder / "chunks") > empty + 3 * 100 * MIB
    await _have_replicas(client, 4)
    # Attached again, everything is there.
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "read -P 0xab 0 32M", "read -P 0xcd 1G 4M", read_only=True)
    await client.detach(volume.id, "h1")
    await client.delete_volume(volume.id)

    async def gone() -> bool:
        try:
            await client.volume(volume.id)
        except NotFound:
            return disk_bytes(cluster.folder / "chunks") < empty + 60 * MIB
        return False

    await eventually(gone, "the deleted volume's record and space are gone")
    await _have_replicas(client, 0)


async def _have_replicas(client: PanguClient, count: int) -> None:
    """Wait until the master, which asks each chunk server now and then, knows of so many replicas on each."""

    async def known() -> bool:
        return [server.replicas for server in await client.chunkservers()] == [count] * 3

    await eventually(known, f"each chunk server has {count} replicas")


async def test_writes_go_on_without_a_server_which_is_readmitted(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 0 8M", "flush")
    cluster.kill("cs-2")
    took_s = await qemu_io(uri, "write -P 2 4M 8M", "flush", "read -P 1 0 4M", "read -P 2 4M 8M")
    print(f"write across the loss of a server: {took_s:.2f} s")
    assert took_s < 15
    assert set((await client.volume(volume.id)).stale) == {"2"}
    cluster.start_chunkserver(2)

    async def whole() -> bool:
        return not (await client.volume(volume.id)).stale

    began = time.monotonic()
    await eventually(whole, "cs-2 is readmitted")
    print(f"readmitted {time.monotonic() - began:.1f} s after its start")
    # Now it counts: with another one gone, what it missed must come from it.
    cluster.kill("cs-1")
    await qemu_io(uri, "read -P 1 0 4M", "read -P 2 4M 8M", "write -P 3 0 1M", "flush")
    assert set((await client.volume(volume.id)).stale) == {"1"}


async def test_a_hung_server_is_left_behind(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 0 1M")
    cluster.processes["cs-3"].send_signal(signal.SIGSTOP)
    took_s = await qemu_io(uri, "write -P 2 0 1M", "flush", "read -P 2 0 1M")
    print(f"write across a hung server: {took_s:.2f} s")
    assert took_s < 15
    cluster.processes["cs-3"].send_signal(signal.SIGCONT)

    async def whole() -> bool:
        return not (await client.volume(volume.id)).stale

    await eventually(whole, "cs-3 is readmitted")


async def test_two_servers_lost_stalls_and_never_fails(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 0 1M", "flush")
    cluster.kill("cs-1")
    cluster.kill("cs-2")
    writing = asyncio.create_task(qemu_io(uri, "write -P 2 0 1M", "flush", "read -P 2 0 1M", within_s=60))
    await asyncio.sleep(4)
    assert not writing.done(), "with one replica left a write must wait"
    assert len((await client.volume(volume.id)).stale) <= 1
    cluster.start_chunkserver(1)
    await writing


async def test_snapshot_clone_and_lazy_read(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 0 8M", "write -P 1 200M 1M")
    began = time.monotonic()
    node = await client.snapshot(volume.id, "s")
    print(f"snapshot: {1000 * (time.monotonic() - began):.0f} ms")
    assert await client.snapshot(volume.id, "s") == node
    await qemu_io(uri, "write -P 2 4M 8M", "read -P 1 0 4M", "read -P 2 4M 8M")

    began = time.monotonic()
    clone = await client.create_volume(GIB, source=VolumeSource(volume=volume.id, node=node))
    clone_uri = await client.connect(clone.id, "h1")
    print(f"clone and attach: {1000 * (time.monotonic() - began):.0f} ms")
    await qemu_io(clone_uri, "read -P 1 0 8M", "read -P 0 8M 4M", "read -P 1 200M 1M")
    await qemu_io(clone_uri, "write -P 3 2M 1M", "read -P 1 0 2M", "read -P 3 2M 1M", "read -P 1 3M 5M")
    await qemu_io(uri, "read -P 1 2M 1M")
    with pytest.raises((InUse, Conflict)):
        await client.delete_volume(volume.id)

    async def hydrated() -> bool:
        return bool((await client.show_volume(clone.id))["hydrated"])

    await eventually(hydrated, "the clone is hydrated")
    await client.detach(volume.id, "h1")
    await client.delete_volume(volume.id)
    await asyncio.sleep(1)
    await qemu_io(clone_uri, "read -P 1 0 2M", "read -P 3 2M 1M", "read -P 1 3M 5M", "read -P 1 200M 1M")


async def test_standby_takes_over(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 0 1M")
    leader = await cluster.leading()
    cluster.kill(f"master-{leader}")
    began = time.monotonic()
    await qemu_io(uri, "write -P 2 0 1M", "read -P 2 0 1M")
    assert await client.snapshot(volume.id, "s") == 1
    print(f"the standby took a snapshot {time.monotonic() - began:.1f} s after the leader was killed")
    assert time.monotonic() - began < 40
    assert (await client.volume(volume.id)).generation == 1
    cluster.kill("cs-1")
    await qemu_io(uri, "write -P 3 0 1M", "read -P 3 0 1M")
    assert set((await client.volume(volume.id)).stale) == {"1"}


async def test_io_goes_on_with_no_master_until_one_is_needed(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    uri = await client.connect(volume.id, "h1")
    cluster.kill("master-h1")
    cluster.kill("master-h2")
    await qemu_io(uri, "write -P 1 0 8M", "flush", "read -P 1 0 8M")
    cluster.kill("cs-3")
    writing = asyncio.create_task(qemu_io(uri, "write -P 2 0 1M", "read -P 2 0 1M", within_s=60))
    await asyncio.sleep(3)
    assert not writing.done(), "a write that missed a server waits until a master has degraded it"
    cluster.start_master("h2")
    await writing


async def test_killed_gateway_serves_again(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 0 8M", "flush")
    cluster.kill("gateway")
    cluster.start_gateway()
    began = time.monotonic()

    async def readable() -> bool:
        return bool(await qemu_io(uri, "read -P 1 0 8M", within_s=10))

    await eventually(readable, "the volume is served again at the same socket")
    print(f"served again {time.monotonic() - began:.1f} s after the gateway's start")
    attached = await client.attach(volume.id, "h1")
    assert attached.generation == 2
    assert attached.uri == uri
    await qemu_io(uri, "write -P 2 0 8M", "flush", "read -P 2 0 8M")


async def test_resize_while_attached(cluster: PanguCluster) -> None:
    client = cluster.client
    volume = await client.create_volume(64 * MIB)
    uri = await client.connect(volume.id, "h1")
    await qemu_io(uri, "write -P 1 60M 4M")
    await client.resize(volume.id, GIB)
    await qemu_io(uri, "read -P 1 60M 4M", "write -P 2 1000M 4M", "read -P 2 1000M 4M", "read -P 0 500M 1M")


async def test_image_in_and_out(cluster: PanguCluster, tmp_path: Path) -> None:
    """A qcow2 file becomes an image, a clone of it reads lazily, and the image is exported again."""
    source = tmp_path / "in.qcow2"
    await _run("qemu-img", "create", "-q", "-f", "qcow2", str(source), "256M")
    await _run("qemu-io", "-f", "qcow2", "-c", "write -P 7 3M 9M", "-c", "write -P 8 200M 1M", str(source))
    async with EtcdStore(cluster.config.etcd) as store:
        image = await import_image(store, cluster.client, source, "test", host="h1")
        assert (await store.need(Image, image.id)).value.status == "Available"
    clone = await cluster.client.create_volume(GIB, source=VolumeSource(volume=image.volume, node=image.node))
    uri = await cluster.client.connect(clone.id, "h1")
    await qemu_io(uri, "read -P 7 3M 9M", "read -P 8 200M 1M", "read -P 0 0 3M", "read -P 0 256M 4M")
    out = tmp_path / "out.qcow2"
    await export_image(cluster.client, image.volume, image.node, out, host="h1")
    assert out.stat().st_size < 32 * MIB
    await _run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 3M 9M", "-c", "read -P 8 200M 1M", str(out))


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    assert process.returncode == 0, out
