"""Connections that bring nothing: a client that sends its request a byte a minute must not hold a connection for ever.

The HTTP library ends idle connections between requests, but waits without limit for the rest of a request's head. So
a sweep looks at all connections and drops those on which no request has begun for too long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

SILENT_S = 90.0
"""How long a connection may bring no request: longer than the keep-alive time, which ends decent clients first."""
CONNECTIONS_MAX = 2000
"""Above this the sweep drops those that have been silent longest, whatever their time."""
SWEEP_S = 5.0


class Connections:
    """Who is connected, since when they are silent, and who goes."""

    def __init__(
        self,
        connected: Callable[[], Iterable[Any]],
        *,
        silent_s: float = SILENT_S,
        limit: int = CONNECTIONS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connected = connected
        self._silent_s = silent_s
        self._limit = limit
        self._sweep_s = min(SWEEP_S, silent_s / 2)
        self._clock = clock
        self._silent_since: dict[Any, float] = {}
        self._busy: dict[Any, int] = {}

    @contextmanager
    def request(self, connection: Any) -> Iterator[None]:
        """Hold while a request of this connection is handled."""
        self._busy[connection] = self._busy.get(connection, 0) + 1
        try:
            yield
        finally:
            self._busy[connection] -= 1
            if not self._busy[connection]:
                del self._busy[connection]
            self._silent_since[connection] = self._clock()

    async def sweep_forever(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._sweep_s)
            self.sweep()

    def sweep(self) -> int:
        """Drop what is silent for too long, and the most silent connections above the limit; return how many."""
        now_s = self._clock()
        connected = list(self._connected())
        known = set(connected)
        self._silent_since = {one: since for one, since in self._silent_since.items() if one in known}
        for one in connected:
            self._silent_since.setdefault(one, now_s)
        silent = sorted((since, id(one), one) for one, since in self._silent_since.items() if one not in self._busy)
        surplus = max(0, len(connected) - self._limit)
        doomed = [
            one for index, (since, _, one) in enumerate(silent) if index < surplus or now_s - since > self._silent_s
        ]
        for one in doomed:
            if one.transport is not None:
                one.transport.abort()
        return len(doomed)
