"""What changed between two snapshots: which servers are asked, and which questions have no answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.pangu.conftest import Cluster
from yuntai.model.cluster import Volume, VolumeSource
from yuntai.pangu.changes import Range, _merged, check_nodes
from yuntai.pangu.errors import Conflict, Invalid, NotFound, Unavailable
from yuntai.pangu.units import CHUNK_BLOCKS, CHUNK_BYTES, volume_number
from yuntai.pangu.wire import Refused

# 1 ─ 2 ─ 3 ─ 4      and beside it, after a rollback to 1:   1 ─ 5 ─ 6
TREE = (0, 0, 1, 2, 3, 1, 5)
LIVE = Volume(
    id="vol-0000000000000001",
    size_bytes=1 << 30,
    parents=TREE,
    head=6,
    snapshots={"1": "done", "3": "done", "5": "done", "4": "pending"},
    created="",
)


@pytest.mark.parametrize(("since", "node"), [(-1, 3), (1, 3), (3, 5), (5, 3), (2, 3), (1, 5)])
def test_what_is_live_or_below_can_be_compared(since: int, node: int) -> None:
    check_nodes(LIVE, since, node)


@pytest.mark.parametrize(
    ("since", "node", "error"),
    [(2, 5, Conflict), (7, 3, Conflict), (0, 3, Conflict), (-2, 3, Conflict), (1, 2, NotFound), (1, 4, Conflict)],
)
def test_what_is_forgotten_cannot(since: int, node: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_nodes(LIVE, since, node)


PART = st.builds(Range, chunk=st.integers(3, 4), block=st.integers(0, 9), blocks=st.integers(1, 6), data=st.booleans())


@given(st.lists(PART, max_size=12))
def test_merging_loses_no_block_and_data_wins(parts: list[Range]) -> None:
    expected: dict[int, bool] = {}
    for one in parts:
        for block in range(one.block, one.block + one.blocks):
            at = (one.chunk - 3) * CHUNK_BLOCKS + block
            expected[at] = expected.get(at, False) or one.data
    out = _merged(parts, 3)
    assert {at: data for first, blocks, data in out for at in range(first, first + blocks)} == expected
    assert out == sorted(out)
    for (first, blocks, data), (after, _, other) in itertools.pairwise(out):
        assert first + blocks < after or (first + blocks == after and data != other)


async def snapshotted(cluster: Cluster, chunks: int = 6) -> tuple[Volume, int]:
    volume = await cluster.client.create_volume(chunks * CHUNK_BYTES)
    node = await cluster.client.snapshot(volume.id)
    return await cluster.client.volume(volume.id), node


def listing(request: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"chunk": chunk, "block": 7, "blocks": 2, "data": True} for chunk in request["chunks"]]


async def test_each_chunk_is_asked_of_one_server(cluster: Cluster) -> None:
    volume, node = await snapshotted(cluster)
    asked: list[dict[str, Any]] = []
    for server in cluster.servers:
        server.answers["changes"] = lambda request: asked.append(request) or listing(request)
    found = await cluster.client.changes(volume.id, node, first_chunk=2)
    assert found == [(step * CHUNK_BLOCKS + 7, 2, True) for step in range(4)]
    assert sorted(chunk for request in asked for chunk in request["chunks"]) == [2, 3, 4, 5]
    assert len(asked) > 1
    assert all((one["since"], one["node"], one["volume"]) == (None, node, volume_number(volume.id)) for one in asked)
    assert await cluster.client.changes(volume.id, node, first_chunk=6) == []
    with pytest.raises(Invalid):
        await cluster.client.changes(volume.id, node, chunks=65)
    with pytest.raises(Conflict):
        await cluster.client.changes(volume.id, node, since=5)


async def test_another_replica_answers_for_one_that_does_not(cluster: Cluster) -> None:
    volume, node = await snapshotted(cluster)

    def refuse(_: dict[str, Any]) -> Any:
        raise Refused("the chunk's metadata are damaged")

    cluster.servers[0].answers["changes"] = cluster.servers[1].answers["changes"] = refuse
    cluster.servers[2].answers["changes"] = listing
    assert len(await cluster.client.changes(volume.id, node)) == 6
    # A server out of the in-sync set is never asked, so then nobody knows.
    await cluster.store.update(Volume, volume.id, lambda now: replace(now, stale={"3": "test"}))
    cluster.client._retry_for_s = 0.0
    with pytest.raises(Unavailable, match="metadata are damaged"):
        await cluster.client.changes(volume.id, node)


async def test_a_lazy_clone_is_asked_at_its_source_too(cluster: Cluster) -> None:
    source, node = await snapshotted(cluster, 4)
    clone = await cluster.client.create_volume(6 * CHUNK_BYTES, source=VolumeSource(volume=source.id, node=node))
    await cluster.store.update(Volume, clone.id, lambda now: replace(now, hydrated_chunks=1))
    frozen = await cluster.client.snapshot(clone.id)
    asked: list[tuple[str, list[int]]] = []
    for server in cluster.servers:
        server.answers["changes"] = lambda request: (
            asked.append(("source" if request["volume"] == volume_number(source.id) else "clone", request["chunks"]))
            or (listing(request) if request["volume"] == volume_number(source.id) else [])
        )
    found = await cluster.client.changes(clone.id, frozen)
    assert found == [(chunk * CHUNK_BLOCKS + 7, 2, True) for chunk in (1, 2, 3)]
    assert sorted(chunk for what, chunks in asked for chunk in chunks if what == "clone") == [0, 1, 2, 3, 4, 5]
    asked.clear()
    again = await cluster.client.snapshot(clone.id)
    assert await cluster.client.changes(clone.id, again, since=frozen) == []
    assert {what for what, _ in asked} == {"clone"}
