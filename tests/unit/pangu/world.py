"""The world in which the master's decisions are tried: models of disks and gateways, and the seams to the real code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from yuntai.model.cluster import ChunkServer, Volume
from yuntai.pangu import rules, wire
from yuntai.pangu.admission import Admission
from yuntai.pangu.desk import Desk
from yuntai.pangu.errors import Unavailable
from yuntai.pangu.holdings import Holdings
from yuntai.pangu.moves import Move
from yuntai.pangu.office import Office
from yuntai.pangu.servers import Status
from yuntai.pangu.tokens import Signer
from yuntai.pangu.units import volume_number
from yuntai.state import MemoryStore, Unchanged
from yuntai.state.election import Leader

VOL = "vol-0000000000000001"
NUMBER = volume_number(VOL)
CHUNKS = 3
SERVERS = (1, 2, 3, 4, 5)
REACHED: Counter[str] = Counter()
"""How often each interesting thing happened; a history that never does shows nothing."""


class RacingStore(MemoryStore):
    """Before its next transaction, something else happens."""

    overtake: Callable[[], Coroutine[Any, Any, Any]] | None = None

    async def txn(self, **what: Any) -> bool:
        if (overtake := self.overtake) is not None:
            self.overtake = None
            await overtake()
        return await super().txn(**what)

    async def elect(self, number: int) -> Unchanged:
        """Have another master lead, the ``number``-th one; return what holds while it does."""
        await self.put(Leader(id="pangu", candidate="m", lease=number))
        return Unchanged(await self.need(Leader, "pangu"))


def office_of(store: RacingStore, guard: Unchanged) -> Office:
    """Return the office of a master that leads while ``guard`` holds."""
    return Office(store, guard, "master", b"", Signer(b"t" * 32))


@dataclass
class Disk:
    """A chunk server's store: per chunk how many writes of the history it has, and who may write."""

    name: str
    admitted: bool = True
    up: bool = True
    generation: int = 0
    term: int = 0
    has: dict[int, int] = field(default_factory=dict)


@dataclass(eq=False)
class Session:
    """A gateway with the volume open: what it believes."""

    host: str
    generation: int
    placement: list[list[int]]
    stale: set[int]
    serving: bool = False
    open: bool = True
    joining: dict[int, Move] = field(default_factory=dict)
    raised: dict[int, Move] = field(default_factory=dict)
    readmitting: int = 0

    def required(self, chunk: int) -> set[int]:
        """Whose answers a write waits for."""
        counted = {n for n in self.placement[chunk] if n not in self.stale or n == self.readmitting}
        return counted | ({self.raised[chunk].to} if chunk in self.raised else set())


class World:
    """The servers and the gateways, and the seams through which a master sees them."""

    def __init__(self) -> None:
        self.disks = {number: Disk(f"store-{number}") for number in SERVERS}
        self.sessions: list[Session] = []
        self.late: list[tuple[int, dict[str, Any]]] = []
        self.mood = "answer"
        self.named: Callable[[int, int], bool] = lambda _chunk, _server: False

    # what the master's parts ask for
    def statuses(self) -> dict[int, Status]:
        sizes = {"pid": 1, "used_bytes": 0, "free_bytes": 1, "total_bytes": 1, "replicas": 0}
        return {n: Status(**sizes, store=d.name, admitted=d.admitted) for n, d in self.disks.items() if d.up}

    async def call(self, number: int, request: dict[str, Any], _timeout_s: float) -> Any:
        disk = self.disks[number]
        if not disk.up:
            raise Unavailable("down")
        mood, self.mood = self.mood, "answer"
        if request["op"] == "drop_chunks" and mood == "late":
            self.late.append((number, request))
            raise Unavailable("no answer in time")
        answer = self.served(number, request)
        if mood == "lost":
            raise Unavailable("the answer was lost")
        return answer

    def served(self, number: int, request: dict[str, Any]) -> Any:
        disk = self.disks[number]
        match request["op"]:
            case "volumes":
                return [NUMBER] if disk.has else []
            case "inventory":
                return [{"chunk": chunk, "position": has} for chunk, has in disk.has.items()]
            case "admit":
                REACHED["disk admitted"] += 1
                assert request["store"] == disk.name
                disk.admitted = True
            case "drop_chunks":
                if request["term"] < disk.term:
                    raise wire.Refused("a higher term was heard of")
                disk.term = request["term"]
                for state in request["chunks"]:
                    if disk.has.get(state["chunk"]) == state["position"]:
                        REACHED["replica dropped"] += 1
                        assert not self.named(state["chunk"], number), f"chunk {state['chunk']} on {number} is named"
                        del disk.has[state["chunk"]]
                return [state["chunk"] for state in request["chunks"] if state["chunk"] not in disk.has]
        return True

    def session(self, volume: Volume) -> Session | None:
        holder = rules.holder(volume)
        found = [s for s in self.sessions if s.open and (s.host, s.generation) == (holder, volume.generation)]
        return found[0] if found else None


class Term:
    """One leadership: the real parts, on seams into the world."""

    def __init__(self, world: World, store: RacingStore, guard: Unchanged[Leader]) -> None:
        self.world = world
        self.office = office_of(store, guard)
        self.wanted: dict[int, Move] = {}
        self.holdings = Holdings(self.office, self, self, self)  # type: ignore[arg-type]
        self.holdings.mover = self  # type: ignore[assignment]
        self.desk = Desk(self.office, self, self, self)  # type: ignore[arg-type]
        self.admission = Admission(self.office, self, self, self)  # type: ignore[arg-type]
        self.gateways = self

    def statuses(self) -> dict[int, Status]:
        return self.world.statuses()

    def by_number(self) -> dict[int, ChunkServer]:
        return {}

    def note_admitted(self, _number: int) -> None:
        """Statuses come from the disks themselves here."""

    def servers(self) -> dict[int, ChunkServer]:
        return {n: ChunkServer(id=f"cs-{n}", number=n, rack=f"r{n}", host="h", address="") for n in SERVERS}

    async def call(self, number: int, request: dict[str, Any], timeout_s: float) -> Any:
        return await self.world.call(number, request, timeout_s)

    def of(self, _name: str) -> int:
        return 10**9

    def moves_of(self, _volume: str) -> tuple[Move, ...]:
        return tuple(self.wanted.values())

    def done(self, _volume: str, moves: list[Move]) -> None:
        for move in moves:
            self.wanted.pop(move.chunk, None)

    async def tell(self, volume: Volume) -> list[Move] | None:
        session = self.world.session(volume)
        if session is None:
            return None
        session.joining = {c: m for c, m in session.joining.items() if self.wanted.get(c) == m or c in session.raised}
        return [*session.joining.values(), *session.raised.values()]

    def is_open(self, volume: Volume) -> bool:
        return self.world.session(volume) is not None

    async def refresh_users(self, _volume: str) -> None:
        """No clones here."""

    async def open(self, _volume: Volume) -> None:
        """Tells nothing new."""

    def forget_open(self, _host: str, _number: int) -> None:
        pass

    def reopen_soon(self, _host: str, _volume: str) -> None:
        pass
