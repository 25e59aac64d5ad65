"""How a record becomes a key and bytes, and back.

Beside the record's own fields the bytes carry ``_w``, a text that no other write has. After a write that got no
answer it tells "this is mine" from "another wrote the same thing".
"""

from __future__ import annotations

import functools
from typing import TypeVar

import msgspec

from yuntai.model.base import Record
from yuntai.state.errors import Corrupt, Invalid, UnsupportedVersion

T = TypeVar("T", bound=Record)

PREFIX = "/yuntai/v1/"
ID_BYTES_MAX = 512


class _Version(msgspec.Struct):
    v: int = 1


_VERSION_DECODER = msgspec.json.Decoder(_Version)


@functools.cache
def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(kind)


@functools.cache
def supported_version(kind: type[Record]) -> int:
    """Return the highest layout version of a type that this build reads: the default of its field ``v``."""
    return next(int(field.default) for field in msgspec.structs.fields(kind) if field.name == "v")


def kind_prefix(kind: type[Record], prefix: str = "") -> bytes:
    """Return the key prefix of a type's records whose ids start with ``prefix``."""
    if not kind.KIND:
        raise Invalid(f"{kind.__name__} has no KIND, so it has no place in etcd; set KIND in its class")
    return f"{PREFIX}{kind.KIND}/{prefix}".encode()


def key_of(kind: type[Record], record_id: str) -> bytes:
    """Return the key of one record; refuse an id that is empty, too long, or has control characters."""
    if not record_id or len(record_id.encode()) > ID_BYTES_MAX or not record_id.isprintable():
        raise Invalid(f"id {record_id!r} of {kind.__name__} cannot be a key: use 1 to {ID_BYTES_MAX} printable bytes")
    return kind_prefix(kind, record_id)


def id_of(kind: type[Record], key: bytes) -> str:
    """Return the id in a key that :func:`key_of` made."""
    return key[len(kind_prefix(kind)) :].decode()


def encode(record: Record, write_id: str) -> bytes:
    """Return a record's JSON with ``_w`` = ``write_id`` added."""
    body = msgspec.json.encode(record)
    return body[:-1] + b',"_w":' + msgspec.json.encode(write_id) + b"}"


def decode(kind: type[T], key: bytes, raw: bytes) -> T:
    """Decode a record; raise :class:`UnsupportedVersion` or :class:`Corrupt` with the key in the text."""
    try:
        version = _VERSION_DECODER.decode(raw).v
        if version > supported_version(kind):
            raise UnsupportedVersion(
                f"{key.decode()} has version {version}, this build reads up to {supported_version(kind)}; "
                "upgrade this process"
            )
        record: T = _decoder(kind).decode(raw)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{key.decode(errors='replace')} is not a {kind.__name__}: {error}") from error
    return record
