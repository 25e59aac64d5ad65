"""From needs to moves: which go on, which begin now, within the limits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from yuntai.model.cluster import Volume
from yuntai.pangu import planner
from yuntai.pangu.moves import Move
from yuntai.pangu.rules import Replicas

CHOICES_MAX = 4_000
"""So many times a target is looked for in one turn; what is left waits for the next."""


@dataclass
class Schedule:
    """What is wanted now."""

    wanted: dict[str, tuple[Move, ...]] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)
    """Volumes that nobody has open and that could be repaired → live replicas of the worst chunk."""
    pressed: set[str] = field(default_factory=set)
    """Open volumes with a move that has to wait for its turn."""
    stuck: dict[int, int] = field(default_factory=dict)
    """Servers that must be left → chunks for which there is nowhere to go."""
    spent_bytes: int = 0


@dataclass(frozen=True)
class Volumes:
    """What the schedule must know of volumes."""

    records: Mapping[str, Volume]
    chunks: Mapping[str, Sequence[Replicas]]
    open: frozenset[str]
    """Those that a gateway has open for writing under the present generation."""


def schedule(
    needs: Iterable[planner.Need],
    before: Mapping[str, tuple[Move, ...]],
    volumes: Volumes,
    view: planner.View,
    limits: planner.Limits,
    budget_bytes: float,
) -> Schedule:
    """Return the moves that are to be under way: those of ``before`` whose reason holds, and new ones."""
    maker = _Maker(volumes, view, limits, budget_bytes)
    for volume_id, moves in before.items():
        for move in moves:
            if volume_id in volumes.open and _goes_on(volume_id, move, volumes, view):
                maker.add(volume_id, move)
    for need in needs:
        if maker.choices == CHOICES_MAX:
            break
        maker.consider(need)
    maker.made.wanted = {volume_id: tuple(sorted(moves.values())) for volume_id, moves in maker.plan.items()}
    return maker.made


class _Maker:
    """The schedule while it is made."""

    def __init__(self, volumes: Volumes, view: planner.View, limits: planner.Limits, budget_bytes: float) -> None:
        self._volumes = volumes
        self._view = view
        self._load = planner.Load(view, limits)
        self._budget_bytes = budget_bytes
        self.plan: dict[str, dict[int, Move]] = {}
        self.made = Schedule()
        self.choices = 0

    def add(self, volume_id: str, move: Move) -> None:
        self.plan.setdefault(volume_id, {})[move.chunk] = move
        self._load.add(volume_id, move)

    def consider(self, need: planner.Need) -> None:
        opened, made = need.volume in self._volumes.open, self.made
        if need.volume not in self._volumes.records or need.chunk in self.plan.get(need.volume, {}):
            return
        if not opened and need.volume in made.closed:
            return
        if opened and not self._load.room(need.volume):
            made.pressed.add(need.volume)
            return
        self.choices += 1
        stale = self._volumes.records[need.volume].stale
        to = planner.target(need, self._volumes.chunks[need.volume][need.chunk], stale, self._view, self._load)
        if to is None:
            if need.reason <= planner.REASONS.index(planner.DRAIN):
                made.stuck[need.from_] = made.stuck.get(need.from_, 0) + 1
        elif not opened:
            made.closed[need.volume] = need.live
        elif self._budget_bytes > made.spent_bytes:
            self.add(need.volume, Move(need.chunk, need.from_, to))
            made.spent_bytes += max(1, self._view.replica_bytes(need.from_))
        else:
            made.pressed.add(need.volume)


def _goes_on(volume_id: str, move: Move, volumes: Volumes, view: planner.View) -> bool:
    if volume_id not in volumes.records or move.chunk >= len(volumes.chunks[volume_id]):
        return False
    return planner.still_wanted(move, volumes.chunks[volume_id][move.chunk], volumes.records[volume_id].stale, view)
