"""What every stored record shares: its kind, its version, its place in etcd.

Records are immutable :class:`msgspec.Struct`s. A change is a new value made with :func:`msgspec.structs.replace` and
written by compare-and-swap, so a reader never sees half a change.
"""

from __future__ import annotations

import datetime as dt
import secrets
from typing import ClassVar

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A record in etcd under ``/yuntai/v1/<KIND>/<id>``.

    ``v`` is the version of the record's layout. Fields are only ever added, with a default; a change of meaning takes
    a new version and a decoder for the old one.
    """

    KIND: ClassVar[str] = ""

    id: str
    v: int = 1


def new_id(prefix: str, digits: int = 16) -> str:
    """Return a server-made id such as ``i-3f0c…``: ``digits`` hexadecimal digits from the system's random source."""
    return f"{prefix}-{secrets.token_hex(digits // 2)}"


def now_utc() -> str:
    """Return the present in UTC as the ECS API prints it (ISO 8601): ``2026-01-31T08:00:00Z``."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago_utc(seconds: float) -> str:
    """Return the time ``seconds`` ago, written as :func:`now_utc` does."""
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def since_utc_s(text: str) -> float:
    """Return the seconds from a time that :func:`now_utc` wrote until now; 0 for "" and for the future."""
    if not text:
        return 0.0
    then = dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
    return max(0.0, (dt.datetime.now(dt.UTC) - then).total_seconds())
