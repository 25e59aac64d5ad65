"""The proof on every HTTP request to a master: an HMAC with the cluster's secret over what is asked, of whom, and when.

A request that was overheard is of no use to another: its number (a nonce) is taken once, it is for one master, and a
master that has just started takes nothing that was said before.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from yuntai.pangu.errors import Denied, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTH_HEADER = "X-Yuntai-Auth"
DATE_HEADER = "X-Yuntai-Date"
NONCE_HEADER = "X-Yuntai-Nonce"
SKEW_MAX_S = 300
NONCES_MAX = 2_000_000
"""Some 200 MB, more than 3,000 requests a second for as long as one is remembered."""


def _mac(secret: bytes, method: str, path: str, body: bytes, host: str, date: str, nonce: str) -> str:
    text = "\n".join((method, host, path, hashlib.sha256(body).hexdigest(), date, nonce))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def sign(secret: bytes, method: str, path: str, body: bytes, *, host: str) -> dict[str, str]:
    """Return the headers for a request to ``host`` (``address:port``). ``path`` is with its query."""
    date, nonce = f"{time.time():.3f}", secrets.token_hex(16)
    return {
        DATE_HEADER: date,
        NONCE_HEADER: nonce,
        AUTH_HEADER: _mac(secret, method, path, body, host, date, nonce),
    }


class Guard:
    """What one master remembers to refuse what it was told before."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._started = time.time() - 0.001  # the date has no finer steps
        self._seen: OrderedDict[str, float] = OrderedDict()  # nonce → when it may be forgotten, oldest first

    def check(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Raise :class:`Denied` unless the headers prove the secret for just this request, for the first time."""
        date, given, nonce = (headers.get(name, "") for name in (DATE_HEADER, AUTH_HEADER, NONCE_HEADER))
        proof = _mac(self._secret, method, path, body, headers.get("Host", ""), date, nonce)
        if not hmac.compare_digest(proof.encode(), given.encode()):
            raise Denied(f"the header {AUTH_HEADER} does not prove this cluster's secret")
        # From here on the sender knows the secret, or repeats one who does.
        now, said = time.time(), _seconds(date)
        if said is None or abs(now - said) > SKEW_MAX_S:
            raise Denied(
                f"{DATE_HEADER} is {date[:32]!r}, more than {SKEW_MAX_S} s from this clock; set the clocks (NTP)"
            )
        if said < self._started:
            raise Unavailable("this master has started after the request was signed; sign it again")
        while self._seen and next(iter(self._seen.values())) < now:
            self._seen.popitem(last=False)
        if nonce in self._seen:
            raise Denied(f"{NONCE_HEADER} was used before: a request is taken once")
        if len(self._seen) >= NONCES_MAX:
            raise Unavailable("too many requests within a few minutes; try again")
        self._seen[nonce] = now + 2 * SKEW_MAX_S


def _seconds(date: str) -> float | None:
    plain = date.isascii() and len(date) <= 20 and date.replace(".", "", 1).isdigit()
    return float(date) if plain else None
