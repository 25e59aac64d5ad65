"""Snapshots out of one block store and into another one, empty, with the real programs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.functional.pangu_cluster import CHUNKSERVER, GATEWAY, MIB, ROOT, PanguCluster, eventually, qemu_io
from yuntai.archive import DamagedError, Repository, export, prune, restore, verify
from yuntai.archive.errors import Damage, NoBaseError
from yuntai.archive.export import About, Change
from yuntai.archive.format import Manifest, decode_index
from yuntai.archive.frozen import Frozen
from yuntai.archive.nbd import NbdClient
from yuntai.archive.restore import find
from yuntai.model.cluster import VolumeSource
from yuntai.pangu.client import PanguClient
from yuntai.pangu.errors import Conflict

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]
SIZE = 300 * MIB


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[PanguCluster]:
    await asyncio.to_thread(folder.mkdir)
    made = PanguCluster(folder)
    try:
        await made.start()
        yield made
    finally:
        print(made.logs(6))
        await made.stop()


@asynccontextmanager
async def frozen(client: PanguClient, volume: str, node: int, slow_s: float = 0.0) -> AsyncIterator[Frozen]:
    """What the operator's action and the command do: a clone, read-only, and the master to say what changed."""
    clone = await client.create_volume(SIZE, source=VolumeSource(volume=volume, node=node))
    attached = await client.attach(clone.id, "h1", read_only=True)

    async def ask(since: int | None, region: int) -> Sequence[Change]:
        try:
            found = await client.changes(volume, node, since=-1 if since is None else since, first_chunk=64 * region)
        except Conflict as error:
            raise NoBaseError from error
        return [Change(*one) for one in found]

    class Slow(Frozen):
        async def read(self, offset: int, length: int) -> bytes:
            await asyncio.sleep(slow_s)
            return await self.nbd.read(offset, length)

    try:
        async with await NbdClient.connect(attached.socket, clone.id) as nbd:
            yield Slow(nbd, ask)
    finally:
        await client.detach(clone.id, "h1")
        await client.delete_volume(clone.id)


async def exported(client: PanguClient, url: str, volume: str, node: int, slow_s: float = 0.0) -> Manifest:
    async with frozen(client, volume, node, slow_s) as source:
        about = About(snapshot=f"s-{node}", volume=volume, node=node, size_bytes=SIZE)
        return await export(Repository.open(url), source, about)


async def imported(client: PanguClient, url: str, snapshot: str, *, skip_damaged: bool = False) -> str:
    """Restore into a new volume; return its URI."""
    repository = Repository.open(url)
    volume = await client.create_volume(SIZE)
    attached = await client.attach(volume.id, "h1")
    async with await NbdClient.connect(attached.socket, volume.id) as nbd:
        damages: list[Damage] = await restore(
            repository, await find(repository, snapshot), nbd, skip_damaged=skip_damaged
        )
    assert bool(damages) == skip_damaged
    return attached.uri


async def dumped(uri: str, path: Path) -> Path:
    process = await asyncio.create_subprocess_exec("nbdcopy", uri, str(path))
    assert await process.wait() == 0
    return path


async def same(one: Path, two: Path) -> bool:
    process = await asyncio.create_subprocess_exec("cmp", str(one), str(two))
    return await process.wait() == 0


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A folder, or what YUNTAI_TEST_ARCHIVE names, such as s3://bucket/prefix with AWS_… beside it (docs/backup.md)."""
    store = os.environ.get("YUNTAI_TEST_ARCHIVE")
    return f"{store}/{uuid.uuid4()}" if store else f"file://{tmp_path}/archive"


async def test_a_disk_comes_back_in_another_empty_cloud(tmp_path: Path, url: str) -> None:
    originals: dict[int, Path] = {}
    async with running(tmp_path / "one") as cluster:
        client = cluster.client
        volume = await client.create_volume(SIZE)
        uri = await client.connect(volume.id, "h1")
        noise = tmp_path / "noise"
        noise.write_bytes(os.urandom(24 * MIB))
        for part in (f"write -s {noise} 60M 24M", "write -P 3 200M 8M", "write -P 4 299M 1M"):
            await qemu_io(uri, part)
        first = await client.snapshot(volume.id, "one")
        originals[first] = await dumped(uri, tmp_path / "original-1")
        whole = await exported(client, url, volume.id, first)
        assert whole.written_bytes == 33 * MIB
        assert whole.parent == ""

        await qemu_io(uri, "write -P 5 61M 64k", "write -z 200M 4M", "discard 80M 1M", "write -P 6 10M 4k", "flush")
        second = await client.snapshot(volume.id, "two")
        originals[second] = await dumped(uri, tmp_path / "original-2")
        # Written again with the same, and by others after the snapshot: neither is in it.
        await qemu_io(uri, "write -P 9 0 32M")
        part = await exported(client, url, volume.id, second)
        assert part.parent == f"s-{first}"
        assert part.written_bytes == (64 + 4) << 10, "nothing but what changed was written"
        assert part.stored_bytes < 64 << 10

        # Rolled back to the first: compared with what is live, on another branch.
        await client.detach(volume.id, "h1")
        await client.rollback(volume.id, first)
        uri = await client.connect(volume.id, "h1")
        await qemu_io(uri, "read -P 3 200M 8M", "write -P 8 250M 64k")
        third = await client.snapshot(volume.id, "three")
        originals[third] = await dumped(uri, tmp_path / "original-3")
        branch = await exported(client, url, volume.id, third)
        assert branch.parent == f"s-{second}"
        assert branch.written_bytes <= (64 << 10) + 6 * MIB

    repository = Repository.open(url)
    assert await verify(repository, (await repository.manifests())[0]) == []
    await prune(repository, remove=[f"s-{first}"])
    async with running(tmp_path / "two") as other:
        for node in (second, third):
            copy = await dumped(await imported(other.client, url, f"s-{node}"), tmp_path / f"copy-{node}")
            assert await same(copy, originals[node])


async def test_a_lazy_clone_is_exported_whole(tmp_path: Path, url: str) -> None:
    """What the clone has not copied yet comes from its source, and is in the archive all the same."""
    async with running(tmp_path / "one") as cluster:
        client = cluster.client
        source = await client.create_volume(SIZE)
        await qemu_io(await client.connect(source.id, "h1"), "write -P 1 10M 4M", "write -P 2 100M 4M")
        node = await client.snapshot(source.id, "base")
        clone = await client.create_volume(SIZE, source=VolumeSource(volume=source.id, node=node))
        taken = await client.snapshot(clone.id, "at once")
        await exported(client, url, clone.id, taken)
        back = await imported(client, url, f"s-{taken}")
        await qemu_io(back, "read -P 1 10M 4M", "read -P 2 100M 4M", "read -P 0 50M 4M")


WORKER = """
import asyncio, sys
from pathlib import Path
from tests.functional.test_archive import exported
from yuntai.pangu.client import PanguClient

async def main(url, secret, archive, volume, node):
    async with PanguClient([url], Path(secret).read_bytes()) as client:
        await exported(client, archive, volume, int(node), slow_s=0.2)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_in_the_middle_it_resumes(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    url = f"file://{archive}"

    def objects() -> dict[str, tuple[int, int]]:
        files = (path for path in archive.rglob("objects/*/*") if path.is_file())
        return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in files if len(path.name) == 64}

    async with running(tmp_path / "one") as cluster:
        client = cluster.client
        volume = await client.create_volume(SIZE)
        uri = await client.connect(volume.id, "h1")
        noise = tmp_path / "noise"
        noise.write_bytes(os.urandom(96 * MIB))
        for at in (0, 32, 64):
            await qemu_io(uri, f"write -s {noise} {100 + at}M 32M")
        node = await client.snapshot(volume.id, "s")
        secret = tmp_path / "secret"
        secret.write_bytes(cluster.config.secret("cluster"))
        leader = cluster.config if await cluster.leading() == "h1" else cluster.standby
        arguments = [f"http://127.0.0.1:{leader.master_port}", str(secret), url, volume.id, str(node)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, *arguments), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )

        async def some() -> bool:
            assert process.returncode is None
            return len(objects()) >= 5

        await eventually(some, "five objects are written")
        process.send_signal(signal.SIGKILL)
        await process.wait()
        before = objects()
        assert (await Repository.open(url).manifests())[0] == []
        manifest = await exported(client, url, volume.id, node)
        after = objects()
        assert {name: after[name] for name in before} == before, "what was there was not written again"
        assert manifest.stored_bytes == sum(size for name, (size, _) in after.items() if name not in before)
        assert await verify(Repository.open(url), [manifest]) == []

        # A flipped bit is found and named, and nothing else is lost.
        index = decode_index(await Repository.open(url).get(manifest.regions[0].sha256, 1 << 20))
        victim = index.objects[1].sha256
        path = archive / "objects" / victim[:2] / victim
        raw = bytearray(path.read_bytes())
        raw[1000] ^= 4
        path.write_bytes(raw)
        (damage,) = await verify(Repository.open(url), [manifest])
        (start, length), *_ = damage.ranges
        assert (damage.snapshot, damage.object) == (f"s-{node}", victim)
        assert str(start) in str(damage)
        with pytest.raises(DamagedError, match=victim):
            await imported(client, url, "")
        original = await dumped(uri, tmp_path / "original")
        copy = await dumped(await imported(client, url, "", skip_damaged=True), tmp_path / "copy")
        wanted = bytearray(original.read_bytes())
        for start, length in damage.ranges:
            wanted[start : start + length] = bytes(length)
        assert copy.read_bytes() == wanted
        # The noise was written three times, and stored once.
        assert len(damage.ranges) == 3
        assert all(length <= 4 * MIB for _, length in damage.ranges)
