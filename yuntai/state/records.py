"""How a record becomes a key and bytes, and back.

Beside the record's own fields the bytes carry ``_w``, a text that no other write has. After a write that got no
answer it tells "this is mine" from "another wrote the same thing".

While a cloud is upgraded, processes of two versions share the records. A field that this build does not know is kept
beside the record (:attr:`Versioned.rest`) and written back with it, so that an older process does not undo what a
newer one decided. That holds for a record that was read and compared; who writes one blindly is its only writer.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

import msgspec

from yuntai.model.base import Record
from yuntai.state.errors import Corrupt, Invalid, UnsupportedVersion
from yuntai.state.events import Unchanged, Versioned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.state.events import Compare

T = TypeVar("T", bound=Record)

PREFIX = "/yuntai/v1/"
ID_BYTES_MAX = 512


class _Version(msgspec.Struct):
    v: int = 1


_VERSION_DECODER = msgspec.json.Decoder(_Version)
_FIELDS_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()
_WRITE_ID = b',"_w":'


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


@functools.cache
def _names(kind: type[Record]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(kind)) | {"_w"}


def encode(record: Record, write_id: str, rest: bytes = b"") -> bytes:
    """Return a record's JSON with the fields ``rest`` of a newer build and ``_w`` = ``write_id`` added."""
    return _ENCODER.encode(record)[:-1] + rest + _WRITE_ID + _ENCODER.encode(write_id) + b"}"


def encode_all(put: Iterable[Record], compare: Iterable[Compare], write_id: str) -> list[bytes]:
    """Return the JSON of what a transaction writes, with the unknown fields of what it was made from."""
    rests = {
        (type(one.record.value), one.record.value.id): one.record.rest
        for one in compare
        if isinstance(one, Unchanged) and one.record.rest
    }
    return [encode(record, write_id, rests.get((type(record), record.id), b"")) for record in put]


def read(kind: type[T], key: bytes, raw: bytes, mod_revision: int) -> Versioned[T]:
    """Decode a record with all that it takes to write it back; raise as :func:`decode` does."""
    record = decode(kind, key, raw)
    # What this build wrote itself, the most by far, is told from the rest by its bytes alone.
    if raw.startswith(_ENCODER.encode(record)[:-1] + _WRITE_ID):
        return Versioned(record, mod_revision)
    return Versioned(record, mod_revision, _unknown(kind, raw))


def _unknown(kind: type[Record], raw: bytes) -> bytes:
    """Return the fields that the type does not have, each with a comma before it."""
    fields = _FIELDS_DECODER.decode(raw)
    return b"".join(
        b"," + _ENCODER.encode(name) + b":" + bytes(fields[name]) for name in fields if name not in _names(kind)
    )


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
