"""Whatever gateways, disks, servers and masters do: the master's decisions keep the data.

A state machine draws histories. The decisions are the real code (desk, commits, holdings, admission, rules) on the
in-memory etcd; gateways and chunk servers are models that may lose answers, repeat and delay events, be fenced without
knowing it, and get a request to drop long after it was sent. A decision may be overtaken by another one between its
reading and its writing, and a deposed master goes on deciding.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from tests.unit.pangu.world import CHUNKS, NUMBER, REACHED, SERVERS, VOL, Disk, RacingStore, Session, Term, World
from yuntai.model.cluster import ChunkServer, Placement, Volume
from yuntai.pangu import holdings, rules, wire
from yuntai.pangu.errors import PanguError, Unavailable
from yuntai.pangu.moves import Move
from yuntai.pangu.servers import Status
from yuntai.pangu.units import CHUNK_BYTES
from yuntai.state import StateError, records

hosts = st.sampled_from(["h1", "h2"])
servers = st.sampled_from(SERVERS)
chunks = st.integers(0, CHUNKS - 1)
RARE = ("elect", "attach", "tend", "detach", "untend", "snapshot", "drain", "swap")
seldom = st.integers(0, 7).map(lambda number: number == 7)


class Decisions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = RacingStore()
        self.world = World()
        self.events: list[tuple[Session, dict[str, Any]]] = []
        self.acked = [0] * CHUNKS
        self.issued = itertools.count(1)
        self.generation = 0
        self.terms: list[Term] = []
        self.loop.run_until_complete(self._begin())
        self.world.named = self._is_named
        self.hurry = mock.patch.object(holdings, "QUIET_S", 0.0)  # reads take no time here
        self.hurry.start()
        self.elect()

    def teardown(self) -> None:
        self.hurry.stop()
        self.loop.close()

    async def _begin(self) -> None:
        for number in SERVERS:
            name = self.world.disks[number].name
            record = ChunkServer(id=f"cs-{number}", number=number, rack=f"r{number}", host="h", address="", store=name)
            await self.store.put(record)
        await self.store.put(Volume(id=VOL, size_bytes=CHUNKS * CHUNK_BYTES, created=""))
        await self.store.put(Placement(id=f"{VOL}.000000", chunks=((1, 2, 3), (2, 3, 4), (3, 4, 5))))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def volume(self) -> Volume:
        return self.run(self.store.need(Volume, VOL)).value  # type: ignore[no-any-return]

    def placement(self) -> list[list[int]]:
        return [list(replicas) for replicas in self.run(self.store.need(Placement, f"{VOL}.000000")).value.chunks]

    def _is_named(self, chunk: int, server: int) -> bool:
        """Whether a placement names the replica, or a gateway that has the say counts it. Works inside the loop."""
        record, volume = self._stored(Placement, f"{VOL}.000000"), self._stored(Volume, VOL)
        session = self.world.session(volume)
        # Until it has heard of a move's end the gateway counts the replica that is left, too.
        return server in record.chunks[chunk] or (session is not None and server in session.required(chunk))

    def _stored(self, kind: Any, record_id: str) -> Any:
        key = records.key_of(kind, record_id)
        return records.decode(kind, key, self.store.memory.entries[key].value)

    @property
    def term(self) -> Term:
        return self.terms[-1]

    # masters

    @rule(what=st.sampled_from(RARE), host=hosts, server=servers)
    def rarely(self, what: str, host: str, server: int) -> None:
        """What happens once while many writes do."""
        match what:
            case "elect":
                self.elect()
            case "attach":
                self.attach(host)
            case "tend":
                self.tend(host)
            case "detach":
                self.detach()
            case "untend":
                self._changed(rules.untended)
            case "snapshot":
                self._changed(lambda volume: rules.snapshot(volume, "")[0])
            case "drain":
                self.drain(server)
            case "swap":
                self.swap_disk(self._telling(server))

    def elect(self) -> None:
        """Another master leads; the one before may not know it yet."""

        self.terms.append(Term(self.world, self.store, self.run(self.store.elect(len(self.terms)))))
        self.run(self.term.holdings.announce(self.world.statuses()))

    # gateways and their volume

    def attach(self, host: str) -> None:
        self._opened(self._changed(lambda v: rules.attach(v, rules.Want(host), 0)))

    def tend(self, host: str) -> None:
        before = self.volume().generation
        after = self._changed(lambda v: rules.tend(v, host))
        if after is not None and after.generation != before:
            self._opened(after)

    def detach(self) -> None:
        volume = self.volume()
        if volume.state == "attached":
            self._changed(lambda v: rules.detach(v, v.host, forced=False))

    def _changed(self, change: Callable[[Volume], Volume]) -> Volume | None:
        try:
            return self.run(self.term.office.change(VOL, change))  # type: ignore[no-any-return]
        except (PanguError, StateError):
            return None

    def _opened(self, volume: Volume | None) -> None:
        if volume is None or not rules.holder(volume):
            return
        stale = {int(number) for number in volume.stale}
        session = Session(rules.holder(volume), volume.generation, self.placement(), stale)
        for other in self.world.sessions:
            if other.host == session.host:
                other.open = False
        self.world.sessions.append(session)
        self._claim(session)

    def _claim(self, session: Session) -> None:
        """A session claims its servers and makes the replicas that count level; who is missing has to go first."""
        if session.serving:
            return
        placed = {number for replicas in session.placement for number in replicas}
        for number in sorted(placed - session.stale):
            disk = self.world.disks[number]
            if not disk.up or not disk.admitted:
                self._raise(session, {"op": "degrade", "server": number, "reason": "no answer"})
                return
            if disk.generation > session.generation:
                session.open = False
                return
            disk.generation = session.generation
        for chunk in range(CHUNKS):
            level = sorted(session.required(chunk))
            most = max(self.world.disks[number].has.get(chunk, 0) for number in level)
            for number in level:
                self._fill(number, chunk, most)
        session.serving = True

    def _session(self, data: st.DataObject) -> Session | None:
        """Mostly the one that has the say; now and then one that does not know that it lost it."""
        known = [session for session in self.world.sessions if session.open]
        if not known:
            return None
        session = data.draw(st.sampled_from(known)) if data.draw(seldom) else known[-1]
        self._claim(session)
        return session if session.open else None

    def _fill(self, number: int, chunk: int, writes: int) -> None:
        if writes:
            self.world.disks[number].has[chunk] = writes

    def _answers(self, session: Session, number: int) -> bool:
        disk = self.world.disks[number]
        return disk.up and disk.admitted and disk.generation <= session.generation

    @rule(data=st.data(), chunk=chunks)
    def write(self, data: st.DataObject, chunk: int) -> None:
        """Acknowledged only when everybody who counts has it; in part it may be anywhere."""
        session = self._session(data)
        if session is None:
            return self.attach("h1")
        if not session.serving:
            return None
        required = session.required(chunk)
        if len(required) < 2:
            return None
        has = {number: self.world.disks[number].has.get(chunk, 0) for number in required}
        told = [n for n in required if self._answers(session, n) and has[n] >= self.acked[chunk]]
        number = next(self.issued)
        for one in told:
            self.world.disks[one].generation = session.generation
            self._fill(one, chunk, number)
        if len(told) == len(required):
            self.acked[chunk] = number
            REACHED["write acknowledged"] += 1
        for one in sorted(required - set(told)):
            if one in session.placement[chunk] and one not in session.stale:
                self._raise(session, {"op": "degrade", "server": one, "reason": "missed a write"})
        return None

    def _raise(self, session: Session, event: dict[str, Any]) -> None:
        told = {**event, "volume": NUMBER, "generation": session.generation}
        if (session, told) not in self.events:
            self.events.append((session, told))

    @rule(data=st.data())
    def catch_up(self, data: st.DataObject) -> None:
        session = self._session(data)
        back = [n for n in sorted(session.stale) if self._answers(session, n)] if session is not None else []
        if session is None or not session.serving or not back:
            return
        server = data.draw(st.sampled_from(back))
        if session.readmitting or not all(self._level(session, c, server) for c in range(CHUNKS)):
            return
        session.readmitting = server
        self._raise(session, {"op": "readmit", "server": server})

    def _level(self, session: Session, chunk: int, server: int) -> bool:
        """Copy a chunk from those that count; possible only while all of them answer."""
        if server not in session.placement[chunk] and server not in [m.to for m in session.joining.values()]:
            return True
        required = session.required(chunk) - {server}
        if not required or not all(self._answers(session, number) for number in required):
            return False
        self.world.disks[server].generation = session.generation
        self._fill(server, chunk, max(self.world.disks[number].has.get(chunk, 0) for number in required))
        return True

    @rule(data=st.data(), chunk=chunks, to=servers, whole=st.booleans())
    def move(self, data: st.DataObject, chunk: int, to: int, whole: bool) -> None:
        """The planner wants something, not always wise; but only where this master's term is known."""
        replicas = self.placement()[chunk]
        session = self._session(data)
        if session is None or not session.serving:
            return
        if to not in replicas and to in self.term.holdings.announced and str(to) not in self.volume().stale:
            self.term.wanted[chunk] = Move(chunk, data.draw(st.sampled_from(replicas)), to)
            if session is self.world.session(self.volume()) and chunk not in session.raised:
                session.joining[chunk] = self.term.wanted[chunk]
        for joining in list(session.joining) if whole else ():
            self._joined(session, joining)

    def _joined(self, session: Session, chunk: int) -> None:
        """A joining replica has everything: it counts, and the master is told."""
        move = session.joining[chunk]
        if not self._answers(session, move.to) or move.to in session.stale or move.to in session.placement[chunk]:
            return
        if not self._level(session, chunk, move.to):
            return
        session.raised[chunk] = session.joining.pop(chunk)
        self._raise(session, {"op": "moved", "moves": [session.raised[chunk].wire()]})

    # events reach a master: the leader, or one that believes to be

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def deliver_all(self, data: st.DataObject) -> None:
        for session, event in list(self.events):
            answer = self.run(self._decided(self.term, session, event))
            if answer is not None and (session, event) in self.events:
                self.events.remove((session, event))
                self._learned(session, event, answer)

    @precondition(lambda self: self.events)
    @rule(data=st.data(), fate=st.sampled_from(["answered", "answered", "lost", "twice"]), old=seldom)
    def deliver(self, data: st.DataObject, fate: str, old: bool) -> None:
        session, event = self.events[data.draw(st.integers(0, len(self.events) - 1))]
        term = self.terms[-2] if old and len(self.terms) > 1 else self.term
        if data.draw(seldom) and len(self.events) > 1:
            other, overtaking = self.events[data.draw(st.integers(0, len(self.events) - 1))]
            if overtaking["op"] != "moved":  # a second one would wait for the volume's lock
                self.store.overtake = lambda: self._decided(self.term, other, overtaking)
        answer = self.run(self._decided(term, session, event))
        self.store.overtake = None
        if answer is None or fate == "lost":
            return
        if fate != "twice":
            self.events.remove((session, event))
        self._learned(session, event, answer)

    async def _decided(self, term: Term, session: Session, event: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return await term.desk.answer_event(session.host, event)
        except Unavailable:
            return None

    def _learned(self, session: Session, event: dict[str, Any], answer: dict[str, Any]) -> None:
        REACHED[f"{event['op']} {answer['answer']}"] += 1
        REACHED["move placed"] += len(answer.get("moves", ()))
        if answer["answer"] == "fenced":
            session.open = False
            self.events = [(one, told) for one, told in self.events if one is not session]
            return
        if event["op"] == "readmit" and session.readmitting == event["server"]:
            session.readmitting = 0
        if answer["answer"] == "stale":
            session.stale = set(answer["stale"])
        if event["op"] == "moved":
            placed = [Move(m["chunk"], m["from"], m["to"]) for m in answer.get("moves", ())]
            for wire_move in event["moves"]:
                move = Move(wire_move["chunk"], wire_move["from"], wire_move["to"])
                if move in placed and move.from_ in session.placement[move.chunk]:
                    row = session.placement[move.chunk]
                    row[row.index(move.from_)] = move.to
                if session.raised.get(move.chunk) == move:
                    del session.raised[move.chunk]

    # servers and their disks

    @rule(server=servers, together=seldom)
    def die(self, server: int, together: bool) -> None:
        if together or all(disk.up for disk in self.world.disks.values()):
            self.world.disks[self._telling(server)].up = False

    @rule()
    def come_back(self) -> None:
        for disk in self.world.disks.values():
            disk.up = True

    def _telling(self, server: int) -> int:
        """Rather a server that has just been said to have everything: that is when it hurts."""
        said = [move.to for session in self.world.sessions if session.open for move in session.raised.values()]
        return said[0] if said and server > 2 else server

    def swap_disk(self, server: int) -> None:
        """Only while every chunk has another replica that counts: else the data would be lost by the operator."""
        counted = self._counted()
        admitted = all(disk.admitted for disk in self.world.disks.values())
        if not admitted or any(server in on and len(on) < 2 for on in counted):
            return
        REACHED["disk swapped"] += 1
        self.world.disks[server] = Disk(f"store-{server}-{next(self.issued)}", admitted=False)
        for session in self.world.sessions:
            session.joining = {chunk: move for chunk, move in session.joining.items() if move.to != server}

    def _counted(self) -> list[set[int]]:
        """Per chunk the servers that count by etcd and have their old disk."""
        volume = self.volume()
        return [
            {n for n in replicas if str(n) not in volume.stale and self.world.disks[n].admitted}
            for replicas in self.placement()
        ]

    @rule(mood=st.sampled_from(["answer", "lost"]))
    def admit(self, mood: str) -> None:
        self.world.mood = mood
        for number, status in self.world.statuses().items():
            record = self.run(self.store.need(ChunkServer, f"cs-{number}")).value
            if status.admitted and record.admitted and record.store == status.store:
                continue
            try:
                self.run(self._look(number, status))
            except (PanguError, StateError, wire.Refused):
                continue
        self.world.mood = "answer"

    async def _look(self, number: int, status: Status) -> None:
        self.term.admission._suspect = lambda _number, _status: True  # type: ignore[method-assign]
        await self.term.admission.look(number, status)

    @rule(data=st.data(), mood=st.sampled_from(["answer", "answer", "lost", "late"]), old=seldom)
    def drop(self, data: st.DataObject, mood: str, old: bool) -> None:
        """The leader, or one deposed, drops what it finds that nothing names."""
        placed = self.placement()
        spare = [n for n, d in self.world.disks.items() if d.up and any(n not in placed[chunk] for chunk in d.has)]
        if not spare:
            return
        server = data.draw(st.sampled_from(spare))
        term = self.terms[-2] if old and len(self.terms) > 1 else self.term
        held = self.world.served(server, {"op": "inventory"})
        self.world.mood = mood
        with contextlib.suppress(PanguError, StateError, wire.Refused):
            self.run(term.holdings._drop(server, VOL, held))
        self.world.mood = "answer"
        self.run(self.term.holdings.announce(self.world.statuses()))

    @precondition(lambda self: self.world.late)
    @rule(data=st.data())
    def late_drop(self, data: st.DataObject) -> None:
        """What was sent long ago arrives."""
        number, request = self.world.late.pop(data.draw(st.integers(0, len(self.world.late) - 1)))
        try:
            self.world.served(number, request)
        except wire.Refused:
            return

    def drain(self, server: int) -> None:
        flip = {"up": "draining", "draining": "up"}
        change: Any = lambda record: replace(record, state=flip[record.state])  # noqa: E731
        self.run(self.store.update(ChunkServer, f"cs-{server}", change))

    # what must hold

    @invariant()
    def generations_never_go_back(self) -> None:
        now = self.volume().generation
        assert now >= self.generation
        self.generation = now

    @invariant()
    def every_chunk_counts_on_two(self) -> None:
        volume = self.volume()
        gone = {int(n) for n, why in volume.stale.items() if why == "its disk was replaced"}
        for replicas in self.placement():
            assert len(set(replicas)) == 3
            assert len(set(rules.in_sync(tuple(replicas), volume.stale)) | (gone & set(replicas))) >= 2

    @invariant()
    def who_counts_has_every_acknowledged_write(self) -> None:
        for chunk, counted in enumerate(self._counted()):
            for number in counted:
                has = self.world.disks[number].has.get(chunk, 0)
                assert has >= self.acked[chunk], f"chunk {chunk}: {number} has {has} of {self.acked[chunk]}"


TestDecisions = Decisions.TestCase
TestDecisions.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "200")),
    stateful_step_count=120,
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_every_interesting_thing_happened() -> None:
    """Runs after the histories."""
    wanted = ["write acknowledged", "replica dropped", "disk swapped", "disk admitted", "move placed"]
    wanted += ["degrade stale", "degrade refused", "degrade fenced", "readmit stale", "moved placed", "moved fenced"]
    print(dict(REACHED))
    assert not [what for what in wanted if not REACHED[what]], dict(REACHED)
