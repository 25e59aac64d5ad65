"""How often one AccessKey may ask: a token bucket each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from yuntai.api.errors import ThrottledError


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class Throttle:
    """Token buckets of ``burst`` tokens that fill with ``rate_per_s``; one request takes one token.

    Only keys whose signature held get here, so there are never more buckets than AccessKeys.
    """

    def __init__(
        self, rate_per_s: float = 300.0, burst: float = 600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise ValueError(f"rate {rate_per_s} must be above 0 and burst {burst} at least 1")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, access_key_id: str) -> None:
        """Take a token, or raise :class:`ThrottledError` with the time until there is one."""
        now_s = self._clock()
        bucket = self._buckets.get(access_key_id)
        if bucket is None:
            bucket = self._buckets[access_key_id] = _Bucket(self._burst, now_s)
        bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._rate_per_s)
        bucket.at_s = now_s
        if bucket.tokens < 1:
            raise ThrottledError(math.ceil((1 - bucket.tokens) / self._rate_per_s * 1000))
        bucket.tokens -= 1
