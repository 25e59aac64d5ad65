"""Manifests, indices and data objects as bytes. Pure; see the package for what they mean."""

from __future__ import annotations

import hashlib
import re
import sys
from typing import TypeVar

import msgspec

from yuntai.archive.errors import ArchiveError, UnusableError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMAT = 1
BLOCK_BYTES = 4096
REGION_BLOCKS = 1 << 20
"""64 chunks: as many as one question for changes may be about."""
REGION_BYTES = REGION_BLOCKS * BLOCK_BYTES
OBJECT_BLOCKS = 1024
CHUNK_BLOCKS = 16_384
"""No object reaches from one chunk into the next, so a change does not shift what stands behind it."""
SIZE_BYTES_MAX = 1 << 46
MANIFEST_BYTES_MAX = 16 << 20
INDEX_BYTES_MAX = 256 << 20
ZSTD_LEVEL = 3

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Run = tuple[int, int, int, int]
"""First block in the region, blocks, number of the object, first block in the object."""

S = TypeVar("S")


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """An object by name, as the one that names it expects it to be."""

    sha256: str
    stored_bytes: int


class Region(msgspec.Struct, frozen=True, array_like=True):
    """A region that is not all zeros."""

    number: int
    sha256: str
    stored_bytes: int


class Index(msgspec.Struct, frozen=True):
    """What a region's blocks are; ``runs`` in order of blocks."""

    objects: tuple[Stored, ...] = ()
    runs: tuple[Run, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One snapshot."""

    format: int = FORMAT
    snapshot: str
    name: str = ""
    disk: str = ""
    kind: str = "data"
    taken: str = ""
    exported: str
    volume: str
    node: int
    parent: str = ""
    """The snapshot that it was compared with; for people: nothing is read from there."""
    size_bytes: int
    written_bytes: int
    """Blocks that this export has read and found to be data."""
    stored_bytes: int
    """What it has put into the archive for them."""
    regions: tuple[Region, ...]


def sha256(data: bytes) -> str:
    """Return the name of an object with these bytes."""
    return hashlib.sha256(data).hexdigest()


def compress(data: bytes) -> bytes:
    """Return ``data`` as it is stored. The frame knows its length and has a checksum of its own."""
    return zstd.compress(
        data,
        options={
            zstd.CompressionParameter.compression_level: ZSTD_LEVEL,
            zstd.CompressionParameter.checksum_flag: 1,
        },
    )


def decompress(data: bytes, bytes_max: int) -> bytes:
    """Return what :func:`compress` was given; raise :class:`UnusableError` if it is no such, or above ``bytes_max``."""
    try:
        whole = zstd.ZstdDecompressor()
        plain = whole.decompress(data, max_length=bytes_max)
        if not whole.eof or whole.unused_data:
            raise UnusableError(f"is cut off, or holds more than {bytes_max} bytes")
    except zstd.ZstdError as error:
        raise UnusableError(f"cannot be decompressed: {error}") from error
    return plain


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as it is stored: JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Return a manifest; raise :class:`UnusableError` if it is none that this version can use."""
    found = _decode(data, msgspec.json.Decoder(Manifest))
    if found.format != FORMAT:
        raise UnusableError(f"has format {found.format}; this version reads {FORMAT}")
    check_name(found.snapshot)
    if not 0 < found.size_bytes <= SIZE_BYTES_MAX or found.size_bytes % BLOCK_BYTES:
        raise UnusableError(f"says size_bytes {found.size_bytes}")
    last = -1
    for region in found.regions:
        if not last < region.number < -(-found.size_bytes // REGION_BYTES):
            raise UnusableError(f"has region {region.number} out of order or beyond the disk")
        _check_sha256(region.sha256)
        last = region.number
    return found


def encode_index(index: Index) -> bytes:
    """Return an index as it is stored."""
    return compress(msgspec.json.encode(index))


def decode_index(data: bytes) -> Index:
    """Return an index; raise :class:`UnusableError` if its runs do not fit together."""
    index = _decode(decompress(data, INDEX_BYTES_MAX), msgspec.json.Decoder(Index))
    for one in index.objects:
        _check_sha256(one.sha256)
    end = 0
    for block, blocks, number, at in index.runs:
        fits = end <= block and blocks > 0 and block + blocks <= REGION_BLOCKS
        if not fits or not 0 <= number < len(index.objects) or at < 0 or at + blocks > OBJECT_BLOCKS:
            raise UnusableError(f"has a run that cannot be: {(block, blocks, number, at)}")
        end = block + blocks
    return index


def _decode(data: bytes, decoder: msgspec.json.Decoder[S]) -> S:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise UnusableError(f"is not what it should be: {error}") from error


def check_name(name: str) -> None:
    """Raise :class:`ArchiveError` unless a snapshot may be called so."""
    if not _NAME.fullmatch(name):
        raise ArchiveError(f"snapshot name {name!r}: use 1 to 64 letters, digits, '-' and '_', a letter or digit first")


def _check_sha256(name: str) -> None:
    if not _SHA256.fullmatch(name):
        raise UnusableError(f"names an object {name!r}, which is no SHA-256")
