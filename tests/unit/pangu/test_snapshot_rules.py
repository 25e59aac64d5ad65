"""Which layers live, and what deleting, rolling back and sweeping make of a record: tables and random histories."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from yuntai.model.cluster import NodeUsage, Volume, VolumeSource, VolumeUsage
from yuntai.pangu import rules, snapshot_rules
from yuntai.pangu.errors import Conflict, InUse, NotFound
from yuntai.pangu.tree import tree_of

VOL = "vol-0000000000000001"


def volume(**fields: Any) -> Volume:
    return Volume(**{"id": VOL, "size_bytes": 1 << 30, "created": "", **fields})


def clone(number: int, of: str, node: int, *, hydrated: int = 0, **fields: Any) -> Volume:
    source = VolumeSource(volume=of, node=node)
    return volume(id=f"vol-{number:016x}", source=source, hydrated_chunks=hydrated, **fields)


CHAIN = {"parents": (0, 0, 1, 2, 1), "head": 4, "snapshots": {"1": "done", "2": "done"}}


def test_live_is_what_somebody_may_read() -> None:
    assert snapshot_rules.live(volume()) == [1]
    assert snapshot_rules.dead(volume()) == []
    assert snapshot_rules.live(volume(**CHAIN)) == [1, 2, 4]
    assert snapshot_rules.dead(volume(**CHAIN)) == [3]
    assert snapshot_rules.live(volume(**CHAIN), [3]) == [1, 2, 3, 4]
    shown = volume(**(CHAIN | {"snapshots": {"1": "done"}}), state="attached", read_only=True, read_node=2)
    assert snapshot_rules.live(shown) == [1, 2, 4]


def test_a_clone_stands_on_every_source_above_it() -> None:
    first, second = clone(2, VOL, 1, hydrated=16), clone(3, "vol-0000000000000002", 5)
    stood = snapshot_rules.stood_on([volume(), first, second])
    # The one in between is copied, but the gateway of the last may have opened the chain before.
    assert stood == {"vol-0000000000000002": {5: [second.id]}, VOL: {1: [second.id]}}
    assert snapshot_rules.stood_on([volume(), first, replace(second, hydrated_chunks=16)]) == {}
    assert snapshot_rules.stood_on([volume(), first, replace(second, state="deleting")]) == {}
    # Not more than once, however often it is met; a loop, which cannot be, ends.
    assert snapshot_rules.stood_on([clone(2, "vol-0000000000000002", 1)]) == {
        "vol-0000000000000002": {1: ["vol-0000000000000002"]}
    }


def test_delete_takes_it_from_the_list() -> None:
    before = volume(**CHAIN, snapshot_names={"1": "s-1", "2": "s-2"}, snapshot_bytes={"1": 5, "2": 6})
    after = snapshot_rules.delete_snapshot(before, 1)
    assert (after.snapshots, after.snapshot_names, after.snapshot_bytes) == ({"2": "done"}, {"2": "s-2"}, {"2": 6})
    assert (after.parents, after.head) == (before.parents, before.head)
    assert snapshot_rules.delete_snapshot(after, 1) == after
    # What a clone stands on keeps its size, which says where there is nothing.
    assert snapshot_rules.delete_snapshot(before, 1, {1: ["vol-x"]}).snapshot_bytes == {"1": 5, "2": 6}
    with pytest.raises(InUse, match="attached read-only to h1"):
        snapshot_rules.delete_snapshot(replace(before, read_node=2, host="h1"), 2)
    with pytest.raises(Conflict, match="still being taken"):
        snapshot_rules.delete_snapshot(replace(before, snapshots={"1": "pending"}), 1)
    assert snapshot_rules.named(before, "s-2") == 2
    assert snapshot_rules.named(before, "2") == 2
    for key in ("3", "s-3", "", "²"):
        with pytest.raises(NotFound, match="its nodes: 1, 2"):
            snapshot_rules.named(before, key)


def test_rollback_makes_a_head_on_an_old_node_once() -> None:
    before = volume(**CHAIN)
    after = snapshot_rules.rollback(before, 1, "t1")
    assert (after.parents, after.head) == ((0, 0, 1, 2, 1, 1), 5)
    assert snapshot_rules.dead(after) == [3, 4]
    assert snapshot_rules.rollback(after, 1, "t1") == after
    again = snapshot_rules.rollback(after, 2, "t2")
    assert (again.parents[-1], again.head) == (2, 6)
    assert snapshot_rules.rollback(again, 1, "t1") == again
    for number in range(20):
        again = snapshot_rules.rollback(again, 1, f"more-{number}")
    assert len(again.rollbacks) == snapshot_rules.TOKENS_KEPT
    refusals: list[tuple[dict[str, Any], int, str]] = [
        ({"state": "attached", "host": "h1"}, 1, "attached to h1"),
        ({"state": "deleting"}, 1, "being deleted"),
        ({"unfenced": True}, 1, "detached by force"),
        ({"snapshots": {"1": "pending"}}, 1, "still being taken"),
        ({}, 3, "no snapshot node 3"),
    ]
    for fields, node, why in refusals:
        with pytest.raises((Conflict, NotFound), match=why):
            snapshot_rules.rollback(replace(before, **fields), node, "")


def test_swept_forgets_servers_that_hold_nothing() -> None:
    before = volume(**CHAIN, swept={"1": 1, "7": 1}, snapshot_bytes={"1": 5, "2": 6, "3": 7})
    after = snapshot_rules.swept(before, [2], 4, [1, 2, 3], [3])
    assert after.swept == {"1": 1, "2": 4}
    assert after.snapshot_bytes == {"1": 5, "2": 6, "3": 7}
    assert snapshot_rules.swept(after, [2], 3, [1, 2, 3], []).swept == {"1": 1, "2": 4}
    assert snapshot_rules.swept(after, [], 3, [1, 2, 3], []).snapshot_bytes == {"1": 5, "2": 6}


@given(st.lists(st.tuples(st.sampled_from(["take", "delete", "back", "clone", "copied"]), st.integers(0, 99))))
def test_the_dead_stay_dead_and_the_live_are_reachable(history: list[tuple[str, int]]) -> None:
    now, clones, dead = volume(), [], set[int]()
    for number, (what, pick) in enumerate(history):
        nodes = [int(node) for node in now.snapshots]
        if what == "take":
            now, _ = rules.snapshot(now, f"s-{number}")
        elif what == "copied" and clones:
            clones.pop(pick % len(clones))
        elif nodes:
            node = nodes[pick % len(nodes)]
            if what == "delete":
                stood = snapshot_rules.stood_on([now, *clones]).get(VOL, {})
                now = snapshot_rules.delete_snapshot(now, node, stood)
            elif what == "back":
                now = snapshot_rules.rollback(now, node, "")
            elif what == "clone":
                clones.append(clone(number + 2, VOL, node))
        stood = snapshot_rules.stood_on([now, *clones]).get(VOL, {})
        after = set(snapshot_rules.dead(now, stood))
        assert dead <= after, "a dead layer came to life"
        dead = after
        assert all(parent < layer for layer, parent in enumerate(now.parents) if layer)
        tree = tree_of(now, stood, None)
        ids = [one.node for one in tree.nodes]
        assert set(snapshot_rules.live(now, stood)) <= set(ids)
        assert all(one.parent == -1 or one.parent in ids[: ids.index(one.node)] for one in tree.nodes)
        assert sum(one.kind == "head" for one in tree.nodes) == 1


def test_the_tree_adds_up() -> None:
    #  0 ─ 1(s) ─ 2 ─ 3(s) ─ 4(head)      2 is dead, and 5 and 6 stand on it too; 7 is an old head
    #             └─ 5(s)    └ 7
    #             └─ 6(clone)
    now = volume(
        parents=(0, 0, 1, 2, 3, 2, 2, 3),
        head=4,
        snapshots={"1": "done", "3": "done", "5": "done"},
        snapshot_names={"1": "s-1"},
    )
    nodes = {str(layer): NodeUsage(bytes=10**layer, exclusive_bytes=1, visible_bytes=5) for layer in range(8)}
    usage = VolumeUsage(id=VOL, at="2026-01-01T00:00:00Z", layers=8, dead=2, nodes=nodes)
    tree = tree_of(now, {6: ["vol-c"]}, usage)
    shown = {one.node: (one.parent, one.kind, one.used_bytes) for one in tree.nodes}
    assert shown == {
        1: (-1, "snapshot", 11),
        2: (1, "branch", 100),
        3: (2, "snapshot", 1000),
        4: (3, "head", 10_000),
        5: (2, "snapshot", 100_000),
        6: (2, "clone", 1_000_000),
    }
    assert tree.garbage_bytes == 10_000_000
    assert sum(one.used_bytes for one in tree.nodes) + tree.garbage_bytes == tree.used_bytes
    assert tree.current
    assert tree.nodes[-1].clones == ("vol-c",)
    assert tree.nodes[0].name == "s-1"
    assert tree.nodes[0].shared_bytes == 4
    # Without 5 and the clone nothing branches: what is dead is counted where it is shown.
    line = tree_of(replace(now, snapshots={"1": "done", "3": "done"}), {}, usage)
    assert {one.node: (one.parent, one.used_bytes) for one in line.nodes} == {1: (-1, 11), 3: (1, 1100), 4: (3, 10_000)}
    assert not line.current


def test_a_long_history_stays_small_and_fast() -> None:
    now, pick = volume(), random.Random(7)
    for number in range(1, 4000):
        now, _ = rules.snapshot(now, f"s-{number:016x}")
        if number > 1000:
            now = snapshot_rules.delete_snapshot(now, int(pick.choice(list(now.snapshots))))
    assert len(now.snapshots) == 1000
    assert len(msgspec.json.encode(now)) < 120_000
    assert len(tree_of(now, {}, None).nodes) >= 1001
    full = volume(
        parents=tuple(range(rules.LAYERS_MAX - 1)),
        snapshots={str(n): "pending" for n in range(30_000, 30_000 + rules.SNAPSHOTS_MAX)},
        snapshot_names={str(n): f"s-{n:016x}" for n in range(30_000, 30_000 + rules.SNAPSHOTS_MAX)},
        snapshot_bytes={str(n): 4 << 40 for n in range(30_000, 30_000 + rules.SNAPSHOTS_MAX)},
    )
    assert len(msgspec.json.encode(full)) < 600_000, "etcd takes 1.5 MiB"
    with pytest.raises(Conflict, match="4096 snapshots"):
        rules.snapshot(full, "one more")
