"""The proof on every HTTP request to a master: an HMAC with the cluster's secret over what is asked, and when."""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING

from yuntai.pangu.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTH_HEADER = "X-Yuntai-Auth"
DATE_HEADER = "X-Yuntai-Date"
SKEW_MAX_S = 300


def _mac(secret: bytes, method: str, path: str, body: bytes, date: str) -> str:
    text = "\n".join((method, path, hashlib.sha256(body).hexdigest(), date))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def sign(secret: bytes, method: str, path: str, body: bytes) -> dict[str, str]:
    """Return the headers for a request. ``path`` is with its query; the date is in whole seconds of Unix time."""
    date = str(int(time.time()))
    return {DATE_HEADER: date, AUTH_HEADER: _mac(secret, method, path, body, date)}


def check(secret: bytes, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Raise :class:`Denied` unless the headers prove the secret and are at most five minutes old."""
    date, given = headers.get(DATE_HEADER, ""), headers.get(AUTH_HEADER, "")
    if not hmac.compare_digest(_mac(secret, method, path, body, date).encode(), given.encode()):
        raise Denied(f"the header {AUTH_HEADER} does not prove this cluster's secret")
    if not date.isascii() or not date.isdigit() or abs(time.time() - int(date)) > SKEW_MAX_S:
        raise Denied(f"{DATE_HEADER} is {date[:32]!r}, more than {SKEW_MAX_S} s from this clock; set the clocks (NTP)")
