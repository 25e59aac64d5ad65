"""The records of a large cloud, made by the master's own classes."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yuntai.model.base import now_utc
from yuntai.model.cluster import ChunkServer, Gateway, Placement, Volume
from yuntai.pangu import layout, placement
from yuntai.pangu.placement import Candidate
from yuntai.pangu.units import CHUNK_BYTES, VOLUME_BYTES_MAX, chunk_count, volume_number
from yuntai.state.store import TXN_OPERATIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.model.base import Record
    from yuntai.state import Store

DISK_BYTES = 10 << 40
TXN_BYTES_MAX = 1_000_000
CHUNK_TEXT_BYTES = 16  # of a chunk in a placement record, about


@dataclass(frozen=True, slots=True)
class Size:
    """How large the cloud is."""

    servers: int = 1_000
    racks: int = 40
    volumes: int = 20_000
    chunks: int = 10_000_000
    gateways: int = 500


def servers(size: Size) -> list[ChunkServer]:
    """Return the chunk servers, spread evenly over the racks."""
    used = 3 * size.chunks * CHUNK_BYTES // size.servers
    return [
        ChunkServer(
            id=f"cs-{number}",
            number=number,
            rack=f"rack-{number % size.racks:02}",
            host=f"s{number}",
            address=f"s{number}:7101",
            used_bytes=used,
            free_bytes=DISK_BYTES - used,
            total_bytes=DISK_BYTES,
            replicas=3 * size.chunks // size.servers,
            pid=1,
            version="scale",
            seen=now_utc(),
        )
        for number in range(1, size.servers + 1)
    ]


def gateways(size: Size) -> list[Gateway]:
    """Return the gateways."""
    return [Gateway(id=f"h{number:03}", address=f"h{number:03}:7200") for number in range(size.gateways)]


def candidates(known: list[ChunkServer]) -> list[Candidate]:
    """Return the servers as placement sees them."""
    return [
        Candidate(
            number=one.number, rack=one.rack, state=one.state, free_bytes=one.free_bytes, total_bytes=one.total_bytes
        )
        for one in known
    ]


def volume_chunks(size: Size, seed: int = 1) -> list[int]:
    """Return each volume's chunks: many small ones, a few very large, and the wanted sum."""
    chance = random.Random(seed)  # noqa: S311 — a load, not a secret
    raw = [chance.lognormvariate(0, 1.5) for _ in range(size.volumes)]
    most = VOLUME_BYTES_MAX // CHUNK_BYTES
    scale = size.chunks / sum(raw)
    counts = [min(most, max(1, round(one * scale))) for one in raw]
    place = 0
    while (missing := size.chunks - sum(counts)) != 0:
        # The rounding's error goes to the smaller ones, a step each.
        counts[place % size.volumes] = max(1, min(most, counts[place % size.volumes] + max(-1, min(1, missing))))
        if place > 4 * size.volumes:
            break
        place += 1
    return counts


def volumes(size: Size) -> Iterator[tuple[Volume, list[Placement]]]:
    """Yield every volume with its placement; nine of ten are attached."""
    known = candidates(servers(size))
    # As placement.place does it, but the servers are the same for all, so their copysets are made once.
    groups = placement.copysets(known)
    weights = placement._weights(groups, {one.number: one.free_bytes for one in known})  # noqa: SLF001
    orders = list(itertools.permutations(range(placement.REPLICAS)))
    created = now_utc()
    for place, chunks in enumerate(volume_chunks(size)):
        volume_id = f"vol-{place + 1:016x}"
        attached = place % 10 != 0
        volume = Volume(
            id=volume_id,
            size_bytes=chunks * CHUNK_BYTES,
            state="attached" if attached else "available",
            host=f"h{place % size.gateways:03}" if attached else "",
            generation=1,
            created=created,
        )
        assert chunk_count(volume.size_bytes) == chunks  # noqa: S101
        chooser = random.Random(volume_number(volume_id))  # noqa: S311 — spreading, not secrecy
        chosen = chooser.choices(groups, weights=weights, k=chunks)
        placed = [tuple(group[at] for at in chooser.choice(orders)) for group in chosen]
        yield volume, layout.placement_records(volume_id, placed)


async def write(store: Store, size: Size) -> int:
    """Put all of it into the store; return how many records that are."""
    written = 0
    batch: list[Record] = []
    weight = 0
    for record in _records(size):
        heavy = len(record.chunks) * CHUNK_TEXT_BYTES if isinstance(record, Placement) else 400
        if batch and (weight + heavy > TXN_BYTES_MAX or len(batch) == TXN_OPERATIONS_MAX):
            await store.txn(put=batch)
            batch, weight = [], 0
        batch.append(record)
        weight += heavy
        written += 1
    await store.txn(put=batch)
    return written


def _records(size: Size) -> Iterator[Record]:
    yield from servers(size)
    yield from gateways(size)
    for volume, placed in volumes(size):
        yield volume
        yield from placed
