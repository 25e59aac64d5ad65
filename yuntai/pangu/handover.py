"""Questions to a gateway about a volume, which are given up when the volume is taken over by another gateway.

Whoever works on a volume holds its lock while its gateway is asked. One that hangs would so keep the volume from the
gateway that is to serve it instead. Nothing needs the old one's answer: the next generation fences it, and what had
begun is asked again, and done by the new one.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_S = 0.3
"""A gateway that is well has answered by then, and its answer is better than none."""

Key = tuple[str, int]


class Handover:
    """Which questions are on their way, by host and volume, and which volumes are leaving a host."""

    def __init__(self) -> None:
        self._asked: dict[Key, set[asyncio.Timeout]] = {}
        self._leaving: dict[Key, list[float]] = {}

    @contextmanager
    def leave(self, host: str, volume: int) -> Iterator[None]:
        """Give up, after a moment, what is asked of ``host`` about ``volume``, for as long as this holds."""
        until = asyncio.get_running_loop().time() + ANSWER_S
        key = (host, volume)
        self._leaving.setdefault(key, []).append(until)
        try:
            for waiting in self._asked.get(key, ()):
                due = waiting.when()
                if not waiting.expired() and (due is None or due > until):
                    waiting.reschedule(until)
            yield
        finally:
            self._leaving[key].remove(until)
            if not self._leaving[key]:
                del self._leaving[key]

    @contextmanager
    def asking(self, host: str, request: dict[str, Any], waiting: asyncio.Timeout) -> Iterator[None]:
        """Let ``waiting``, which must have begun, end early if a volume of the request leaves the host.

        Raise :class:`TimeoutError` at once if it is too late to ask.
        """
        keys = [(host, number) for number in _volumes(request)]
        until = min((time for key in keys for time in self._leaving.get(key, ())), default=None)
        if until is not None:
            if until <= asyncio.get_running_loop().time():
                raise TimeoutError
            waiting.reschedule(min(until, waiting.when() or until))
        for key in keys:
            self._asked.setdefault(key, set()).add(waiting)
        try:
            yield
        finally:
            for key in keys:
                self._asked[key].discard(waiting)
                if not self._asked[key]:
                    del self._asked[key]


def _volumes(request: dict[str, Any]) -> list[int]:
    """Return the numbers of the volumes that a request to a gateway is about."""
    if "volume" in request:
        return [int(request["volume"])]
    return [int(one["volume"]) for one in request.get("volumes", ())]
