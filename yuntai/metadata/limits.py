"""Limits per source: open connections, and requests per second with a burst that a crawl of cloud-init fits in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS_MAX = 16
REQUESTS_PER_S = 50.0
BURST = 300.0


@dataclass(slots=True)
class _Source:
    connections: int = 0
    tokens: float = BURST
    at_s: float = 0.0


class Limits:
    """The limits of one vSwitch. Sources without a connection are forgotten once their bucket is full again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sources: dict[str, _Source] = {}

    def enter(self, source: str) -> bool:
        """Count a connection in; return whether it may stay."""
        self._forget()
        one = self._sources.setdefault(source, _Source(at_s=self._clock()))
        if one.connections >= CONNECTIONS_MAX:
            return False
        one.connections += 1
        return True

    def leave(self, source: str) -> None:
        """Count a connection out."""
        if source in self._sources:
            self._sources[source].connections -= 1

    def admit(self, source: str) -> bool:
        """Take one request from the source's bucket; return whether there was one."""
        one = self._sources.setdefault(source, _Source(at_s=self._clock()))
        now_s = self._clock()
        one.tokens = min(BURST, one.tokens + (now_s - one.at_s) * REQUESTS_PER_S)
        one.at_s = now_s
        if one.tokens < 1.0:
            return False
        one.tokens -= 1.0
        return True

    def _forget(self) -> None:
        full_after_s = BURST / REQUESTS_PER_S
        now_s = self._clock()
        for name in [n for n, s in self._sources.items() if s.connections == 0 and now_s - s.at_s > full_after_s]:
            del self._sources[name]
