"""What the master signs: tokens, so that chunk servers let a gateway at a volume, and orders, which destroy."""

from __future__ import annotations

import hmac
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from yuntai import _native

LIFETIME_S = 30 * 86400
"""So long a gateway can go on with no master; the leader gives it fresh ones every :data:`REFRESH_S`."""
REFRESH_S = 86400


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs with the cluster's token secret."""

    secret: bytes

    def write(self, volume: int, generation: int) -> str:
        """Return a token that allows reading and writing under ``generation``."""
        if generation < 1:
            raise ValueError(f"generation is {generation}; a writer's is at least 1")
        return _native.sign_token(self.secret, volume, generation, self._expires_unix_s())

    def read(self, volume: int) -> str:
        """Return a token that allows reading frozen layers."""
        return _native.sign_token(self.secret, volume, 0, self._expires_unix_s())

    def order(self, server: int, run: str, term: int, request: dict[str, Any]) -> str:
        """Return a request for one run of one chunk server's process, as ``Order`` in crates/proto has it."""
        order = {
            "server": server,
            "run": run,
            "term": term,
            "issued_unix_s": int(time.time()),
            "nonce": secrets.token_hex(16),
            "request": request,
        }
        text = json.dumps(order, separators=(",", ":"))
        return f"{text}.{hmac.digest(self.secret, b'order:' + text.encode(), 'sha256').hex()}"

    @staticmethod
    def _expires_unix_s() -> int:
        return int(time.time()) + LIFETIME_S
