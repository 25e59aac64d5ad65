"""Placement: racks, spread, weights, refusals, on random clusters."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuntai.pangu.errors import NoPlacement
from yuntai.pangu.placement import SCATTER_WIDTH, Candidate, copysets, place, rejection

GIB = 1 << 30


def server(number: int, rack: str, free_gib: int = 900, state: str = "up", total_gib: int = 1000) -> Candidate:
    return Candidate(number, rack, state, free_gib * GIB, total_gib * GIB)


clusters = st.lists(
    st.builds(
        server,
        number=st.integers(1, 500),
        rack=st.sampled_from(["a", "b", "c", "d", "e"]),
        free_gib=st.integers(0, 1000),
        state=st.sampled_from(["up", "up", "up", "down", "draining"]),
    ),
    max_size=40,
    unique_by=lambda s: s.number,
)


@given(clusters, st.integers(1, 200), st.integers(0, 2**64 - 1))
def test_three_replicas_in_three_racks_or_a_refusal_with_reasons(servers: list[Candidate], chunks: int, seed: int):
    usable = {s.number: s for s in servers if not rejection(s)}
    if len({s.rack for s in usable.values()}) < 3:
        with pytest.raises(NoPlacement) as caught:
            place(servers, chunks, seed)
        reasons = caught.value.details["servers"]
        assert set(reasons) == {f"cs-{s.number}" for s in servers if s.number not in usable}
        return
    placed = place(servers, chunks, seed)
    assert len(placed) == chunks
    for replicas in placed:
        assert len(set(replicas)) == 3
        assert len({usable[number].rack for number in replicas}) == 3
    assert placed == place(servers, chunks, seed), "the same input gives the same answer"


@given(clusters)
def test_copysets_reach_every_server_and_stay_few(servers: list[Candidate]):
    usable = [s for s in servers if not rejection(s)]
    if len({s.rack for s in usable}) < 3:
        return
    groups = copysets(usable)
    racks = {s.number: s.rack for s in usable}
    assert {number for group in groups for number in group} == {s.number for s in usable}
    assert all(len({racks[number] for number in group}) == 3 for group in groups)
    assert len(groups) <= SCATTER_WIDTH // 2 * len(usable)


def test_copysets_are_far_fewer_than_random_placement_makes():
    servers = [server(n, f"rack-{n % 5}") for n in range(100)]
    used = {tuple(sorted(replicas)) for replicas in place(servers, 20_000, 1)}
    assert len(used) <= 4 * 40, "random placement of 20,000 chunks over 100 servers makes nearly 20,000 sets"


def test_free_space_weighs():
    servers = [server(n, f"rack-{n % 3}", free_gib=900 if n < 9 else 300) for n in range(18)]
    count = Counter(number for replicas in place(servers, 30_000, 7) for number in replicas)
    empty, fuller = sum(count[n] for n in range(9)), sum(count[n] for n in range(9, 18))
    # Three times the space; few copysets tie full servers to empty ones, which takes some of it back.
    assert 1.6 * fuller < empty < 3.2 * fuller
    assert min(count[n] for n in range(18)) > 0


def test_first_replica_takes_turns():
    first = Counter(replicas[0] for replicas in place([server(n, f"rack-{n}") for n in (1, 2, 3)], 3000, 3))
    assert all(900 < first[n] < 1100 for n in (1, 2, 3))


def test_refusal_says_why():
    servers = [server(1, "a"), server(2, "a"), server(3, "b", state="down"), server(4, "c", free_gib=100)]
    with pytest.raises(NoPlacement, match=r"only a can take one .*cs-3: it is down; cs-4: its disk is 90 % used"):
        place(servers, 1, 0)
    with pytest.raises(NoPlacement, match="no rack can take one"):
        place([], 1, 0)
