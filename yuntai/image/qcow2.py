"""Reads a qcow2 header without trusting a byte of it. Pure: bytes in, facts or refusal out.

The layout is QEMU's ``docs/interop/qcow2.rst``. Whoever uploads an image writes this header, and ``qemu-img`` would
follow it to other files (backing files, external data files), so those are refused here, before QEMU sees the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = b"QFI\xfb"
HEADER_READ_BYTES = 64 << 10
"""What :func:`parse` needs of a file: header and extensions stand in the first cluster, of at least 512 bytes."""

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")

CLUSTER_BITS = range(9, 22)
L1_BYTES_MAX = 32 << 20
SECTOR_BYTES = 512
SIZE_BYTES_MAX = 4 << 40

_DIRTY, _CORRUPT, _EXTERNAL_DATA, _COMPRESSION_TYPE, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION_TYPE | _EXTENDED_L2
_EXTENSIONS_REFUSED = {
    0xE2792ACA: "names the format of a backing file",
    0x44415441: "names an external data file",
    0x0537BE77: "has a header for encryption",
}
_EXTENSIONS_MAX = 64


class RefusedError(Exception):
    """The header is not one of an image that may be imported; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the rest needs of an accepted header."""

    version: int
    size_bytes: int
    cluster_bytes: int
    snapshots: int


def parse(start: bytes, file_bytes: int) -> Header:
    """Return the facts of a header from the first bytes of a file; raise :class:`RefusedError`.

    ``start`` is the first :data:`HEADER_READ_BYTES` of the file, or all of it if it is shorter.
    """
    if len(start) < _V2.size:
        raise RefusedError(f"the file has {len(start)} bytes, less than a qcow2 header; it is cut off")
    (
        magic,
        version,
        backing_offset,
        backing_bytes,
        cluster_bits,
        size_bytes,
        encryption,
        l1_entries,
        l1_offset,
        refcount_offset,
        refcount_clusters,
        snapshots,
        _,
    ) = _V2.unpack_from(start)
    if magic != MAGIC:
        raise RefusedError("the file does not start with qcow2's magic")
    if version not in (2, 3):
        raise RefusedError(f"qcow version {version} is not supported; convert it: qemu-img convert -O qcow2 OLD NEW")
    if backing_offset or backing_bytes:
        raise RefusedError("it has a backing file; merge them first: qemu-img convert -O qcow2 IMAGE NEW")
    if encryption:
        raise RefusedError(f"it is encrypted (method {encryption}); decrypt it first: qemu-img convert")
    if cluster_bits not in CLUSTER_BITS:
        raise RefusedError(f"its cluster_bits is {cluster_bits}, out of 9 to 21; the header is damaged")
    cluster_bytes = 1 << cluster_bits
    extensions_at = _V2.size
    if version >= 3:
        extensions_at = _check_v3(start, cluster_bytes)
    size_bytes -= size_bytes % SECTOR_BYTES  # QEMU counts whole sectors
    _check_size(size_bytes, cluster_bytes, l1_entries)
    _check_tables(file_bytes, cluster_bytes, l1_offset, 8 * l1_entries, "L1 table")
    _check_tables(file_bytes, cluster_bytes, refcount_offset, refcount_clusters * cluster_bytes, "refcount table")
    _check_extensions(start[:cluster_bytes], extensions_at)
    return Header(version, size_bytes, cluster_bytes, snapshots)


def _check_v3(start: bytes, cluster_bytes: int) -> int:
    """Check the fields that version 3 adds; return where the extensions begin."""
    if len(start) < _V2.size + _V3.size:
        raise RefusedError("the file is shorter than a qcow2 header of version 3; it is cut off")
    incompatible, _, _, refcount_order, header_bytes = _V3.unpack_from(start, _V2.size)
    if incompatible & _EXTERNAL_DATA:
        raise RefusedError("its data is in an external file; put it in one: qemu-img convert -O qcow2 IMAGE NEW")
    if incompatible & _CORRUPT:
        raise RefusedError("it is marked corrupt; repair it first: qemu-img check -r all IMAGE")
    if incompatible & _DIRTY:
        raise RefusedError("it was not closed cleanly; repair it first: qemu-img check -r all IMAGE")
    if incompatible & ~_KNOWN:
        raise RefusedError(f"it has incompatible features that are not known here: {incompatible & ~_KNOWN:#x}")
    if refcount_order > 6:
        raise RefusedError(f"its refcount_order is {refcount_order}, above 6; the header is damaged")
    if header_bytes < _V2.size + _V3.size or header_bytes % 8 or header_bytes > min(cluster_bytes, len(start)):
        raise RefusedError(f"its header_length is {header_bytes}; the header is damaged")
    return int(header_bytes)


def _check_size(size_bytes: int, cluster_bytes: int, l1_entries: int) -> None:
    if not 0 < size_bytes <= SIZE_BYTES_MAX:
        raise RefusedError(f"its virtual size is {size_bytes} bytes; from 1 to {SIZE_BYTES_MAX} can be imported")
    if 8 * l1_entries > L1_BYTES_MAX:
        raise RefusedError(f"its L1 table has {l1_entries} entries, more than QEMU takes; the header is damaged")
    # With extended L2 an entry has 16 bytes, so an L1 entry covers half: the smaller bound is good for both.
    covered = l1_entries * cluster_bytes * (cluster_bytes // 8)
    if covered < size_bytes:
        raise RefusedError(f"its L1 table covers {covered} bytes of {size_bytes}; the header is damaged")


def _check_tables(file_bytes: int, cluster_bytes: int, offset: int, length: int, what: str) -> None:
    if offset % cluster_bytes or offset < cluster_bytes or offset + length > file_bytes:
        raise RefusedError(f"its {what} ({length} bytes at {offset}) is not within the file; it is damaged or cut off")


def _check_extensions(cluster: bytes, at: int) -> None:
    for _ in range(_EXTENSIONS_MAX):
        if at + _EXTENSION.size > len(cluster):
            return
        kind, length = _EXTENSION.unpack_from(cluster, at)
        if kind == 0:
            return
        if kind in _EXTENSIONS_REFUSED:
            raise RefusedError(
                f"its header {_EXTENSIONS_REFUSED[kind]}; make it whole: qemu-img convert -O qcow2 IMAGE NEW"
            )
        if length > len(cluster):
            raise RefusedError(f"a header extension ({kind:#x}) has {length} bytes; the header is damaged")
        at += _EXTENSION.size + -(-length // 8) * 8
    raise RefusedError(f"it has more than {_EXTENSIONS_MAX} header extensions; the header is damaged")
