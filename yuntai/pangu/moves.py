"""Moves of replicas: when one may be committed, and what the placement is afterwards. Pure.

A move is nothing until the gateway that has the volume open says that the joining replica has everything. Then it is
one transaction, and from then on the joining server counts and the leaving one does not. Nobody has to remember moves:
what was wanted by a master that died is planned again by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from yuntai.model.cluster import ChunkServer, Volume
from yuntai.pangu.rules import Replicas


class Move(msgspec.Struct, frozen=True, order=True):
    """A replica that is to be elsewhere; ``Move`` in crates/proto."""

    chunk: int
    from_: int = msgspec.field(name="from")
    to: int

    def wire(self) -> dict[str, int]:
        """Return it as the control channel has it."""
        return {"chunk": self.chunk, "from": self.from_, "to": self.to}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the moves of one event: the chunks to write, what is done, why the others are not."""

    changed: dict[int, Replicas]
    done: list[Move]
    refused: list[str]


def commit(
    volume: Volume, chunks: Mapping[int, Replicas], moves: list[Move], servers: Mapping[int, ChunkServer]
) -> Outcome:
    """Return the outcome of ``moves`` for the placement of their chunks.

    A move that is in the placement already is done: the answer to it was lost. Each other one makes a chunk count on
    ``to`` in place of ``from``; ``to`` has every acknowledged write (the gateway waits for it since before it asked),
    so a chunk never counts on fewer in-sync replicas than before.
    """
    now = dict(chunks)
    changed: dict[int, Replicas] = {}
    done: list[Move] = []
    refused: list[str] = []
    for move in moves:
        replicas = now.get(move.chunk, ())
        if move.to in replicas and move.from_ not in replicas:
            done.append(move)
            continue
        reason = refusal(volume, replicas, move, servers)
        if reason:
            refused.append(f"chunk {move.chunk}: {reason}")
            continue
        now[move.chunk] = changed[move.chunk] = moved(replicas, move)
        done.append(move)
    return Outcome(changed, done, refused)


def refusal(volume: Volume, replicas: Replicas, move: Move, servers: Mapping[int, ChunkServer]) -> str:
    """Return why the placement may not change so, "" if it may."""
    if move.from_ not in replicas or move.to in replicas:
        return f"its replicas are {list(replicas)}, so none moves from {move.from_} to {move.to}"
    if str(move.to) in volume.stale:
        # It counts for the whole volume or not at all; as a member it would not count, and one fewer would.
        return f"cs-{move.to} is out of the volume's in-sync set"
    joining = servers.get(move.to)
    if joining is None:
        return f"cs-{move.to} is not registered"
    if not joining.admitted:
        return f"cs-{move.to} has a new, empty disk"
    if joining.state == "draining":
        return f"cs-{move.to} is being drained"
    leaving = servers.get(move.from_)
    # A lost server's rack is lost already: then two replicas in one rack are better than two replicas in all.
    before = [n for n in replicas if n != move.from_ or (leaving is not None and leaving.state != "down")]
    if rack_count(moved(replicas, move), servers) < rack_count(before, servers):
        return f"cs-{move.to} is in a rack that holds another replica"
    return ""


def moved(replicas: Replicas, move: Move) -> Replicas:
    """Return the replicas after a move; the new one takes the old one's place."""
    return tuple(move.to if number == move.from_ else number for number in replicas)


def rack_count(replicas: Iterable[int], servers: Mapping[int, ChunkServer]) -> int:
    """Return in how many racks a chunk is; a server that is no longer registered is in none."""
    return len({servers[number].rack for number in replicas if number in servers})
