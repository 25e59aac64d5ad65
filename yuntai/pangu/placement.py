"""Where the replicas of a new chunk go: copysets over racks, weighted by free space. Pure.

Placing every chunk on three random servers makes any three simultaneous failures lose some chunk. Copysets (Cidon et
al., "Copysets: Reducing the Frequency of Data Loss in Cloud Storage", USENIX ATC 2013) limit the sets of servers that
share chunks: a few permutations of the servers are cut into groups of three, each group in three racks, and a chunk
goes to one group. ``SCATTER_WIDTH`` is the number of others a server shares chunks with, hence who helps to rebuild.

The permutations come from a hash of the server's number, so that every master cuts the same groups. What was chosen is
stored with the volume and never computed again, so a server that comes or goes moves nothing.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import random
from dataclasses import dataclass
from typing import NamedTuple

from yuntai.pangu.errors import NoPlacement
from yuntai.pangu.units import REPLICAS

SCATTER_WIDTH = 8
FITTING_ROUNDS = 20
FREE_RATIO_MIN = 0.15
"""A server with less of its disk free gets no new chunks."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk server as placement sees it."""

    number: int
    rack: str
    state: str  # "up", "down", "draining"
    free_bytes: int
    total_bytes: int
    full: bool = False  # it says itself that it refuses new chunks
    admitted: bool = True  # false: a new, empty store that lets no gateway in yet
    replicas: int = 0  # chunks that it holds
    used_bytes: int = 0  # what they and the rest of the store occupy


def rejection(server: Candidate) -> str:
    """Return why a server gets no new chunk, for a person; "" if it may get one."""
    if server.state != "up":
        return f"it is {server.state}"
    if not server.admitted:
        return "its disk is new, and gateways are not let in yet"
    if server.total_bytes <= 0:
        return "it has not reported the size of its disk yet"
    if server.full or server.free_bytes < FREE_RATIO_MIN * server.total_bytes:
        used = 100 - 100 * server.free_bytes / server.total_bytes
        return f"its disk is {used:.0f} % used, and new chunks stop at {100 - 100 * FREE_RATIO_MIN:.0f} %"
    return ""


def place(servers: list[Candidate], chunks: int, seed: int) -> list[tuple[int, ...]]:
    """Return for each of ``chunks`` new chunks the numbers of its three servers, in three racks.

    The same servers and seed give the same answer. Raise :class:`NoPlacement` with the reason per server.
    """
    usable = [server for server in servers if not rejection(server)]
    if len({server.rack for server in usable}) < REPLICAS:
        raise NoPlacement(*_explain(servers, usable))
    groups = copysets(usable)
    weights = _weights(groups, {server.number: server.free_bytes for server in usable})
    chooser = random.Random(seed)  # noqa: S311 — spreading, not secrecy
    orders = list(itertools.permutations(range(REPLICAS)))
    chosen = chooser.choices(groups, weights=weights, k=chunks)
    # The first of the three is read first, so each member of a group takes its turn there.
    return [tuple(group[place] for place in chooser.choice(orders)) for group in chosen]


def copysets(servers: list[Candidate]) -> list[tuple[int, ...]]:
    """Return the groups of three servers in three racks that may share chunks; every server is in at least one."""
    return _copysets(tuple(_Place(server.number, server.rack) for server in servers))


class _Place(NamedTuple):
    number: int
    rack: str


@functools.lru_cache(maxsize=4)
def _copysets(servers: tuple[_Place, ...]) -> list[tuple[int, ...]]:
    groups: dict[tuple[int, ...], None] = {}
    for permutation in range(-(-SCATTER_WIDTH // (REPLICAS - 1))):
        order = sorted(servers, key=lambda server: _hash(permutation, server.number))
        for group in _cut(order):
            groups[tuple(sorted(server.number for server in group))] = None
    return list(groups)


def _weights(groups: list[tuple[int, ...]], free: dict[int, int]) -> list[float]:
    """Return weights of the groups that give each server chunks in proportion to its free space, as near as they can.

    Iterative proportional fitting: a group's weight grows while its members get less than their due, and shrinks
    while they get more. Where no weights can do it (one rack has most of the space) the error spreads evenly.
    """
    due = {number: REPLICAS * free_bytes / sum(free.values()) for number, free_bytes in free.items()}
    weights = [1.0 / len(groups)] * len(groups)
    for _ in range(FITTING_ROUNDS):
        got = dict.fromkeys(free, 0.0)
        for group, weight in zip(groups, weights, strict=True):
            for number in group:
                got[number] += weight
        weights = [
            weight * math.prod(due[number] / got[number] for number in group) ** (1 / REPLICAS)
            for group, weight in zip(groups, weights, strict=True)
        ]
        total = sum(weights)
        weights = [weight / total for weight in weights]
    return weights


def _cut(order: list[_Place]) -> list[list[_Place]]:
    """Cut a permutation into groups over distinct racks; servers left over join members of groups already made."""
    left = list(order)
    groups: list[list[_Place]] = []
    while left:
        # Fullest racks first: otherwise one large rack is left over and all its servers pair with the same few.
        sizes: dict[str, int] = {}
        for server in left:
            sizes[server.rack] = sizes.get(server.rack, 0) + 1
        group = [left[0]]
        for server in sorted(left[1:], key=lambda s: -sizes[s.rack]):
            if len(group) < REPLICAS and server.rack not in {member.rack for member in group}:
                group.append(server)
        taken = {server.number for server in group}
        left = [server for server in left if server.number not in taken]
        groups.append(group)
    turn = itertools.count()
    for group in groups:
        while len(group) < REPLICAS:
            racks = {member.rack for member in group}
            others = [server for server in order if server.rack not in racks]
            group.append(others[next(turn) % len(others)])
    return groups


def _hash(permutation: int, number: int) -> bytes:
    return hashlib.blake2b(f"{permutation}:{number}".encode(), digest_size=8).digest()


def _explain(servers: list[Candidate], usable: list[Candidate]) -> tuple[str, dict[str, dict[str, str]]]:
    reasons = {f"cs-{server.number}": rejection(server) for server in servers if rejection(server)}
    racks = sorted({server.rack for server in usable})
    where = f"only {', '.join(racks)} can" if racks else "no rack can"
    why = (
        "; ".join(f"{server}: {reason}" for server, reason in sorted(reasons.items()))
        or "no other server is registered"
    )
    return (
        f"{REPLICAS} replicas need {REPLICAS} racks with a usable chunk server, and {where} take one ({why})",
        {"servers": reasons},
    )
