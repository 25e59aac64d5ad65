"""Reads a volume's whole layout from the store, and makes of it what a gateway is told.

A volume's placement is split into records of 1,024 chunks; ``placement/<volume>.<index>``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yuntai.model.cluster import BootSet, ChunkServer, Placement, Volume
from yuntai.pangu import rules
from yuntai.pangu.errors import Conflict, PanguError
from yuntai.pangu.units import CHUNKS_PER_RECORD, chunk_count, is_hydrated, volume_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yuntai.model.cluster import VolumeSource
    from yuntai.pangu.moves import Move
    from yuntai.pangu.tokens import Signer
    from yuntai.state import Store

SOURCES_MAX = 64
"""Clones of clones of … that a gateway is asked to look through."""

Chunks = list[tuple[int, ...]]


def placement_records(volume_id: str, chunks: Sequence[tuple[int, ...]], first_changed: int = 0) -> list[Placement]:
    """Return the records of a placement, from the one with chunk ``first_changed`` on."""
    start = first_changed // CHUNKS_PER_RECORD
    pieces = range(start, -(-len(chunks) // CHUNKS_PER_RECORD))
    return [
        Placement(
            id=f"{volume_id}.{index:06}",
            chunks=tuple(chunks[index * CHUNKS_PER_RECORD : (index + 1) * CHUNKS_PER_RECORD]),
        )
        for index in pieces
    ]


async def load_chunks(store: Store, volume: Volume) -> Chunks:
    """Return the servers of each chunk of a volume; raise :class:`PanguError` if records are missing."""
    records = await store.list(Placement, f"{volume.id}.")
    chunks = list(itertools.chain.from_iterable(record.value.chunks for record in records))
    wanted = chunk_count(volume.size_bytes)
    if len(chunks) < wanted:
        raise PanguError(
            f"the placement of {volume.id} has {len(chunks)} chunks, its size needs {wanted}: records lost?"
        )
    # A resize writes placement and size in one transaction; a reader between two reads may see the newer placement.
    return chunks[:wanted]


@dataclass(frozen=True, slots=True)
class Link:
    """One source of a volume: a frozen node of another one."""

    volume: Volume
    node: int
    chunks: Chunks


async def source_chain(store: Store, volume: Volume) -> list[Link]:
    """Return where absent blocks come from, first to be asked first; ends at a source that needs none itself."""
    chain: list[Link] = []
    current = volume
    while current.source is not None and not is_hydrated(current):
        if len(chain) == SOURCES_MAX:
            raise Conflict(f"{volume.id} stands on more than {SOURCES_MAX} clones; wait until one of them is hydrated")
        node = current.source.node
        current = (await store.need(Volume, current.source.volume)).value
        chain.append(Link(current, node, await load_chunks(store, current)))
    return chain


async def open_request(
    store: Store, volume: Volume, servers: dict[int, ChunkServer], signer: Signer, moves: Sequence[Move] = ()
) -> dict[str, Any]:
    """Return the control message that makes a gateway serve the volume under its present generation.

    A volume that is tended and not attached gets no export: nobody but the store itself has business there.
    """
    chunks = await load_chunks(store, volume)
    sources = await source_chain(store, volume)
    boot_set = await store.get(BootSet, boot_set_id(volume.source)) if sources and volume.source else None
    host = rules.holder(volume)
    number = volume_number(volume.id)
    read_token, write_token = signer.read(number), signer.write(number, volume.generation)
    return {
        "op": "open",
        "volume": number,
        "generation": volume.generation,
        "token": read_token if volume.read_only else write_token,
        "read_token": read_token,
        "size_bytes": volume.size_bytes,
        "read_only": volume.read_only,
        "parents": list(volume.parents),
        "head": shown(volume),
        "placement": [list(replicas) for replicas in chunks],
        "servers": addresses([*chunks, *((move.to,) for move in moves)], servers),
        "stale": sorted(int(server) for server in volume.stale),
        "given_up": sorted(server.number for server in servers.values() if server.given_up),
        "sources": [_source(link, servers, signer) for link in sources],
        "hydrated_chunks": volume.hydrated_chunks if sources else chunk_count(volume.size_bytes),
        "export": volume.id if volume.state == "attached" else "",
        "prefer": sorted(server.number for server in servers.values() if server.host == host),
        "moves": [move.wire() for move in moves],
        "boot_set": [
            {"chunk": chunk, "block": block, "blocks": blocks}
            for chunk, block, blocks in (boot_set.value.ranges if boot_set else ())
        ],
        "upkeep": upkeep(volume, write_token),
    }


def shown(volume: Volume) -> int:
    """Return the layer that is written, or that a read-only attachment shows.

    Of a volume that was never written it is layer 0, which is never the head: a gateway reads what is frozen from one
    in-sync replica if there is no second one, but a head only from replicas that agree.
    """
    if volume.read_node != -1:
        return volume.read_node
    return 0 if volume.read_only and volume.unwritten else volume.head


def upkeep(volume: Volume, write_token: str) -> dict[str, Any] | None:
    """Return what lets a gateway repair, move and hydrate what it shows read-only.

    An auxiliary volume is read once and deleted: copying it from its source would be for nothing.
    """
    if not volume.read_only:
        return None
    return {"token": write_token, "head": volume.head, "hydrate": not volume.kept_until}


def boot_set_id(source: VolumeSource) -> str:
    """Return the id of the record of what is read first of a source."""
    return f"{source.volume}.{source.node}"


def resize_request(volume: Volume, chunks: Chunks, servers: dict[int, ChunkServer]) -> dict[str, Any]:
    """Return the control message that grows a volume at the gateway that serves it."""
    return {
        "op": "resize",
        "volume": volume_number(volume.id),
        "generation": volume.generation,
        "size_bytes": volume.size_bytes,
        "placement": [list(replicas) for replicas in chunks],
        "servers": addresses(chunks, servers),
    }


def addresses(chunks: Iterable[tuple[int, ...]], servers: dict[int, ChunkServer]) -> dict[str, str]:
    """Return number (as text, as JSON wants it) → address for every server that holds one of the chunks."""
    numbers = sorted({number for replicas in chunks for number in replicas})
    return {str(number): servers[number].address for number in numbers if number in servers}


def _source(link: Link, servers: dict[int, ChunkServer], signer: Signer) -> dict[str, Any]:
    number = volume_number(link.volume.id)
    return {
        "volume": number,
        "layer": link.node,
        "parents": list(link.volume.parents),
        "token": signer.read(number),
        "size_bytes": link.volume.snapshot_bytes.get(str(link.node), link.volume.size_bytes),
        "placement": [rules.in_sync(replicas, link.volume.stale) for replicas in link.chunks],
        "servers": addresses(link.chunks, servers),
    }
