"""Session tokens: ``PUT /latest/api/token``. They are optional for reading, and checked where one is sent.

A token carries its own end and a MAC over it and the asking port, so nothing is stored, a restart forgets none, and a
token of one instance is worth nothing at another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct

TTL_MAX_S = 21_600
_HEAD = struct.Struct(">Q")
_MAC_BYTES = 16


class Tokens:
    """Makes and checks tokens under a key derived from the cluster's secret."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"yuntai metadata token 1", hashlib.sha256)

    def make(self, port: str, ttl_s: int, now_s: float) -> str:
        """Return a token for the port that lasts ``ttl_s``."""
        head = _HEAD.pack(int(now_s) + ttl_s)
        return base64.urlsafe_b64encode(head + self._mac(head, port)).decode().rstrip("=")

    def valid(self, token: str, port: str, now_s: float) -> bool:
        """Tell whether the token was made for the port and has not ended."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            return False
        head, mac = raw[: _HEAD.size], raw[_HEAD.size :]
        if len(head) != _HEAD.size or not hmac.compare_digest(mac, self._mac(head, port)):
            return False
        return int(_HEAD.unpack(head)[0]) >= now_s

    def _mac(self, head: bytes, port: str) -> bytes:
        return hmac.digest(self._key, head + port.encode(), hashlib.sha256)[:_MAC_BYTES]
