"""Which replicas must be elsewhere, how urgent it is, and where they go. Pure.

Reasons, the most pressing first: the server is lost, it is being drained, two replicas share a rack although another
has room, the disks are unevenly full. Among equal reasons the chunk with the fewest live replicas comes first.

The replacement is one of a few servers that a hash of the remaining pair names, so that repair does not turn copysets
(see :mod:`yuntai.pangu.placement`) into random placement, and yet several servers share the work.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from yuntai.pangu.moves import Move, moved
from yuntai.pangu.placement import Candidate, rejection
from yuntai.pangu.rules import Replicas

LOST, DRAIN, RACK, BALANCE = "lost", "drain", "rack", "balance"
REASONS = (LOST, DRAIN, RACK, BALANCE)
REPLACEMENTS = 4
"""From so many servers the replacement in a pair's chunks is chosen."""


@dataclass(frozen=True)
class Limits:
    """How much may be on its way at once."""

    at_once: int = 256
    per_volume: int = 32
    per_server: int = 16
    spread: float = 0.05
    """Balance begins when the fullest and the emptiest disk differ by more of their size, and ends at half of it."""


class Need(NamedTuple):
    """A replica that must move. Sorts by urgency."""

    live: int  # replicas of the chunk that have everything and answer
    reason: int  # index in REASONS
    volume: str
    chunk: int
    from_: int


@dataclass(frozen=True)
class View:
    """The servers, as the planner sees them."""

    servers: Mapping[int, Candidate]
    answering: frozenset[int]
    lost: frozenset[int]
    """Away for longer than the grace time."""
    donors: frozenset[int] = frozenset()
    """Servers that are to become emptier, while balancing."""
    _verdicts: dict[tuple[Replicas, frozenset[int]], tuple[int, int, int] | None] = field(default_factory=dict)
    _named: dict[Replicas, list[int]] = field(default_factory=dict)

    @functools.cached_property
    def usables(self) -> frozenset[int]:
        """Return the servers that may get replicas."""
        return frozenset(number for number in self.servers if self._judge_server(number))

    def usable(self, number: int) -> bool:
        """Return whether a server may get replicas."""
        return number in self.usables

    def _judge_server(self, number: int) -> bool:
        server = self.servers[number]
        return number in self.answering and number not in self.lost and not rejection(server)

    def named(self, others: Replicas) -> list[int]:
        """Return the usable servers in racks apart from ``others``, those first that a hash of the others names.

        Copysets make such pairs few, so the order is made once for each.
        """
        key = tuple(sorted(others))
        if key not in self._named:
            racks = {self.servers[number].rack for number in others if number in self.servers}
            apart = [number for number in self.usables if self.servers[number].rack not in racks]
            self._named[key] = sorted(apart, key=lambda number: _hash(key, number))
        return self._named[key]

    def used(self, number: int) -> float:
        """Return which part of a disk the store uses."""
        server = self.servers[number]
        return server.used_bytes / server.total_bytes if server.total_bytes else 0.0

    def replica_bytes(self, number: int) -> int:
        """Return about how large a replica on a server is."""
        server = self.servers.get(number)
        return server.used_bytes // max(1, server.replicas) if server is not None else 0

    def verdict(self, replicas: Replicas, stale: frozenset[int]) -> tuple[int, int, int] | None:
        """Return (live replicas, reason, server to leave) for chunks placed so; ``None`` if they are well."""
        key = (replicas, stale)
        if key not in self._verdicts:
            self._verdicts[key] = self._judge(replicas, stale)
        return self._verdicts[key]

    def _judge(self, replicas: Replicas, stale: frozenset[int]) -> tuple[int, int, int] | None:
        live = sum(number in self.answering and number not in stale for number in replicas)
        # What is not registered any more will not come back.
        gone = [number for number in replicas if number in self.lost or number not in self.servers]
        if gone:
            return live, 0, gone[0]
        draining = [number for number in replicas if self.servers[number].state == "draining"]
        if draining:
            return live, 1, min(draining, key=lambda number: number not in stale)
        racks = Counter(self.servers[number].rack for number in replicas)
        if len(racks) < len(replicas) and any(
            s.rack not in racks for s in self.servers.values() if self.usable(s.number)
        ):
            crowded = [number for number in replicas if racks[self.servers[number].rack] > 1]
            return live, 2, min(crowded, key=lambda number: (number not in stale, -self.used(number)))
        giving = [number for number in replicas if number in self.donors and number not in stale]
        if giving and live == len(replicas):
            return live, 3, max(giving, key=self.used)
        return None


def needs(volume: str, chunks: Iterable[Replicas], stale: Iterable[str], view: View) -> Iterator[Need]:
    """Yield what must move of one volume."""
    out = frozenset(int(number) for number in stale)
    for chunk, replicas in enumerate(chunks):
        verdict = view.verdict(replicas, out)
        if verdict is not None:
            live, reason, leaving = verdict
            yield Need(live, reason, volume, chunk, leaving)


class Load:
    """Moves that are on their way, and the limits on them."""

    def __init__(self, view: View, limits: Limits) -> None:
        self._view = view
        self._limits = limits
        self._joining: Counter[int] = Counter()
        self._volumes: Counter[str] = Counter()
        self._shift: Counter[int] = Counter()  # bytes that a disk will have more, or less

    def room(self, volume: str) -> bool:
        """Return whether another move may begin, of this volume."""
        return self.total < self._limits.at_once and self._volumes[volume] < self._limits.per_volume

    @property
    def total(self) -> int:
        """Return how many moves there are."""
        return self._joining.total()

    def takes(self, number: int) -> bool:
        """Return whether a server may get another replica now."""
        return self._joining[number] < self._limits.per_server

    def used(self, number: int) -> float:
        """Return which part of a disk is used when all of this is done."""
        return self._view.used(number) + self._shift[number] / max(1, self._view.servers[number].total_bytes)

    def add(self, volume: str, move: Move) -> None:
        """Count a move."""
        self._joining[move.to] += 1
        self._volumes[volume] += 1
        size = self._view.replica_bytes(move.from_)
        self._shift[move.to] += size
        self._shift[move.from_] -= size


def target(need: Need, replicas: Replicas, stale: Iterable[str], view: View, load: Load) -> int | None:
    """Return the server that takes over, ``None`` if none can now.

    In a rack that holds no other replica; only what is lost may share a rack, when nothing else is left.
    """
    taken = {*replicas, *(int(number) for number in stale)}
    others = tuple(number for number in replicas if number != need.from_)
    apart = (number for number in view.named(others) if number not in taken)
    first = list(itertools.islice(apart, REPLACEMENTS))
    if not first and REASONS[need.reason] == LOST:
        free = (number for number in view.usables if number not in taken)
        first = heapq.nsmallest(REPLACEMENTS, free, key=lambda number: _hash(tuple(sorted(others)), number))
    named = [number for number in first if load.takes(number)]
    if REASONS[need.reason] == BALANCE:
        # Here the emptiest is the point, and it must stay emptier than the one that gives.
        size = view.replica_bytes(need.from_)
        room = load.used(need.from_)
        named = [n for n in (*first, *apart) if load.takes(n) and _after(n, size, view, load) < room]
    return min(named, key=lambda number: (load.used(number), number), default=None)


def _after(number: int, size: int, view: View, load: Load) -> float:
    return load.used(number) + 2 * size / max(1, view.servers[number].total_bytes)


def _hash(others: Replicas, number: int) -> bytes:
    return hashlib.blake2b(f"{list(others)}:{number}".encode(), digest_size=8).digest()


def still_wanted(move: Move, replicas: Replicas, stale: Mapping[str, str], view: View) -> bool:
    """Return whether a move that was begun is to go on: its reason holds, and its end is as good as it was."""
    if move.from_ not in replicas or move.to in replicas or str(move.to) in stale:
        return False
    if move.to not in view.servers or move.to not in view.answering or move.to in view.lost:
        return False
    taker = view.servers[move.to]
    if taker.state != "up" or not taker.admitted or taker.full:
        return False
    verdict = view.verdict(replicas, frozenset(int(number) for number in stale))
    if verdict is None:
        return False
    # Balance stops anywhere; for the rest the same replica must still be one that has to go.
    after = view.verdict(moved(replicas, move), frozenset(int(number) for number in stale))
    return verdict[2] == move.from_ or (after is None) or after[1] > verdict[1]


def donors(view: View, limits: Limits, *, going_on: bool) -> frozenset[int]:
    """Return the servers whose disks are so full, compared with the others, that replicas should leave them."""
    usable = [
        n for n, s in view.servers.items() if n in view.answering and s.state == "up" and s.admitted and s.total_bytes
    ]
    if len(usable) < 2:
        return frozenset()
    used = {number: view.used(number) for number in usable}
    spread = max(used.values()) - min(used.values())
    if spread <= (limits.spread / 2 if going_on else limits.spread):
        return frozenset()
    middle = sum(used.values()) / len(used)
    return frozenset(number for number, part in used.items() if part > middle + limits.spread / 4)
