"""The block store's units and names: bytes of a chunk, ``vol-…`` and its number on the wire."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from yuntai.pangu.errors import Invalid

if TYPE_CHECKING:
    from yuntai.model.cluster import Volume

BLOCK_BYTES = 4096
CHUNK_BYTES = 64 << 20
CHUNK_BLOCKS = CHUNK_BYTES // BLOCK_BYTES
CHUNKS_PER_RECORD = 1024
"""Chunks of one :class:`~yuntai.model.cluster.Placement` record."""
REPLICAS = 3
IN_SYNC_MIN = 2
VOLUME_BYTES_MAX = 4 << 40
"""4 TiB: the placement then still fits one etcd transaction and one control message."""

_VOLUME_ID = re.compile(r"vol-[0-9a-f]{16}")


def volume_number(volume_id: str) -> int:
    """Return the number that stands for a volume on the wire; raise :class:`Invalid` for what is not an id."""
    if not _VOLUME_ID.fullmatch(volume_id) or int(volume_id[4:], 16) == 0:
        raise Invalid(
            f"volume id {volume_id!r} is wrong: it is `vol-` and 16 hexadecimal digits in lower case, not all 0"
        )
    return int(volume_id[4:], 16)


def volume_id(number: int) -> str:
    """Return the id of the volume with this number."""
    return f"vol-{number:016x}"


def chunk_count(size_bytes: int) -> int:
    """Return how many chunks a volume of this size has, the last one in part."""
    return -(-size_bytes // CHUNK_BYTES)


def check_size(size_bytes: int) -> None:
    """Raise :class:`Invalid` unless this is a possible size of a volume."""
    if not BLOCK_BYTES <= size_bytes <= VOLUME_BYTES_MAX or size_bytes % BLOCK_BYTES:
        raise Invalid(
            f"`size_bytes` is {size_bytes}: give a multiple of {BLOCK_BYTES} from {BLOCK_BYTES} to {VOLUME_BYTES_MAX}"
        )


def is_hydrated(volume: Volume) -> bool:
    """Return whether a volume needs no source: it has none, or every chunk was copied from it."""
    return volume.source is None or volume.hydrated_chunks >= chunk_count(volume.size_bytes)
