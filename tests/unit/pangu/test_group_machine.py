"""Whatever leaders race and gateways are lost: what was frozen together is of one moment, and stays as it was.

A state machine draws histories. Attaching, detaching, freezing alone and together, and what a new leader does to what
it finds begun are the real code on the in-memory etcd. A guest writes to two volumes of one host in turn: number by
number, to the first one first. Requests to its gateway are lost, refused, or arrive long after they were sent, also
from leaders that are deposed; a decision may be overtaken by another one between its reading and its writing.
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

from tests.unit.pangu.world import RacingStore, office_of
from yuntai.model.cluster import ChunkServer, Placement, Volume
from yuntai.pangu import rules, wire
from yuntai.pangu.errors import PanguError, Unavailable
from yuntai.pangu.handover import Handover
from yuntai.pangu.serving import Serving
from yuntai.pangu.snapshots import Snapshots
from yuntai.pangu.units import CHUNK_BYTES, volume_number
from yuntai.pangu.volumes import Volumes
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Coroutine

REACHED: Counter[str] = Counter()
PAIR = ("vol-0000000000000001", "vol-0000000000000002")
SERVERS = (1, 2, 3)
one_of_two = st.integers(0, 1)
moods = st.sampled_from(["answer", "answer", "lost", "late", "refused"])
seldom = st.integers(0, 5).map(lambda number: number == 5)


class Gateway:
    """The host's gateway: what it has open under which generation, which head it writes to, and what it closed well."""

    def __init__(self) -> None:
        self.open: dict[int, tuple[int, int]] = {}
        self.closed: dict[int, int] = {}

    def handle(self, request: dict[str, Any]) -> Any:
        match request["op"]:
            case "open":
                return self._opened(request)
            case "close":
                return self._close(request)
            case "snapshot":
                self._switch([request])
            case "snapshot_group":
                self._switch(request["volumes"])
        return {}

    def _opened(self, request: dict[str, Any]) -> Any:
        number, generation = request["volume"], request["generation"]
        here, _ = self.open.get(number, (0, 0))
        if here > generation:
            raise wire.Refused("a newer generation is open here")
        if here < generation:
            self.open[number] = (generation, request["head"])
        return {"socket": "s", "generation": generation}

    def _close(self, request: dict[str, Any]) -> Any:
        number, generation = request["volume"], request["generation"]
        if number in self.open:
            if self.open[number][0] != generation:
                raise wire.Refused("another generation is open here")
            del self.open[number]
            self.closed[number] = generation
        return {"flushed": self.closed.get(number) == generation, "generation": generation}

    def _switch(self, volumes: list[dict[str, Any]]) -> None:
        for one in volumes:
            generation, head = self.open.get(one["volume"], (0, 0))
            if generation != one["generation"] or one["head"] < head:
                raise wire.Refused("that is not open here, or it has a newer head")
        REACHED["a group was switched at once"] += len(volumes) > 1
        for one in volumes:
            self.open[one["volume"]] = (one["generation"], one["head"])


class Groups(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = RacingStore()
        self.gateway = Gateway()
        self.handover = Handover()
        self.mood = "answer"
        self.late: list[dict[str, Any]] = []
        self.numbers = [0, 0]  # what the guest wrote last to each
        self.written: list[dict[int, int]] = [{}, {}]  # layer → the last number in it
        self.seen: dict[tuple[int, int], int] = {}
        self.names = itertools.count(1)
        self.volumes: dict[str, Volume] = {}  # the leader's picture
        self.terms: list[tuple[Volumes, Snapshots, Serving]] = []
        self.run(self._begin())
        self.elect()

    def teardown(self) -> None:
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _begin(self) -> None:
        for volume in PAIR:
            await self.store.put(Volume(id=volume, size_bytes=CHUNK_BYTES, created=""))
            await self.store.put(Placement(id=f"{volume}.000000", chunks=(SERVERS,)))

    def volume(self, index: int) -> Volume:
        return self.run(self.store.need(Volume, PAIR[index])).value  # type: ignore[no-any-return]

    # the seams of the master's parts

    async def call(self, _host: str, request: dict[str, Any], _timeout_s: float) -> Any:
        mood, self.mood = self.mood, "answer"
        if mood == "refused":
            raise wire.Refused("not now")
        if mood == "late":
            self.late.append(request)
            raise Unavailable("no answer in time")
        answer = self.gateway.handle(request)
        if mood == "lost":
            raise Unavailable("the answer was lost")
        return answer

    async def refresh(self, _host: str) -> None:
        """What is open is looked up where it is."""

    def record(self, _host: str) -> None:
        """It is registered."""

    def generation_open(self, _host: str, number: int) -> int:
        return self.gateway.open.get(number, (0, 0))[0]

    async def serves(self, host: str, number: int, generation: int) -> bool:
        return self.generation_open(host, number) == generation

    def by_number(self) -> dict[int, ChunkServer]:
        return {n: ChunkServer(id=f"cs-{n}", number=n, rack=f"r{n}", host="h", address="a") for n in SERVERS}

    def moves_of(self, _volume: str) -> tuple[()]:
        return ()

    def noted(self, *_what: object) -> None:
        """Nothing moves here."""

    # masters

    @rule()
    def elect(self) -> None:
        """Another master leads; the one before goes on for a while."""

        office = office_of(self.store, self.run(self.store.elect(len(self.terms))))
        serving = Serving(office, self)  # type: ignore[arg-type]
        serving.gateways = serving.mover = serving.atlas = self  # type: ignore[assignment]
        volumes = Volumes(office, self, self, serving, self)  # type: ignore[arg-type]
        self.terms.append((volumes, Snapshots(office, serving, self, self, self), serving))  # type: ignore[arg-type]

    def term(self, *, old: bool) -> tuple[Volumes, Snapshots, Serving]:
        return self.terms[-2] if old and len(self.terms) > 1 else self.terms[-1]

    def ask(self, work: Coroutine[Any, Any, Any], mood: str = "answer", overtaken: str = "") -> bool:
        if overtaken:
            self.store.overtake = lambda: self._overtake(overtaken)
        self.mood = mood
        try:
            self.run(work)
        except (PanguError, StateError):
            return False
        finally:
            self.store.overtake, self.mood = None, "answer"
        return True

    async def _overtake(self, what: str) -> None:
        volumes, snapshots, serving = self.terms[-1]
        mood, self.mood = self.mood, "answer"
        REACHED["a decision was overtaken"] += 1
        try:
            match what:
                case "group":
                    await snapshots.take_group(dict.fromkeys(PAIR, f"g{next(self.names)}"))
                case "alone":
                    await self.terms[-1][0]._office.change(PAIR[0], lambda v: rules.snapshot(v, "")[0])
                case "settle":
                    await serving._match("h1", PAIR[1])
                case "detach":
                    await volumes.detach(PAIR[1], "h1", force=False)
        except (PanguError, StateError):
            pass
        self.mood = mood

    # what is asked for

    @rule(mood=moods, old=seldom, overtaken=st.sampled_from(["", "", "alone", "settle", "detach"]))
    def freeze_together(self, mood: str, overtaken: str, *, old: bool) -> None:
        # Locks are of one leader: what overtakes a leader is another one's doing.
        names = dict.fromkeys(PAIR, f"g{next(self.names)}")
        work = self.term(old=old)[1].take_group(names)
        if overtaken:
            self.elect_quietly()
        self.ask(work, mood, overtaken)
        pending = ["pending" in self.volume(index).snapshots.values() for index in (0, 1)]
        REACHED["a group was begun and not finished"] += all(pending)

    def elect_quietly(self) -> None:
        """Somebody else leads by the time that the question is looked at."""
        if len(self.terms) < 50:
            self.elect()

    @rule(index=one_of_two, mood=moods, old=seldom)
    def freeze_alone(self, index: int, mood: str, *, old: bool) -> None:
        self.ask(self.term(old=old)[1].take(PAIR[index], ""), mood)

    @rule(index=one_of_two, mood=moods, old=seldom, overtaken=st.sampled_from(["", "", "group"]))
    def settle(self, index: int, mood: str, overtaken: str, *, old: bool) -> None:
        """A leader looks whether the gateway does what the record says."""
        work = self.term(old=old)[2]._match("h1", PAIR[index])
        if overtaken:
            self.elect_quietly()
        self.ask(work, mood, overtaken)

    @rule(index=one_of_two, mood=moods)
    def attach(self, index: int, mood: str) -> None:
        self.volumes = {volume: self.volume(place) for place, volume in enumerate(PAIR)}
        self.ask(self.term(old=False)[0].attach(PAIR[index], rules.Want("h1")), mood)

    @rule(index=one_of_two, mood=moods, old=seldom, force=seldom)
    def detach(self, index: int, mood: str, *, old: bool, force: bool) -> None:
        was = self.volume(index)
        if self.ask(self.term(old=old)[0].detach(PAIR[index], "h1", force=force), mood):
            REACHED["a volume was detached"] += was.state == "attached"
            REACHED["a member of a group was detached before it was finished"] += bool(was.group)

    @rule()
    def begin_anew(self) -> None:
        """Both are attached, and the guest writes."""
        self.attach(0, "answer")
        self.begin_with(1)

    @rule(mood=st.sampled_from(["lost", "late", "refused"]), before=st.booleans())
    def one_comes_back_before_the_group_is_finished(self, mood: str, *, before: bool) -> None:
        """The first volume is detached when the group is begun, or before; then the guest has it again."""
        self.begin_anew()
        if before:
            self.detach(0, "answer", old=False, force=False)
        self.freeze_together(mood, "", old=False)
        self.detach(0, "answer", old=False, force=False)
        self.begin_with(0)
        self.settle(1, "answer", "", old=False)

    def begin_with(self, index: int) -> None:
        self.attach(index, "answer")
        self.write(2)

    @precondition(lambda self: self.late)
    @rule(number=st.integers(0, 1_000_000))
    def arrive_late(self, number: int) -> None:
        request = self.late.pop(number % len(self.late))
        REACHED["a request came late"] += 1
        try:
            self.gateway.handle(request)
        except wire.Refused:
            return

    @rule()
    def kill_the_gateway(self) -> None:
        self.gateway = Gateway()

    @rule(count=st.integers(1, 4))
    def write(self, count: int) -> None:
        """The guest goes on, unless the volume that it is to write to next is not there."""
        for _ in range(count):
            index = 0 if self.numbers[0] == self.numbers[1] else 1
            open_here = self.gateway.open.get(volume_number(PAIR[index]))
            if open_here is None or open_here[0] != self.volume(index).generation:
                return
            self.numbers[index] += 1
            self.written[index][open_here[1]] = self.numbers[index]

    def shown(self, index: int, node: int, parents: tuple[int, ...]) -> int:
        layers = [node]
        while layers[-1]:
            layers.append(parents[layers[-1]])
        return max(self.written[index].get(layer, 0) for layer in layers)

    @invariant()
    def what_is_frozen_stays(self) -> None:
        for index in (0, 1):
            volume = self.volume(index)
            for node in [int(one) for one, state in volume.snapshots.items() if state == "done"]:
                shown = self.shown(index, node, volume.parents)
                assert self.seen.setdefault((index, node), shown) == shown, f"node {node} of {volume.id} changed"

    @invariant()
    def what_was_frozen_together_is_of_one_moment(self) -> None:
        first, second = self.volume(0), self.volume(1)
        other = {name: int(node) for node, name in second.snapshot_names.items()}
        for node, name in first.snapshot_names.items():
            both = (0, int(node)), (1, other.get(name, -1))
            if all(key in self.seen for key in both):
                ahead = self.seen[both[0]] - self.seen[both[1]]
                REACHED["a group was done"] += 1
                assert ahead in (0, 1), f"{name}: the first one is {ahead} numbers ahead"


TestGroups = Groups.TestCase
TestGroups.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "40")),
    stateful_step_count=40,
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_every_interesting_thing_happened() -> None:
    """Runs after the histories."""
    wanted = ["a group was switched at once", "a group was begun and not finished", "a group was done"]
    wanted += ["a request came late", "a decision was overtaken", "a volume was detached"]
    wanted += ["a member of a group was detached before it was finished"]
    print(dict(REACHED))
    assert not [what for what in wanted if not REACHED[what]], dict(REACHED)
