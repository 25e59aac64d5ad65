"""What must move and whereto: on random clusters, and the cases that one would name."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from yuntai.model.cluster import ChunkServer, Volume
from yuntai.pangu import moves, planner
from yuntai.pangu.moves import Move
from yuntai.pangu.placement import Candidate, place, rejection
from yuntai.pangu.schedule import Schedule, Volumes, schedule

GIB = 1 << 30
MIB = 1 << 20
VOL = "vol-0000000000000001"
LIMITS = planner.Limits()


def server(number: int, rack: str, state: str = "up", used_gib: int = 100, **more: Any) -> Candidate:
    sizes = {"free_bytes": (1000 - used_gib) * GIB, "total_bytes": 1000 * GIB, "used_bytes": used_gib * GIB}
    return Candidate(number, rack, state, **{**sizes, "replicas": 16 * used_gib, **more})


def view(servers: list[Candidate], lost: set[int] = frozenset(), **more: Any) -> planner.View:  # type: ignore[assignment]
    answering = frozenset(s.number for s in servers if s.state != "down")
    return planner.View({s.number: s for s in servers}, answering, frozenset(lost), **more)


def volume(**fields: Any) -> Volume:
    return Volume(**{"id": VOL, "size_bytes": GIB, "created": "", **fields})


def plan(seen: planner.View, chunks: list[Any], record: Volume | None = None, **more: Any) -> Schedule:
    record = record or volume()
    needs = sorted(planner.needs(VOL, chunks, record.stale, seen))
    volumes = Volumes({VOL: record}, {VOL: chunks}, more.pop("open", frozenset({VOL})))
    return schedule(needs, more.get("before", {}), volumes, seen, more.get("limits", LIMITS), more.get("budget", 1e15))


FOUR = [server(1, "a"), server(2, "b"), server(3, "c"), server(4, "d")]


def test_nothing_moves_while_all_is_well() -> None:
    assert plan(view(FOUR), [(1, 2, 3), (2, 3, 4)]) == Schedule()


def test_a_server_that_is_down_for_a_short_time_is_waited_for() -> None:
    assert plan(view([server(1, "a", "down"), *FOUR[1:]]), [(1, 2, 3)]) == Schedule()


def test_a_lost_server_is_replaced_in_another_rack() -> None:
    servers = [server(1, "a", "down"), *FOUR[1:], server(5, "b")]
    assert plan(view(servers, {1}), [(1, 2, 3), (2, 3, 4)]).wanted == {VOL: (Move(0, 1, 4),)}


def test_a_removed_server_is_lost() -> None:
    assert plan(view(FOUR), [(9, 2, 3)]).wanted[VOL] in ((Move(0, 9, 1),), (Move(0, 9, 4),))


def test_only_what_is_lost_may_share_a_rack_when_nothing_else_is_left() -> None:
    three = [server(1, "a", "down"), server(2, "b"), server(3, "c"), server(4, "c")]
    assert plan(view(three, {1}), [(1, 2, 3)]).wanted == {VOL: (Move(0, 1, 4),)}
    draining = [server(1, "a", "draining"), *three[1:]]
    assert plan(view(draining), [(1, 2, 3)]).wanted == {}
    assert plan(view(draining), [(1, 2, 3)]).stuck == {1: 1}


def test_two_replicas_in_one_rack_part_when_there_is_another() -> None:
    servers = [server(1, "a"), server(2, "b"), server(3, "b"), server(4, "d")]
    (move,) = plan(view(servers), [(1, 2, 3)]).wanted[VOL]
    assert (move.from_ in (2, 3), move.to) == (True, 4)
    assert plan(view(servers[:3]), [(1, 2, 3)]).wanted == {}, "there is no other rack"


def test_the_fewest_live_replicas_come_first() -> None:
    servers = [server(1, "a", "down"), *FOUR[1:], server(5, "e"), server(6, "f")]
    chunks = [(1, 2, 3), (1, 4, 5), (1, 2, 4)]
    one = plan(view(servers, {1}), chunks, volume(stale={"5": "x"}), limits=planner.Limits(at_once=1))
    assert [move.chunk for move in one.wanted[VOL]] == [1]
    assert one.pressed == {VOL}


def test_stale_servers_take_nothing() -> None:
    assert plan(view([server(1, "a", "down"), *FOUR[1:]], {1}), [(1, 2, 3)], volume(stale={"4": "x"})).wanted == {}


def test_what_was_begun_goes_on_until_its_reason_is_gone() -> None:
    servers = [server(1, "a", "down"), *FOUR[1:], server(5, "e")]
    before = {VOL: (Move(0, 1, 5),)}
    assert plan(view(servers, {1}), [(1, 2, 3)], before=before).wanted == before, "its target does not change"
    back = [server(1, "a"), *servers[1:]]
    assert plan(view(back), [(1, 2, 3)], before=before).wanted == {}, "the server is back"
    gone = [*servers[:4], server(5, "e", "down")]
    assert plan(view(gone, {1}), [(1, 2, 3)], before=before).wanted == {VOL: (Move(0, 1, 4),)}
    assert plan(view(servers, {1}), [(5, 2, 3)], before=before).wanted == {}, "it is done"


def test_a_volume_that_nobody_has_open_asks_to_be() -> None:
    servers = [server(1, "a", "down"), *FOUR[1:]]
    made = plan(view(servers, {1}), [(1, 2, 3)], open=frozenset())
    assert (made.wanted, made.closed) == ({}, {VOL: 2})
    nowhere = plan(view(servers[:3], {1}), [(1, 2, 3)], open=frozenset())
    assert (nowhere.closed, nowhere.stuck) == ({}, {1: 1}), "opening it would help nothing"


def test_the_budget_and_the_limits_hold() -> None:
    servers = [server(1, "a", "down"), *(server(n, "bcdef"[n % 5]) for n in range(2, 12))]
    chunks = place([s for s in servers if s.state == "up"], 300, 1)
    chunks = [(1, *[n for n in replicas if servers[n - 1].rack != "a"][:2]) for replicas in chunks]
    seen = view(servers, {1})
    limits = planner.Limits(at_once=60, per_volume=50, per_server=6)
    moved_now = plan(seen, chunks, limits=limits).wanted[VOL]
    assert len(moved_now) <= 50
    assert max(Counter(move.to for move in moved_now).values()) <= 6
    per_replica = seen.replica_bytes(1)
    assert len(plan(seen, chunks, budget=3.5 * per_replica).wanted[VOL]) == 4
    assert plan(seen, chunks, budget=0).wanted == {}


def test_replacements_keep_the_sets_few() -> None:
    servers = [server(n, f"rack-{n % 10}") for n in range(1, 101)]
    chunks = place(servers, 30_000, 1)
    before = {frozenset(replicas) for replicas in chunks}
    servers[0] = server(1, "rack-1", "down")
    limits = planner.Limits(at_once=100_000, per_volume=100_000, per_server=100_000)
    made = plan(view(servers, {1}), chunks, limits=limits).wanted[VOL]
    after = {frozenset(moves.moved(chunks[move.chunk], move)) for move in made}
    assert len(after) <= planner.REPLACEMENTS * sum(1 in group for group in before)
    assert len({move.to for move in made}) >= planner.REPLACEMENTS, "several share the work"


def test_balance_moves_from_full_to_empty_until_it_is_even() -> None:
    used = {1: 700, 2: 700, 3: 700, 4: 100}
    chunks = [(1, 2, 3)] * 600
    for _ in range(40):
        servers = [server(n, "abcd"[n - 1], used_gib=gib, replicas=gib) for n, gib in used.items()]
        donors = planner.donors(view(servers), LIMITS, going_on=True)
        if not donors:
            break
        for move in plan(view(servers, donors=donors), chunks).wanted.get(VOL, ()):
            chunks[move.chunk] = moves.moved(chunks[move.chunk], move)
            used[move.from_] -= 1
            used[move.to] += 1
    assert max(used.values()) - min(used.values()) <= 50, used
    assert planner.donors(view([server(n, "a", used_gib=500 + n) for n in (1, 2, 3)]), LIMITS, going_on=False) == set()


racks = st.sampled_from("abcde")
states = st.sampled_from(["up", "up", "up", "up", "down", "draining"])
clusters = st.lists(
    st.builds(server, number=st.integers(1, 30), rack=racks, state=states, used_gib=st.integers(0, 1000)),
    min_size=3,
    max_size=16,
    unique_by=lambda s: s.number,
)


@settings(max_examples=60, deadline=None)
@given(clusters, st.data())
def test_every_move_is_sound_and_the_plan_converges(servers: list[Candidate], data: st.DataObject) -> None:
    numbers = [s.number for s in servers]
    triples = st.permutations(numbers).map(lambda p: tuple(p[:3]))
    chunks: list[Any] = data.draw(st.lists(triples, min_size=1, max_size=20))
    stale = {str(n): "x" for n in data.draw(st.sets(st.sampled_from(numbers), max_size=2))}
    lost = {s.number for s in servers if s.state == "down"}
    seen, record = view(servers, lost), volume(stale=stale)
    records = {s.number: chunkserver(s) for s in servers}
    for _ in range(60):
        made = plan(seen, chunks, record, limits=planner.Limits(per_volume=8))
        if not made.wanted:
            break
        for move in made.wanted[VOL]:
            replicas = chunks[move.chunk]
            taker = seen.servers[move.to]
            assert move.from_ in replicas
            assert move.to not in replicas
            assert (rejection(taker), str(move.to) in stale) == ("", False)
            assert moves.refusal(record, replicas, move, records) == "", "what is planned is what is committed"
            chunks[move.chunk] = moves.moved(replicas, move)
            assert len(set(chunks[move.chunk])) == 3
    else:
        raise AssertionError("the plan never ends")
    for replicas in chunks:
        for number in replicas:
            if number in lost or seen.servers[number].state == "draining":
                need = planner.Need(0, int(number not in lost), VOL, 0, number)
                others_go = sum(n in lost or seen.servers[n].state == "draining" for n in replicas) > 1
                load = planner.Load(seen, LIMITS)
                assert others_go or planner.target(need, replicas, stale, seen, load) is None, "it had somewhere to go"


def chunkserver(candidate: Candidate) -> ChunkServer:
    return ChunkServer(
        id=f"cs-{candidate.number}",
        number=candidate.number,
        rack=candidate.rack,
        host="h",
        address="",
        state=candidate.state,  # type: ignore[arg-type]
    )


def test_commit_is_idempotent_and_refuses_what_would_cost_a_replica() -> None:
    servers = {s.number: chunkserver(s) for s in [*FOUR, server(5, "b"), server(6, "e", "draining")]}
    move = Move(0, 1, 4)
    done = moves.commit(volume(), {0: (1, 2, 3)}, [move], servers)
    assert (done.changed, done.done) == ({0: (4, 2, 3)}, [move])
    again = moves.commit(volume(), {0: (4, 2, 3)}, [move], servers)
    assert (again.changed, again.done) == ({}, [move])
    for wrong, record in [
        (Move(0, 5, 4), volume()),  # 5 has no place
        (Move(0, 1, 2), volume()),  # 2 has one already
        (Move(0, 1, 4), volume(stale={"4": "x"})),
        (Move(0, 1, 9), volume()),  # nobody knows it
        (Move(0, 1, 5), volume()),  # the rack of 2
        (Move(0, 1, 6), volume()),  # it is being emptied
        (Move(7, 1, 4), volume()),  # there is no such chunk
    ]:
        refused = moves.commit(record, {0: (1, 2, 3)}, [wrong], servers)
        assert (refused.changed, refused.done, len(refused.refused)) == ({}, [], 1)
    swapped = {**servers, 4: replace(servers[4], admitted=False)}
    assert moves.commit(volume(), {0: (1, 2, 3)}, [move], swapped).done == []
    both = moves.commit(volume(), {0: (1, 2, 3)}, [Move(0, 1, 4), Move(0, 4, 1)], servers)
    assert both.changed == {0: (1, 2, 3)}, "one after the other"
