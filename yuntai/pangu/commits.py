"""Writes moves that a gateway says are done into the placement: one guarded transaction, whichever master it meets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from yuntai import log
from yuntai.model.cluster import ChunkServer, Placement, Volume
from yuntai.pangu import moves as move_rules
from yuntai.pangu import rules
from yuntai.pangu.units import CHUNKS_PER_RECORD, volume_id
from yuntai.state import Unchanged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.pangu.mover import Mover
    from yuntai.pangu.moves import Move
    from yuntai.pangu.office import Office
    from yuntai.pangu.rules import Replicas
    from yuntai.state import Versioned

ATTEMPTS = 8
LOCK_TIMEOUT_S = 3.0
MOVES_PER_TXN = 32
"""Their records and servers stay well below what etcd compares in one transaction."""

_log = log.get("commits")


async def commit_moves(
    office: Office, mover: Mover, host: str, generation: int, number: int, moves: Iterable[Move]
) -> dict[str, Any]:
    """Return the answer to ``Moved``, after what it says is in etcd.

    The volume's lock keeps the garbage collector away. An operation that holds it for long (an open that waits for a
    server) may itself need this gateway, so then the answer is "not now": the gateway asks again.
    """
    volume = volume_id(number)
    try:
        async with asyncio.timeout(LOCK_TIMEOUT_S) as waiting, office.lock(volume):
            waiting.reschedule(None)
            told = list(moves)
            placed: list[dict[str, int]] = []
            for start in range(0, len(told), MOVES_PER_TXN):
                batch = told[start : start + MOVES_PER_TXN]
                answer = await _commit(office, mover, host, generation, volume, batch)
                if answer["answer"] != "placed":
                    return answer if not placed else {"answer": "placed", "moves": placed}
                placed += answer["moves"]
            return {"answer": "placed", "moves": placed}
    except TimeoutError:
        return {"answer": "refused", "reason": f"{volume} is being worked on; ask again"}


async def _commit(
    office: Office, mover: Mover, host: str, generation: int, volume_name: str, moves: list[Move]
) -> dict[str, Any]:
    for _ in range(ATTEMPTS):
        volume = await office.store.need(Volume, volume_name)
        if fenced := rules.foreign(volume.value, host, generation):
            return {"answer": fenced.kind}
        records = await _records(office, volume_name, moves)
        joining = await _joining(office, moves)
        # The racks of the others as they were last heard of: reading each anew would cost more than all the rest.
        servers = dict(mover.servers())
        for move in moves:
            servers.pop(move.to, None)  # but one that joins must be registered now
        servers |= {one.value.number: one.value for one in joining}
        outcome = move_rules.commit(volume.value, _chunks(records), moves, servers)
        if not outcome.changed:
            return _answer(volume_name, outcome)
        members = {move.to for move in outcome.done}
        compare = [
            office.guard,
            Unchanged(volume),
            *(Unchanged(record) for record in records.values()),
            # A server that is drained, removed or got a new disk in this moment must not become a member.
            *(Unchanged(server) for server in joining if server.value.number in members),
        ]
        # The volume's record is written too: whoever decided by the placement before compares it, and looks again.
        stale = await _stale(office, volume.value, records, outcome.changed)
        put = [replace(volume.value, placed=volume.value.placed + len(outcome.changed), stale=stale)]
        if await office.store.txn(compare=compare, put=[*put, *_changed(records, outcome.changed)]):
            mover.done(volume_name, outcome.done)
            return _answer(volume_name, outcome)
    return {"answer": "refused", "reason": f"{volume_name} kept changing; ask again"}


async def _stale(
    office: Office, volume: Volume, records: dict[int, Versioned[Placement]], changed: dict[int, Replicas]
) -> dict[str, str]:
    """Return the servers that are out of the in-sync set, without those that have no place in the volume any more.

    Records that this transaction does not compare may be read here: whoever changes them writes the volume's too.
    """
    if not volume.stale:
        return {}
    placed = {number for replicas in (_chunks(records) | changed).values() for number in replicas}
    for record in await office.store.list(Placement, f"{volume.id}."):
        if int(record.value.id.rpartition(".")[2]) not in records:
            placed.update(number for replicas in set(record.value.chunks) for number in replicas)
    return {number: why for number, why in volume.stale.items() if int(number) in placed}


async def _records(office: Office, volume: str, moves: list[Move]) -> dict[int, Versioned[Placement]]:
    found = {}
    for index in sorted({move.chunk // CHUNKS_PER_RECORD for move in moves}):
        record = await office.store.get(Placement, f"{volume}.{index:06}")
        if record is not None:
            found[index] = record
    return found


async def _joining(office: Office, moves: list[Move]) -> list[Versioned[ChunkServer]]:
    numbers = sorted({move.to for move in moves})
    found = await asyncio.gather(*(office.store.get(ChunkServer, f"cs-{number}") for number in numbers))
    return [one for one in found if one is not None]


def _chunks(records: dict[int, Versioned[Placement]]) -> dict[int, Replicas]:
    return {
        index * CHUNKS_PER_RECORD + offset: replicas
        for index, record in records.items()
        for offset, replicas in enumerate(record.value.chunks)
    }


def _changed(records: dict[int, Versioned[Placement]], chunks: dict[int, Replicas]) -> list[Placement]:
    made = []
    for index, record in records.items():
        base = index * CHUNKS_PER_RECORD
        now = tuple(chunks.get(base + offset, old) for offset, old in enumerate(record.value.chunks))
        if now != record.value.chunks:
            made.append(replace(record.value, chunks=now))
    return made


def _answer(volume: str, outcome: move_rules.Outcome) -> dict[str, Any]:
    for reason in outcome.refused:
        _log.warning("a move was refused", volume=volume, reason=reason)
    _log.info("moves committed", volume=volume, done=len(outcome.done), refused=len(outcome.refused))
    return {"answer": "placed", "moves": [move.wire() for move in outcome.done]}
