"""A record that exists to be written: it makes two transactions that must not pass each other conflict.

What is derived by listing (free addresses, quotas, "nothing depends on it") can be made wrong by a record that another
transaction adds at the same time, and etcd compares only keys that it is told of. So each such transaction reads the
guard of its domain, compares it, and writes it again: one of two wins, the other reads anew.
"""

from __future__ import annotations

from typing import ClassVar

from yuntai.model.base import Record


class Guard(Record, frozen=True, kw_only=True):
    """The guard of one domain; ``id`` is ``account:<account>`` or ``router-addresses``."""

    KIND: ClassVar[str] = "guard"

    by: str  # a text that no other write has
