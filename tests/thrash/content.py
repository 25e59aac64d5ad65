"""What the writers write: blocks that say which write of which block of which volume they are, in every byte."""

from __future__ import annotations

import random
import struct

from tests.thrash.register import INITIAL, Violation

_HEADER = struct.Struct("<8sQQQ")
_MAGIC = b"thrashed"
_NOISE = random.Random(0).randbytes(1 << 16)


def block(volume: int, index: int, value: int, size: int) -> bytes:
    """Return the ``size`` bytes of block ``index`` after the write ``value``."""
    header = _HEADER.pack(_MAGIC, volume, index, value)
    start = (value * 2654435761 + index * 40503) % (len(_NOISE) - size)
    return header + _NOISE[start : start + size - len(header)]


def value_of(raw: bytes, volume: int, index: int) -> int:
    """Return which write a block holds; raise :class:`Violation` if it is none's whole content."""
    if not any(raw):
        return INITIAL
    magic, _, _, value = _HEADER.unpack_from(raw)
    if raw == block(volume, index, value, len(raw)):
        return int(value)
    if magic == _MAGIC and raw == block(*_HEADER.unpack_from(raw)[1:], len(raw)):
        _, other, there, value = _HEADER.unpack_from(raw)
        raise Violation(f"block {index} of {volume:x} holds write {value:x} of block {there} of {other:x}")
    raise Violation(f"block {index} of {volume:x} is torn or invented: it begins {raw[:40].hex()}")
