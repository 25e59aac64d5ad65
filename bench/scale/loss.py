"""How likely data is lost when several servers fail at once: copysets beside placement on three random servers.

Data is lost when all three servers of some chunk are gone for good before anything could be rebuilt.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """Of one scenario: the chance that any data is lost, and the part of all chunks lost in the mean."""

    chance: float
    mean_part: float


def played(groups: Mapping[Group, int], racks: Mapping[int, str], failed: int, trials: int, seed: int = 1) -> Loss:
    """Fail ``failed`` random servers, ``trials`` times; ``groups`` are the sets of servers in use and their chunks."""
    chance = random.Random(seed)  # noqa: S311 — a simulation
    servers = sorted(racks)
    by_server = _by_server(groups)
    total = sum(groups.values())
    lost, part = 0, 0.0
    for _ in range(trials):
        gone = _lost(by_server, groups, set(chance.sample(servers, failed)))
        lost += gone > 0
        part += gone / total
    return Loss(lost / trials, part / trials)


def _by_server(groups: Mapping[Group, int]) -> dict[int, list[Group]]:
    found: dict[int, list[Group]] = {}
    for group in groups:
        found.setdefault(min(group), []).append(group)
    return found


def _lost(by_server: Mapping[int, Sequence[Group]], groups: Mapping[Group, int], down: Collection[int]) -> int:
    return sum(groups[g] for server in down for g in by_server.get(server, ()) if all(one in down for one in g))


def of_random_placement(servers: int, racks: int, chunks: int, failed: int) -> float:
    """Return the chance of a loss with every chunk on three random servers of three racks; exact in expectation.

    Of all triples over three racks a part is in use: 1 - (1 - 1/T)^chunks. The failed servers contain some of them.
    """
    per_rack = servers // racks
    triples = comb(racks, 3) * per_rack**3
    # Mean over how many failed servers share racks: a triple of failed servers is over three racks with this chance.
    apart = triples / comb(servers, 3)
    hit = 1 - (1 - 1 / triples) ** chunks
    return 1 - (1 - apart * hit) ** comb(failed, 3)
