"""All off, all on: hosts that come back later than the others are awaited instead of being called failed.

After a power cut, or a cloud that was switched off as a whole, some servers take minutes longer than others to come
back. Their instances are where they were and nobody else has them; to start them elsewhere would shuffle the cloud.

How it is known: a host that fails alone is missed by others that were there before and after. So where more than half
of the hosts that live have *started* since the host was last heard of, it was not that host that failed. Nothing of
this depends on who leads, or since when: the hosts' own records say when each started and was last heard of.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.model.cluster import Host

Awaited: TypeAlias = Literal["no", "anew", "decided"]
"""``anew``: it is still to be written until when; most hosts have started, perhaps once more, since that was done."""
ANEW_S = 60.0
"""Hosts that start one after the other make no new decision each."""
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def most_started(booted: Sequence[str]) -> str:
    """Return the last moment since which more than half of the hosts have started; "" where it is not known."""
    return sorted(booted)[(len(booted) - 1) // 2] if booted else ""


def awaited(host: Host, most_started: str, now: str) -> Awaited:
    """Tell whether a host without a lease is given time; ``most_started`` is of the hosts that live."""
    if host.awaited_since and most_started <= later(host.awaited_since, ANEW_S):
        return "decided" if now < host.awaited_until else "no"
    return "anew" if host.seen < most_started else "no"


def later(text: str, seconds: float) -> str:
    """Return the time ``seconds`` after another."""
    return (dt.datetime.strptime(text, _FORMAT).replace(tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)).strftime(
        _FORMAT
    )
