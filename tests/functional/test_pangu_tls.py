"""A block store whose hosts have certificates: real masters, chunk servers and gateways, and peers that have none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from tests.functional.pangu_cluster import CHUNKSERVER, GATEWAY, GIB, PanguCluster, eventually, qemu_io
from yuntai.config import Tls
from yuntai.model.cluster import VolumeSource
from yuntai.pangu import wire
from yuntai.pangu.client import PanguClient
from yuntai.pangu.errors import Unavailable
from yuntai.tls import client_context, issue, make_authority

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sealed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PanguCluster]:
    made = PanguCluster(tmp_path_factory.mktemp("sealed"), certified=True)
    try:
        await made.start()
        yield made
    finally:
        print(made.logs(40))
        await made.stop()


async def in_sync(cluster: PanguCluster, volume: str) -> None:
    async def whole() -> bool:
        return not (await cluster.client.volume(volume)).stale

    await eventually(whole, "every replica counts")


@pytest.mark.asyncio(loop_scope="module")
async def test_everything_goes_on_between_hosts_with_certificates(sealed: PanguCluster) -> None:
    """Writes, a snapshot, a clone on another host that loads lazily, a repair between servers, a change of masters."""
    client = sealed.client
    disk = await client.create_volume(GIB)
    uri = await client.connect(disk.id, "h1")
    await qemu_io(uri, "write -P 7 0 4M", "flush")
    node = await client.snapshot(disk.id, "s")
    await sealed.add_gateway()
    clone = await client.create_volume(GIB, source=VolumeSource(volume=disk.id, node=node))
    there = await client.connect(clone.id, "h2")
    await qemu_io(there, "read -P 7 0 4M", "write -P 8 1M 1M", "flush")
    sealed.kill("cs-2")
    await qemu_io(uri, "write -P 9 8M 8M", "flush", within_s=60)
    sealed.kill(f"master-{await sealed.leading()}")
    sealed.start_chunkserver(2)
    await in_sync(sealed, disk.id)
    sealed.kill("cs-1")
    await qemu_io(uri, "read -P 9 8M 8M", "read -P 7 0 4M", within_s=60)
    sealed.start_chunkserver(1)
    for host in ("h1", "h2"):
        if f"master-{host}" not in sealed.processes:
            sealed.start_master(host)
    await in_sync(sealed, disk.id)


@pytest.mark.asyncio(loop_scope="module")
async def test_peers_without_the_clusters_certificate_are_refused(sealed: PanguCluster, tmp_path: Path) -> None:
    make_authority(tmp_path)
    cert, key = issue(tmp_path, "h1")
    strange = client_context(Tls(cert=str(cert), key=str(key), ca=str(sealed.folder / "authority" / "ca.pem")))
    secret = sealed.config.secret("cluster")
    for port in (sealed.config.gateway_port, *(server.port for server in sealed.config.chunkservers)):
        for context in (None, strange):
            with pytest.raises(wire.WireError):
                await wire.connect(f"127.0.0.1:{port}", secret, "master:h1", context=context)
    for scheme, other in (("http", None), ("https", strange)):
        url = f"{scheme}://127.0.0.1:{sealed.config.master_port}"
        async with PanguClient([url], secret, retry_for_s=0.0, context=other) as plain:
            with pytest.raises(Unavailable):
                await plain.volumes()
    async with sealed.talking_to(sealed.config, retry_for_s=0.0) as good:
        await good.health()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_chunk_server_without_a_certificate_counts_for_nothing(sealed: PanguCluster) -> None:
    client = sealed.client
    disk = await client.create_volume(GIB)
    uri = await client.connect(disk.id, "h1")
    await qemu_io(uri, "write -P 1 0 1M", "flush")
    sealed.kill("cs-3")
    with_certificates, sealed.config = sealed.config, msgspec.structs.replace(sealed.config, tls=None)
    sealed.start_chunkserver(3)
    sealed.config = with_certificates
    await qemu_io(uri, "write -P 2 0 1M", "flush", within_s=60)

    async def down() -> bool:
        return {server.id for server in await client.chunkservers() if server.state == "down"} == {"cs-3"}

    await eventually(down, "the master takes it for down")
    assert "3" in (await client.volume(disk.id)).stale, "nobody takes it back"
    sealed.kill("cs-3")
    sealed.start_chunkserver(3)
    await in_sync(sealed, disk.id)
    await client.detach(disk.id, "h1")
