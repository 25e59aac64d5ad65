"""Whatever is frozen, rolled back, deleted and swept, by whichever leader: what may be read is what was frozen.

A state machine draws histories. Snapshot rules, the office's guarded writes and the sweeper are the real code on the
in-memory etcd. A gateway writes to the head that it knows; servers free what a sweep allows them to. Sweeps may arrive
long after they were sent, also from leaders that are deposed, which see an old picture of the volumes; a decision may
be overtaken by another one between its reading and its writing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.pangu.world import VOL, RacingStore, office_of
from yuntai.model.cluster import Placement, Volume
from yuntai.pangu import rules, snapshot_rules, wire
from yuntai.pangu.errors import PanguError, Unavailable
from yuntai.pangu.sweeper import Sweeper
from yuntai.pangu.units import CHUNK_BYTES
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from yuntai.pangu.office import Office

REACHED: Counter[str] = Counter()
SERVERS = (1, 2, 3)
BLOCKS = 4
pick = st.integers(0, 1_000_000)
wish = st.sampled_from(["snapshot", "delete", "rollback"])
seldom = st.integers(0, 5).map(lambda number: number == 5)


class Atlas:
    """A leader's picture of the volumes, as old as its watch."""

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}

    async def ready(self) -> None:
        """It has one from the beginning."""


class Server:
    """What one chunk server has of the volume: (layer, block) → what was written."""

    def __init__(self) -> None:
        self.has: dict[tuple[int, int], int] = {}
        self.term = 0

    def shows(self, parents: tuple[int, ...], layer: int, block: int) -> int:
        while layer and (layer, block) not in self.has:
            layer = parents[layer]
        return self.has.get((layer, block), 0)

    def sweep(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["term"] < self.term:
            REACHED["an older leader's sweep was refused"] += 1
            raise wire.Refused("a higher term was heard of")
        self.term = request["term"]
        parents, needed = request["parents"], set()
        for live, block in itertools.product(request["live"], range(BLOCKS)):
            layer = live
            while layer and (layer, block) not in self.has:
                layer = parents[layer]
            needed.add((layer, block))
        # Layers that came after the question are left alone.
        gone = [key for key in self.has if key not in needed and key[0] < len(parents)]
        REACHED["blocks were freed"] += len(gone)
        for key in gone:
            del self.has[key]
        return {"done": True, "freed_bytes": 4096 * len(gone)}


class Sweeps(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = RacingStore()
        self.servers = {number: Server() for number in SERVERS}
        self.late: list[tuple[int, dict[str, Any]]] = []
        self.mood = "answer"
        self.tags = itertools.count(1)
        self.now: dict[int, int] = {}  # what the head shows
        self.frozen: dict[int, dict[int, int]] = {}
        self.gateway: tuple[int, int] | None = None  # generation, and the head that it knows
        self.terms: list[tuple[Office, Sweeper, Atlas]] = []
        self.run(self._begin())
        self.elect()

    def teardown(self) -> None:
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _begin(self) -> None:
        await self.store.put(Volume(id=VOL, size_bytes=CHUNK_BYTES, created=""))
        await self.store.put(Placement(id=f"{VOL}.000000", chunks=(SERVERS,)))

    def volume(self) -> Volume:
        return self.run(self.store.need(Volume, VOL)).value  # type: ignore[no-any-return]

    # the seam of the sweeper

    async def call(self, number: int, request: dict[str, Any], _timeout_s: float) -> Any:
        mood, self.mood = self.mood, "answer"
        if mood == "late":
            self.late.append((number, request))
            raise Unavailable("no answer in time")
        answer = self.servers[number].sweep(request)
        if mood == "lost":
            raise Unavailable("the answer was lost")
        return answer

    # masters

    @rule()
    def elect(self) -> None:
        """Another master leads; the one before goes on for a while."""

        office, atlas = office_of(self.store, self.run(self.store.elect(len(self.terms)))), Atlas()
        self.terms.append((office, Sweeper(office, self, atlas, quiet_s=0.0), atlas))  # type: ignore[arg-type]
        self.hear(old=False)

    def term(self, *, old: bool) -> tuple[Office, Sweeper, Atlas]:
        return self.terms[-2] if old and len(self.terms) > 1 else self.terms[-1]

    @rule(old=seldom)
    def hear(self, *, old: bool) -> None:
        """A leader's picture becomes what is."""
        self.term(old=old)[2].volumes[VOL] = self.volume()

    @rule(
        mood=st.sampled_from(["answer", "answer", "lost", "late"]),
        number=pick,
        what=wish,
        old=seldom,
        overtaken=seldom,
        fresh=st.booleans(),
    )
    def sweep(self, mood: str, number: int, what: str, *, old: bool, overtaken: bool, fresh: bool) -> None:
        if fresh:
            self.hear(old=old)
        self.sweep_now(mood, number, what, old=old, overtaken=overtaken)

    def sweep_now(self, mood: str, number: int, what: str, *, old: bool, overtaken: bool) -> None:
        self.mood = mood
        if overtaken:
            self.store.overtake = lambda: self._change(self._drawn(number, what), quiet=True)
        before = self.volume()
        self.run(self.term(old=old)[1].turn())
        REACHED["a sweep was noted"] += self.volume().swept != before.swept
        self.store.overtake, self.mood = None, "answer"
        self._settled()

    @rule(number=pick, old=st.booleans(), overtaken=st.booleans())
    def go_back_and_sweep(self, number: int, *, old: bool, overtaken: bool) -> None:
        """The volume is detached and rolled back; then it is swept, perhaps by who led before, perhaps overtaken."""
        self.detach()
        self.ask(number, "rollback", old=False)
        self.hear(old=old)
        if old:
            self.elect()
        self.sweep_now("answer", number, "snapshot", old=old, overtaken=overtaken)

    @rule(number=pick, block=st.integers(0, BLOCKS - 1), newer=st.booleans())
    def a_sweep_is_long_on_its_way(self, number: int, block: int, *, newer: bool) -> None:
        """There is something to free, but the order to do so arrives late, perhaps after a newer leader's."""
        self.freeze_and_write(block, 2)
        self.ask(number, "delete", old=False)
        self.hear(old=False)
        self.sweep_now("late", number, "snapshot", old=False, overtaken=False)
        if newer:
            self.elect()
            self.sweep_now("answer", number, "snapshot", old=False, overtaken=False)
        if self.late:
            self.late_sweep(len(self.late) - 1)

    @precondition(lambda self: self.late)
    @rule(number=pick)
    def late_sweep(self, number: int) -> None:
        """What was sent long ago arrives."""
        server, request = self.late.pop(number % len(self.late))
        REACHED["a sweep came late"] += 1
        try:
            self.servers[server].sweep(request)
        except wire.Refused:
            return

    # what is asked for

    def _drawn(self, number: int, what: str) -> Callable[[Volume], Volume]:

        def change(volume: Volume) -> Volume:
            nodes = sorted(volume.snapshots)
            node = int(nodes[number % len(nodes)]) if nodes else -1
            match what:
                case "snapshot":
                    return rules.snapshot(volume, "")[0]
                case "delete" if nodes:
                    return snapshot_rules.delete_snapshot(volume, node)
                case "rollback" if nodes:
                    return snapshot_rules.rollback(volume, node, f"token-{number}")
            return volume

        return change

    async def _change(self, change: Callable[[Volume], Volume], *, quiet: bool = False, old: bool = False) -> bool:
        try:
            await self.term(old=old)[0].change(VOL, change)
        except (PanguError, StateError):
            return False
        REACHED["a decision was overtaken"] += quiet
        return True

    @rule(number=pick, what=wish, old=seldom)
    def ask(self, number: int, what: str, *, old: bool) -> None:
        self.run(self._change(self._drawn(number, what), old=old))
        self._settled()

    @rule(block=st.integers(0, BLOCKS - 1), count=st.integers(1, 4))
    def freeze_and_write(self, block: int, count: int) -> None:
        """Several snapshots, each with something written after it."""
        self.attach()
        for _ in range(count):
            self.write(block)
            self.ask(0, "snapshot", old=False)
            self.tell()
            self.write(block)

    def _settled(self) -> None:
        """What the record froze or rolled back while nobody writes is so at once."""
        volume = self.volume()
        for node in [int(one) for one, state in volume.snapshots.items() if state == "done"]:
            self.frozen.setdefault(node, dict(self.now))
        if self.gateway is None and volume.parents[volume.head] in self.frozen:
            below = self.frozen[volume.parents[volume.head]]
            if not any(
                (volume.head, block) in server.has for server in self.servers.values() for block in range(BLOCKS)
            ):
                REACHED["rolled back"] += below != self.now
                self.now = dict(below)

    @rule()
    def attach(self) -> None:
        if self.gateway is None and self.run(self._change(lambda v: rules.attach(v, rules.Want("h1"), 0))):
            volume = self.volume()
            self.gateway = (volume.generation, volume.head)

    @rule()
    def detach(self) -> None:
        if self.gateway is not None:
            self.tell()
            if self.run(self._change(lambda v: rules.detach(v, "h1", forced=False))):
                self.gateway = None
                self._settled()

    @precondition(lambda self: self.gateway is not None)
    @rule()
    def tell(self) -> None:
        """The gateway switches to the head of the record; what is below it is frozen from now on."""
        volume = self.volume()
        self.gateway = (volume.generation, volume.head)
        for node in volume.snapshots:
            self.frozen.setdefault(int(node), dict(self.now))
        if self.run(self._change(lambda v: rules.snapshots_done(v, volume.head))):
            REACHED["a gateway switched"] += 1

    @precondition(lambda self: self.gateway is not None)
    @rule(block=st.integers(0, BLOCKS - 1))
    def write(self, block: int) -> None:
        assert self.gateway is not None
        tag = next(self.tags)
        self.now[block] = tag
        for server in self.servers.values():
            server.has[self.gateway[1], block] = tag

    @invariant()
    def what_may_be_read_is_what_was_frozen(self) -> None:
        volume = self.volume()
        head = self.gateway[1] if self.gateway is not None else volume.head
        views = {int(node): self.frozen[int(node)] for node in volume.snapshots if int(node) in self.frozen}
        for (number, server), block in itertools.product(self.servers.items(), range(BLOCKS)):
            for node, view in views.items():
                shown = server.shows(volume.parents, node, block)
                assert shown == view.get(block, 0), f"node {node} shows {shown} at {number}, {view} was frozen"
            shown = server.shows(volume.parents, head, block)
            assert shown == self.now.get(block, 0), f"the head {head} shows {shown} at {number}, not {self.now}"

    @invariant()
    def what_is_dead_stays_dead(self) -> None:
        dead = set(snapshot_rules.dead(self.volume()))
        assert getattr(self, "dead", set()) <= dead
        self.dead = dead


TestSweeps = Sweeps.TestCase
TestSweeps.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "80")),
    stateful_step_count=60,
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_every_interesting_thing_happened() -> None:
    """Runs after the histories."""
    wanted = ["blocks were freed", "rolled back", "a sweep came late", "a gateway switched", "a decision was overtaken"]
    wanted += ["an older leader's sweep was refused", "a sweep was noted"]
    print(dict(REACHED))
    assert not [what for what in wanted if not REACHED[what]], dict(REACHED)
