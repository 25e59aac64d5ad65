"""What an export writes and reads, how it resumes, what damage is called, what pruning leaves alone."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from tests.nbd_half import PART, half_answering
from tests.unit.archive.disk import LayeredDisk, MemoryTarget
from yuntai.archive import ArchiveError, DamagedError, Repository, export, prune, restore, verify
from yuntai.archive import format as form
from yuntai.archive.errors import UnusableError
from yuntai.archive.format import BLOCK_BYTES, CHUNK_BLOCKS, Index, Stored
from yuntai.archive.frozen import parse_changes
from yuntai.archive.nbd import NbdClient
from yuntai.archive.restore import find
from yuntai.archive.runs import merged, overlay, pieces, without

NOW = timedelta(seconds=-1)


def written_disk(blocks: int = 3000) -> LayeredDisk:
    disk = LayeredDisk(4 * CHUNK_BLOCKS)
    for block in range(blocks):
        disk.write(block, struct.pack("<I", block + 1) * 1024)
    disk.snapshot()
    return disk


async def names(repository: Repository) -> set[str]:
    return {one.sha256 async for some in repository.objects() for one in some}


async def test_only_what_changed_is_read_and_written() -> None:
    disk, repository = written_disk(), Repository(MemoryStore())
    whole = await export(repository, disk.source(0), disk.about(0))
    assert (disk.reads, whole.parent) == (3000, "")
    assert whole.written_bytes == 3000 * BLOCK_BYTES
    disk.write(10, b"x")
    disk.write(2500, b"\0")
    node = disk.snapshot()
    part = await export(repository, disk.source(node), disk.about(node))
    assert (disk.reads, part.parent) == (3001, "s-0")
    assert part.written_bytes == BLOCK_BYTES
    assert part.stored_bytes < 30_000
    # The same again does nothing at all.
    assert await export(repository, disk.source(node), disk.about(node)) == part
    assert disk.reads == 3001


async def test_an_interrupted_export_resumes_without_writing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    disk, repository = written_disk(12_000), Repository(store)
    disk.fail_after = 9
    with pytest.raises(ConnectionError):
        await export(repository, disk.source(0), disk.about(0))
    disk.fail_after = None
    assert await repository.manifests() == ([], [])
    first = await _files(store)
    assert 4 <= len(first) <= 9
    written: list[bytes] = []
    put = repository.put

    async def noted(packed: bytes) -> str:
        written.append(packed)
        return await put(packed)

    monkeypatch.setattr(repository, "put", noted)
    manifest = await export(repository, disk.source(0), disk.about(0))
    second = await _files(store)
    assert {path: second[path] for path in first} == first
    assert len(second) == 13
    # What the interrupted one was just writing may have come in between: it is neither in first nor written again.
    assert len(written) <= 13 - len(first)
    assert manifest.stored_bytes == sum(len(packed) for packed in written)
    target = MemoryTarget()
    await restore(repository, manifest, target)
    assert target.content == disk.content(0)


async def _files(store: MemoryStore) -> dict[str, tuple[int, object]]:
    return {
        one["path"]: (one["size"], one["last_modified"])
        async for some in obstore.list(store, "objects")
        for one in some
    }


async def test_a_torn_object_is_written_again() -> None:
    store = MemoryStore()
    disk, repository = written_disk(), Repository(store)
    await export(repository, disk.source(0), disk.about(0))
    await repository.delete_manifest("s-0")
    for path in await _files(store):
        await obstore.put_async(store, path, b"torn")
    manifest = await export(repository, disk.source(0), disk.about(0))
    assert await verify(repository, [manifest]) == []


async def test_damage_is_named_and_nothing_else_is_lost() -> None:
    store = MemoryStore()
    disk, repository = written_disk(), Repository(store)
    manifest = await export(repository, disk.source(0), disk.about(0))
    index = form.decode_index(await repository.get(manifest.regions[0].sha256, 1 << 20))
    flipped, missing = index.objects[0].sha256, index.objects[2].sha256
    raw = bytearray(bytes(await (await obstore.get_async(store, f"objects/{flipped[:2]}/{flipped}")).bytes_async()))
    raw[len(raw) // 2] ^= 1
    await obstore.put_async(store, f"objects/{flipped[:2]}/{flipped}", bytes(raw))
    await obstore.delete_async(store, f"objects/{missing[:2]}/{missing}")

    found = {damage.object: damage for damage in await verify(repository, [manifest])}
    assert set(found) == {flipped, missing}
    assert found[flipped].ranges == ((0, 1024 * BLOCK_BYTES),)
    assert found[missing].ranges == ((2048 * BLOCK_BYTES, 952 * BLOCK_BYTES),)
    assert "s-0" in str(found[flipped])
    assert "bytes 0-4194303" in str(found[flipped])
    assert "is missing" in str(found[missing])

    with pytest.raises(DamagedError, match="snapshot s-0"):
        await restore(repository, manifest, MemoryTarget())
    target = MemoryTarget()
    skipped = await restore(repository, manifest, target, skip_damaged=True)
    assert {damage.object for damage in skipped} == {flipped, missing}
    assert target.content == {block: data for block, data in disk.content(0).items() if 1024 <= block < 2048}

    # An export that trusts nothing heals it, for other snapshots with these objects too.
    await export(repository, disk.source(0), disk.about(0), again=True)
    manifests, bad = await repository.manifests()
    assert len(manifests) == 1
    assert not bad
    assert await verify(repository, manifests) == []


async def test_a_damaged_index_and_manifest_are_named() -> None:
    store = MemoryStore()
    disk, repository = written_disk(), Repository(store)
    manifest = await export(repository, disk.source(0), disk.about(0))
    index = manifest.regions[0].sha256
    await obstore.put_async(store, f"objects/{index[:2]}/{index}", b"nonsense")
    (damage,) = await verify(repository, [manifest])
    assert damage.ranges == ((0, 4 * CHUNK_BLOCKS * BLOCK_BYTES),)
    with pytest.raises(ArchiveError, match="export it again first"):
        await prune(repository)
    # As a base it is of no use, so everything is read.
    node = disk.snapshot()
    assert (await export(repository, disk.source(node), disk.about(node))).parent == ""

    (path,) = [one["path"] async for some in obstore.list(store, "snapshots") for one in some if "/s-0." in one["path"]]
    await obstore.put_async(store, path, b"{}")
    _, (broken,) = await repository.manifests()
    assert broken.snapshot == "s-0"
    with pytest.raises(ArchiveError, match="snapshot s-0"):
        await find(repository, "s-0")
    assert (await find(repository, "s-1")).node == 1
    with pytest.raises(ArchiveError, match="s-0"):
        await prune(repository)
    await prune(repository, remove=["s-0"], keep_for=NOW)
    assert await verify(repository, (await repository.manifests())[0]) == []


async def test_pruning_leaves_what_is_needed_or_young() -> None:
    disk, repository = written_disk(), Repository(MemoryStore())
    await export(repository, disk.source(0), disk.about(0))
    for block in range(1024):
        disk.write(block, b"y")
    node = disk.snapshot()
    await export(repository, disk.source(node), disk.about(node))
    before = await names(repository)
    done = await prune(repository, remove=["s-0"])
    assert (done.objects, done.kept_young) == (0, 2)  # its index, and the object that nobody else needs
    assert (await prune(repository, keep_for=NOW)).objects == 2
    assert len(await names(repository)) == len(before) - 2
    target = MemoryTarget()
    await restore(repository, await find(repository), target)
    assert target.content == disk.content(node)
    with pytest.raises(ArchiveError, match="no snapshot 's-9'"):
        await prune(repository, remove=["s-9"])


async def test_a_folder_is_an_archive_and_its_files_are_what_they_are_called(tmp_path: Path) -> None:
    disk, repository = written_disk(), Repository.open(f"file://{tmp_path}/with%20space")
    await export(repository, disk.source(0), disk.about(0))
    files = [path for path in (tmp_path / "with space" / "objects").rglob("*") if path.is_file()]
    assert len(files) == 4
    assert all(form.sha256(path.read_bytes()) == path.name for path in files)
    again = Repository.open(f"file://{tmp_path}/with%20space")
    assert (await find(again)).snapshot == "s-0"


@pytest.mark.parametrize("url", ["/folder", "file://host/x", "file:///", "ftp://host/x", "s3://"])
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ArchiveError, match=url):
        Repository.open(url)


async def test_the_same_name_from_another_cloud_is_refused() -> None:
    disk, repository = written_disk(), Repository(MemoryStore())
    await export(repository, disk.source(0), disk.about(0))
    with pytest.raises(ArchiveError, match="another folder or prefix"):
        await export(repository, disk.source(0), replace(disk.about(0), volume="vol-2"))


@given(st.binary(max_size=200))
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(UnusableError):
        form.decode_manifest(data)
    with pytest.raises(UnusableError):
        form.decode_index(data)


@pytest.mark.parametrize(
    "index",
    [
        Index((Stored("a" * 64, 1),), ((0, 2, 1, 0),)),
        Index((Stored("a" * 64, 1),), ((5, 2, 0, 0), (6, 1, 0, 0))),
        Index((Stored("a" * 64, 1),), ((0, 2, 0, 1023),)),
        Index((Stored("a" * 64, 1),), ((0, 0, 0, 0),)),
        Index((Stored("a" * 64, 1),), ((form.REGION_BLOCKS, 1, 0, 0),)),
        Index((Stored("../x", 1),), ((0, 1, 0, 0),)),
    ],
)
def test_an_index_that_cannot_be_is_refused(index: Index) -> None:
    with pytest.raises(UnusableError):
        form.decode_index(form.encode_index(index))


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(UnusableError, match="more than"):
        form.decompress(form.compress(bytes(1 << 24)), 1 << 20)


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=8)


@given(RANGES, RANGES)
def test_without_and_overlay_agree_with_blocks_one_by_one(base: list, changed: list) -> None:
    one, two = Stored("1" * 64, 1), Stored("2" * 64, 1)
    first = overlay(Index(), merged(base), [(one, merged(base))])
    held = [block for start, blocks in merged(base) for block in range(start, start + blocks)]
    expected = {block: (one, at) for at, block in enumerate(held)}
    assert _blocks(first) == expected
    gone = {block for start, blocks in changed for block in range(start, start + blocks)}
    kept = Index(first.objects, tuple(without(first.runs, merged(changed))))
    assert _blocks(kept) == {block: what for block, what in expected.items() if block not in gone}
    second = overlay(first, merged(changed), [(two, merged(changed))])
    assert _blocks(second) == _blocks(kept) | {block: (two, at) for at, block in enumerate(sorted(gone))}


def _blocks(index: Index) -> dict[int, tuple[Stored, int]]:
    return {
        block + step: (index.objects[number], at + step)
        for block, blocks, number, at in index.runs
        for step in range(blocks)
    }


@given(st.lists(st.tuples(st.integers(0, 3 * CHUNK_BLOCKS), st.integers(1, 3000)), max_size=10))
def test_pieces_are_all_of_it_and_small_enough(ranges: list) -> None:
    cut = pieces(merged(ranges))
    assert merged(one for piece in cut for one in piece) == merged(ranges)
    for piece in cut:
        assert sum(blocks for _, blocks in piece) <= form.OBJECT_BLOCKS
        assert len({block // CHUNK_BLOCKS for start, n in piece for block in (start, start + n - 1)}) == 1


async def test_nbd_client_says_what_is_wrong(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with pytest.raises(ArchiveError, match="cannot connect"):
        await NbdClient.connect(path, "x")

    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(nonsense, path):
        with pytest.raises(ArchiveError, match="does not speak NBD"):
            await NbdClient.connect(path, "x")


async def test_a_connection_that_ends_within_an_answer_is_said_to_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with half_answering(path, ends=True), await NbdClient.connect(str(path), "x") as client:
        with pytest.raises(ArchiveError, match="was lost"):
            await asyncio.wait_for(client.read(0, 2 * PART), 5)


def test_changes_come_as_text() -> None:
    assert parse_changes("7+2 100+16z") == [(7, 2, True), (100, 16, False)]
    assert parse_changes("") == []
    with pytest.raises(ArchiveError, match="versions"):
        parse_changes("7+2 -1+3")
