"""The rules of generations and in-sync sets: tables, and invariants over random histories."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from yuntai.model.cluster import Volume, VolumeSource
from yuntai.pangu import rules
from yuntai.pangu.errors import Conflict, NotFound
from yuntai.pangu.rules import Want

VOL = "vol-0000000000000001"


def volume(**fields: Any) -> Volume:
    return Volume(**{"id": VOL, "size_bytes": 1 << 30, "created": "", **fields})


ATTACHED = {"state": "attached", "host": "h1", "generation": 5}

ATTACH = [
    # record, want, what the gateway serves → generation and host, or the refusal
    ({}, Want("h1"), 0, (1, "h1")),
    ({"generation": 5}, Want("h1"), 0, (6, "h1")),
    (ATTACHED, Want("h1"), 5, (5, "h1")),
    (ATTACHED, Want("h1"), 0, (6, "h1")),  # its gateway was restarted: a new session needs a new generation
    (ATTACHED, Want("h1"), 4, (6, "h1")),
    (ATTACHED, Want("h2"), 0, (6, "h2")),  # elsewhere: fences h1
    (ATTACHED, Want("h2"), 5, (6, "h2")),
    (ATTACHED, Want("h2", if_generation=5), 0, (6, "h2")),
    (ATTACHED, Want("h2", if_generation=4), 0, "generation 5 by now, not 4: h1 got it"),
    (ATTACHED, Want("h1", if_generation=4), 5, (5, "h1")),  # its own answer was lost: it has it
    ({}, Want("h1", if_generation=0), 0, (1, "h1")),
    (ATTACHED, Want("h1", read_only=True), 5, "attached to h1; detach it there"),  # its guest would lose its disk
    (ATTACHED, Want("h2", read_only=True), 0, "attached to h1; detach it there"),
    ({**ATTACHED, "read_only": True}, Want("h2", read_only=True), 0, "attached to h1"),
    ({**ATTACHED, "read_only": True}, Want("h1"), 5, (6, "h1")),
    ({**ATTACHED, "read_only": True, "snapshots": {"1": "done"}}, Want("h1", True, 1), 5, "shows node -1 on h1"),
    ({**ATTACHED, "read_only": True}, Want("h1", read_only=True), 0, (6, "h1")),
    ({**ATTACHED, "read_only": True}, Want("h1", read_only=True), 5, (5, "h1")),
    ({"state": "deleting"}, Want("h1"), 0, "being deleted"),
    ({"snapshots": {"1": "done"}}, Want("h1", read_only=True, read_node=1), 0, (1, "h1")),
    ({"snapshots": {"1": "done"}}, Want("h1", read_node=1), 0, "frozen"),
    ({"snapshots": {"1": "pending"}}, Want("h1", read_only=True, read_node=1), 0, "still being taken"),
]


@pytest.mark.parametrize(("fields", "want", "served", "expected"), ATTACH)
def test_attach(fields: dict[str, Any], want: Want, served: int, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(Conflict, match=expected):
            rules.attach(volume(**fields), want, served)
        return
    granted = rules.attach(volume(**fields), want, served)
    assert (granted.generation, granted.host, granted.state) == (*expected, "attached")
    assert (granted.read_only, granted.read_node) == (want.read_only, want.read_node)


ABC = [(1, 2, 3)]
DEGRADE = [
    # stale so far, chunks, server, generation, host → answer, stale afterwards
    ({}, ABC, 1, 5, "h1", "stale", {"1"}),
    ({"1": "x"}, ABC, 1, 5, "h1", "stale", {"1"}),
    ({"1": "x"}, ABC, 2, 5, "h1", "refused", {"1"}),
    ({"1": "x"}, [(1, 2, 3), (2, 4, 5)], 4, 5, "h1", "stale", {"1", "4"}),
    ({"1": "x"}, [(1, 2, 3), (1, 4, 5)], 4, 5, "h1", "refused", {"1"}),
    ({}, ABC, 9, 5, "h1", "stale", {"9"}),  # holds no chunk (any more): it cannot be missed
    ({}, ABC, 1, 4, "h1", "fenced", set()),
    ({}, ABC, 1, 6, "h1", "fenced", set()),
    ({}, ABC, 1, 5, "h2", "fenced", set()),
]


@pytest.mark.parametrize(("stale", "chunks", "server", "generation", "host", "kind", "after"), DEGRADE)
def test_degrade(stale: Any, chunks: Any, server: int, generation: int, host: str, kind: str, after: set[str]) -> None:
    before = volume(**ATTACHED, stale=stale)
    answer = rules.degrade(before, host, generation, chunks, server, "hung")
    assert answer.kind == kind
    assert set((answer.volume or before).stale) == after
    if kind == "refused":
        assert "fewer than 2 replicas" in answer.reason


def test_degrade_and_readmit_of_a_detached_volume_are_fenced() -> None:
    free = volume(generation=5, stale={"1": "x"})
    assert rules.degrade(free, "h1", 5, ABC, 2, "").kind == "fenced"
    assert rules.readmit(free, "h1", 5, 1).kind == "fenced"
    assert rules.hydrated(free, "h1", 5, 3).kind == "fenced"


def test_readmit() -> None:
    held = volume(**ATTACHED, stale={"1": "x", "2": "y"})
    answer = rules.readmit(held, "h1", 5, 1)
    assert answer.kind == "stale"
    assert answer.volume is not None
    assert answer.volume.stale == {"2": "y"}
    assert rules.readmit(held, "h1", 5, 3) == rules.Answer("stale")
    assert rules.readmit(held, "h1", 4, 1).kind == "fenced"


def test_hydrated_only_grows() -> None:
    held = volume(**ATTACHED, hydrated_chunks=3)
    assert rules.hydrated(held, "h1", 5, 3) == rules.Answer("ok")
    assert rules.hydrated(held, "h1", 5, 2) == rules.Answer("ok")
    grown = rules.hydrated(held, "h1", 5, 99).volume
    assert grown is not None
    assert grown.hydrated_chunks == 16, "1 GiB has 16 chunks"


@given(
    st.lists(st.permutations([1, 2, 3, 4, 5]).map(lambda p: tuple(p[:3])), min_size=1, max_size=30),
    st.lists(st.tuples(st.sampled_from(["degrade", "readmit"]), st.integers(1, 6)), max_size=60),
)
def test_no_history_leaves_a_chunk_with_fewer_than_two(chunks: list[Any], history: list[tuple[str, int]]) -> None:
    current = volume(**ATTACHED)
    for verb, server in history:
        if verb == "degrade":
            answer = rules.degrade(current, "h1", 5, chunks, server, "x")
        else:
            answer = rules.readmit(current, "h1", 5, server)
        current = answer.volume or current
        assert all(len(rules.in_sync(replicas, current.stale)) >= 2 for replicas in chunks)
        if answer.kind == "stale":
            assert (str(server) in current.stale) == (verb == "degrade")


def test_snapshot_freezes_the_head() -> None:
    taken, node = rules.snapshot(volume(**ATTACHED), "s-1")
    assert (node, taken.parents, taken.head, taken.snapshots) == (1, (0, 0, 1), 2, {"1": "pending"})
    assert taken.snapshot_bytes == {"1": 1 << 30}
    again, same = rules.snapshot(taken, "s-1")
    assert (again, same) == (taken, 1)
    more, second = rules.snapshot(taken, "s-2")
    assert (second, more.parents, more.head) == (2, (0, 0, 1, 2), 3)
    done = rules.snapshots_done(more, head=2)
    assert done.snapshots == {"1": "done", "2": "pending"}
    rules.require_snapshot(done, 1)
    with pytest.raises(Conflict, match="still being taken"):
        rules.require_snapshot(done, 2)
    with pytest.raises(NotFound, match="its nodes: 1, 2"):
        rules.require_snapshot(done, 7)


def test_snapshot_needs_no_gateway_when_nothing_writes() -> None:
    assert rules.snapshot(volume(), "")[0].snapshots == {"1": "done"}
    assert rules.snapshot(volume(**ATTACHED, read_only=True), "")[0].snapshots == {"1": "done"}
    with pytest.raises(Conflict, match="detached by force"):
        rules.snapshot(volume(unfenced=True), "")
    with pytest.raises(Conflict, match="being deleted"):
        rules.snapshot(volume(state="deleting"), "")


def test_detach() -> None:
    held = volume(**ATTACHED)
    assert rules.detach(volume(), "h9", forced=False) == volume()
    with pytest.raises(Conflict, match="attached to h1, not to h2"):
        rules.detach(held, "h2", forced=False)
    assert rules.detach(held, "h1", forced=False) == volume(generation=5)
    assert rules.detach(held, "h1", forced=True).unfenced
    assert not rules.detach(replace(held, read_only=True), "h1", forced=True).unfenced


def test_users_of_looks_through_the_chain() -> None:
    def clone(name: str, of: str) -> Volume:
        return volume(id=name, source=VolumeSource(volume=of, node=1))

    volumes = [volume(id="a"), clone("b", "a"), clone("c", "b"), clone("d", "a")]
    assert rules.users_of("a", volumes, ["b", "c", "d"]) == ["b", "c", "d"]
    assert rules.users_of("a", volumes, ["c"]) == ["c"]
    assert rules.users_of("b", volumes, ["b", "d"]) == []
    assert rules.users_of("a", volumes, []) == []
