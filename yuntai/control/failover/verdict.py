"""Has a host failed? A pure function of what is known; what it does not know for certain it does not call failed.

A host is called failed in two cases: its lease has ended, and of the witnesses that could be asked not one reaches it;
or its lease is there but it has not reached the block store for a while, which the others do. Nothing is judged by a
leader that has not led, or not been sure of etcd, for as long as a lease lasts: until then a missing lease may only
mean that nobody could renew it. With the control plane or etcd down nothing is judged at all, and nothing moves.

A host that was switched off with all the others, and comes back later than they do, is awaited (:mod:`.returning`).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from yuntai.model.cluster import HOST_LEASE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yuntai.control.failover.returning import Awaited

STEADY_S = 2.0  # so long etcd must have answered without a break; a lease outlives its outages by itself
FLAP_WINDOW_S = 3600.0
JAIL_FIRST_S = 60.0
JAIL_MAX_S = 3600.0
DOWNS_MAX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a verdict depends on. ``witnesses``: who was asked → whether it reaches the host (None: no answer)."""

    lease: bool
    led_s: float  # since when this leader has led
    steady_s: float  # since when etcd has answered it without a break
    witnesses: Mapping[str, bool | None] | None = None  # None = not asked yet
    storage_dead: bool = False
    others_storage_fine: bool = True
    awaited: Awaited = "no"  # all were off together, and this host has time to come back


@dataclass(frozen=True, slots=True)
class Verdict:
    """``unknown``: too early to say; ``silent``: no lease, but not failed for certain; ``awaited``: failed, or late."""

    state: Literal["unknown", "alive", "silent", "awaited", "failed"]
    why: str = ""
    anew: bool = False  # awaited: it is still to be said until when


def verdict(known: Evidence) -> Verdict:
    """Judge one host."""
    if known.led_s < HOST_LEASE_S:
        return Verdict("unknown", f"this leader waits {HOST_LEASE_S:g} s before it judges")
    if known.steady_s < STEADY_S:
        return Verdict("unknown", "etcd did not answer lately")
    if known.lease:
        return _by_storage(known)
    if known.witnesses is None:
        return Verdict("silent", "its lease has ended; witnesses are being asked")
    reaching = sorted(one for one, reached in known.witnesses.items() if reached)
    if reaching:
        return Verdict("silent", f"its lease has ended, but {', '.join(reaching)} reaches it")
    asked = sorted(one for one, reached in known.witnesses.items() if reached is False)
    if not asked:
        return Verdict("silent", "its lease has ended, and no witness could be asked")
    why = f"its lease has ended, and {', '.join(asked)} cannot reach it"
    if known.awaited == "no":
        return Verdict("failed", why)
    return Verdict("awaited", f"{why}; it was away when most hosts started", anew=known.awaited == "anew")


def _by_storage(known: Evidence) -> Verdict:
    if not known.storage_dead:
        return Verdict("alive")
    if not known.others_storage_fine:
        return Verdict(
            "alive", "it does not reach the block store, and neither do others: that is not the host's fault"
        )
    return Verdict("failed", "it does not reach the block store, which other hosts do")


def storage_fine(host: str, dead: Mapping[str, bool]) -> bool:
    """Tell whether the block store is fine as seen by others: more than half of those that live reach it."""
    others = [is_dead for other, is_dead in dead.items() if other != host]
    return bool(others) and sum(others) * 2 < len(others)


def jail(downs: Sequence[str], now: dt.datetime) -> tuple[tuple[str, ...], str]:
    """Return the downs that still count with this one added, and until when nothing is placed on the host.

    The first failure may happen to any host; each further one within the window doubles how long it is kept away.
    """
    since = now - dt.timedelta(seconds=FLAP_WINDOW_S)
    lately = [one for one in downs if _time(one) >= since]
    counted = (*lately, _text(now))[-DOWNS_MAX:]
    if len(counted) == 1:
        return counted, ""
    jailed_s = min(JAIL_MAX_S, JAIL_FIRST_S * 2.0 ** (len(counted) - 2))
    return counted, _text(now + dt.timedelta(seconds=jailed_s))


def _time(text: str) -> dt.datetime:
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)


def _text(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
