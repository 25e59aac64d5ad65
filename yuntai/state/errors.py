"""Everything that can go wrong in :mod:`yuntai.state`, as one tree: catch :class:`StateError` for all of it."""

# ruff: noqa: N818 — the names are outcomes ("Exists", "NotFound"), and read so where they are caught

from __future__ import annotations


class StateError(Exception):
    """Base of every error that this package raises."""


class Unavailable(StateError):
    """etcd did not answer within the time and the retries of one call. Nothing is known to be wrong; try later."""


class Uncertain(Unavailable):
    """A write got no answer, and what is stored now does not tell whether it happened. Read again, then decide."""


class NotFound(StateError):
    """There is no record of that type and id."""


class Exists(StateError):
    """A record of that type and id is there already."""


class Conflict(StateError):
    """Others kept changing the record: the bounded compare-and-swap loop gave up."""


class LeaseLost(StateError):
    """The lease is gone, so a record cannot be tied to it."""


class UnsupportedVersion(StateError):
    """A record was written by a newer version of the product. Upgrade this process before it touches the record."""


class Corrupt(StateError):
    """A stored record cannot be decoded as its type."""


class Invalid(StateError):
    """The caller's mistake: an id that cannot be a key, a type without a kind, a transaction above the limits."""
