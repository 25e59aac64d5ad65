"""Wakes whoever waits for a record: rung by watches, with no ring lost between looking and waiting."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

REMEMBERED_MAX = 16_384


class Bell:
    """Take a :meth:`mark`, look at the world, then :meth:`wait` for any of some keys rung since the mark."""

    def __init__(self) -> None:
        self._now = 0
        self._forgotten = 0  # the latest ring that is no longer remembered
        self._last: OrderedDict[str, int] = OrderedDict()
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def mark(self) -> int:
        """Return the present, for :meth:`wait`."""
        return self._now

    def ring(self, key: str) -> None:
        """Wake everybody who waits for ``key``."""
        self._now += 1
        self._last[key] = self._now
        self._last.move_to_end(key)
        if len(self._last) > REMEMBERED_MAX:
            self._forgotten = self._last.popitem(last=False)[1]
        for event in self._waiting.get(key, ()):
            event.set()

    async def wait(self, keys: Iterable[str], mark: int, timeout_s: float) -> None:
        """Return once one of ``keys`` has been rung since ``mark``, at the latest after ``timeout_s``."""
        wanted = tuple(keys)
        if mark < self._forgotten or any(self._last.get(key, 0) > mark for key in wanted):
            return
        event = asyncio.Event()
        for key in wanted:
            self._waiting.setdefault(key, set()).add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return
        finally:
            for key in wanted:
                listeners = self._waiting[key]
                listeners.discard(event)
                if not listeners:
                    del self._waiting[key]
