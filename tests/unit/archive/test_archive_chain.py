"""Whatever happens to a disk between its exports, every snapshot comes back as it was."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from tests.unit.archive.disk import LayeredDisk, MemoryTarget
from yuntai.archive import Repository, export, prune, restore, verify
from yuntai.archive.format import CHUNK_BLOCKS, REGION_BLOCKS
from yuntai.archive.restore import find

BLOCKS = REGION_BLOCKS + 3 * CHUNK_BLOCKS
# Around borders of chunks and regions, where arithmetic goes wrong.
PLACES = st.one_of(
    st.integers(0, 40),
    st.integers(CHUNK_BLOCKS - 3, CHUNK_BLOCKS + 3),
    st.integers(REGION_BLOCKS - 3, REGION_BLOCKS + 3),
    st.integers(BLOCKS - 3, BLOCKS - 1),
)
WRITE = st.tuples(st.just("write"), PLACES, st.integers(1, 6), st.sampled_from([b"\0", b"a", b"b", b"c"]))
STEP = st.one_of(
    WRITE,
    WRITE,
    WRITE,
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("rollback"), st.integers(0, 9)),
    st.tuples(st.just("forget"), st.integers(0, 9)),
    st.tuples(st.just("remove"), st.integers(0, 9)),
    st.tuples(st.just("interrupt"), st.integers(0, 3)),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=40))
def test_every_snapshot_comes_back(steps: list[tuple]) -> None:
    asyncio.run(_history(steps))


async def _history(steps: list[tuple]) -> None:
    disk, repository = LayeredDisk(BLOCKS), Repository(MemoryStore())
    there: set[int] = set()
    forgotten: set[int] = set()

    async def take() -> None:
        node = disk.snapshot()
        manifest = await export(repository, disk.source(node, forgotten=list(forgotten)), disk.about(node))
        assert manifest.parent == "" or int(manifest.parent[2:]) not in forgotten
        there.add(node)

    for what, *how in steps:
        known = len(disk.nodes)
        if what == "write":
            block, blocks, content = how
            for one in range(block, min(block + blocks, BLOCKS)):
                disk.write(one, content)
        elif what == "snapshot":
            await take()
        elif what == "rollback" and known:
            disk.rollback(how[0] % known)
        elif what == "forget" and known:
            forgotten.add(how[0] % known)
        elif what == "remove" and there:
            gone = sorted(there)[how[0] % len(there)]
            await prune(repository, remove=[f"s-{gone}"], keep_for=timedelta(seconds=-1))
            there.discard(gone)
        elif what == "interrupt":
            disk.fail_after = how[0]
            with contextlib.suppress(ConnectionError):
                await take()
            disk.fail_after = None
    await take()
    manifests, bad = await repository.manifests()
    assert not bad
    assert {one.node for one in manifests} == there
    assert await verify(repository, manifests) == []
    for node in there:
        target = MemoryTarget()
        assert await restore(repository, await find(repository, f"s-{node}"), target) == []
        assert target.content == disk.content(node)
        assert target.flushed
