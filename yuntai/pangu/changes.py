"""What differs between two frozen nodes of a volume, asked of the chunk servers' metadata.

An answer may name blocks that are the same after all (they were written again with what they had), never leave one
out. So a chunk that still reads from a source is answered with what the source has as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from yuntai.pangu import layout, rules, wire
from yuntai.pangu.errors import Conflict, Invalid, PanguError, Unavailable
from yuntai.pangu.units import CHUNK_BLOCKS, chunk_count, volume_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.model.cluster import Volume
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers

CHUNKS_MAX = 64
"""Chunks of one request."""
CHUNKS_ASKED_MAX = 16
"""Chunks of one question to a server: its longest answer is then within the limit of a body."""
ASK_TIMEOUT_S = 20.0

Ranges = list[tuple[int, int, bool]]
"""First block counted from the request's first chunk, blocks, whether they may be data; in order."""


class Range(msgspec.Struct, frozen=True):
    """``ChangedRange`` in crates/proto."""

    chunk: int
    block: int
    blocks: int
    data: bool


class Changes:
    """Answers ``POST /v1/volumes/{id}/changes``."""

    def __init__(self, office: Office, servers: Servers) -> None:
        self._office = office
        self._servers = servers

    async def between(self, volume_id: str, since: int, node: int, first_chunk: int, chunks: int) -> Ranges:
        """Return what may differ from ``since`` (-1: from nothing) in snapshot ``node``.

        Raise :class:`Conflict` if it is not known any more what ``since`` was.
        """
        volume = (await self._office.volume(volume_id)).value
        check_nodes(volume, since, node)
        count = chunk_count(volume.snapshot_bytes.get(str(node), volume.size_bytes))
        if not 0 < chunks <= CHUNKS_MAX or first_chunk < 0:
            raise Invalid(f"`chunks` is {chunks}, `first_chunk` {first_chunk}: ask for 1 to {CHUNKS_MAX} from 0 on")
        wanted = range(first_chunk, min(first_chunk + chunks, count))
        parts = [await self._of(volume, await layout.load_chunks(self._office.store, volume), since, node, wanted)]
        if since == -1:
            # What is copied from a source is the same for every node, so it matters only when there is no base.
            below = volume
            for link in await layout.source_chain(self._office.store, volume):
                start = max(wanted.start, below.hydrated_chunks)
                wanted = range(start, max(start, min(wanted.stop, len(link.chunks))))
                parts.append(await self._of(link.volume, link.chunks, -1, link.node, wanted))
                below = link.volume
        return _merged([one for part in parts for one in part], first_chunk)

    async def _of(
        self, volume: Volume, placement: layout.Chunks, since: int, node: int, wanted: Sequence[int]
    ) -> list[Range]:
        """Ask one in-sync server about each chunk, another one if it does not answer."""
        await self._servers.ready()
        up = {number for number, server in self._servers.by_number().items() if server.state != "down"}
        asked: dict[int, list[int]] = {chunk: [] for chunk in wanted}
        found: list[Range] = []
        why = ""
        while asked:
            questions: dict[int, list[int]] = {}
            for chunk, tried in asked.items():
                left = sorted(one for one in rules.in_sync(placement[chunk], volume.stale) if one not in tried)
                if not left:
                    raise Unavailable(
                        f"no server says what chunk {chunk} of {volume.id} has: {why or 'none is in sync'}"
                    )
                best = [one for one in left if one in up] or left
                # In the order of their numbers, as each chunk lists the same servers in an order of its own: neighbours
                # are spread over the replicas, so that no server answers for all.
                questions.setdefault(best[chunk % len(best)], []).append(chunk)
            cut = [
                (server, chunks[at : at + CHUNKS_ASKED_MAX])
                for server, chunks in questions.items()
                for at in range(0, len(chunks), CHUNKS_ASKED_MAX)
            ]
            answers = await asyncio.gather(*(self._ask(volume, since, node, *one) for one in cut))
            for (server, chunks), answer in zip(cut, answers, strict=True):
                for chunk in chunks:
                    if isinstance(answer, str):
                        asked[chunk].append(server)
                    else:
                        del asked[chunk]
                if isinstance(answer, str):
                    why = answer
                else:
                    found += answer
        return found

    async def _ask(self, volume: Volume, since: int, node: int, server: int, chunks: list[int]) -> list[Range] | str:
        """Return a server's answer, or why there is none."""
        question: dict[str, Any] = {
            "op": "changes",
            "volume": volume_number(volume.id),
            "parents": list(volume.parents),
            "since": None if since == -1 else since,
            "node": node,
            "chunks": chunks,
        }
        try:
            return msgspec.convert(await self._servers.call(server, question, ASK_TIMEOUT_S), list[Range])
        except wire.Refused as error:
            return f"cs-{server} refuses: {error}"
        except (PanguError, msgspec.ValidationError) as error:
            return f"cs-{server}: {error}"


def check_nodes(volume: Volume, since: int, node: int) -> None:
    """Raise unless ``node`` is a snapshot and ``since`` one whose content the metadata still tell.

    A deleted snapshot serves as long as it is an ancestor: a block of it that was freed is one that something between
    it and ``node`` covers, which shows as a change. Of a deleted one on another branch no such thing can be said.
    """
    rules.require_snapshot(volume, node)
    if since == -1 or (str(since) in volume.snapshots and since < len(volume.parents)):
        return
    at = node
    while at > since >= 0:
        at = volume.parents[at]
    if at != since or since < 1:
        raise Conflict(f"node {since} of {volume.id} is no snapshot any more, and node {node} does not stand on it")


def _merged(found: Sequence[Range], first_chunk: int) -> Ranges:
    """Return ranges in order, neighbours of one kind joined; where two overlap, "data" wins."""
    events = sorted(
        ((one.chunk - first_chunk) * CHUNK_BLOCKS + at, step, one.data)
        for one in found
        for at, step in ((one.block, 1), (one.block + one.blocks, -1))
    )
    out: Ranges = []
    some = data = start = 0
    for at, step, is_data in events:
        if some and at > start:
            kind = data > 0
            if out and sum(out[-1][:2]) == start and out[-1][2] == kind:
                out[-1] = (out[-1][0], out[-1][1] + at - start, kind)
            else:
                out.append((start, at - start, kind))
        some, data, start = some + step, data + step * is_data, at
    return out
