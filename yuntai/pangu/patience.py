"""Waiting long for an answer, but only of somebody who lives: a frozen host's kernel takes a question and keeps it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

ASK_AFTER_S = 2.0
FAILURES = 2


async def while_well(answer: Awaitable[T], well: Callable[[], Awaitable[bool]]) -> T:
    """Return ``answer``; raise :class:`TimeoutError` once ``well`` says no twice in a row while it is waited for."""
    waiting = asyncio.ensure_future(answer)
    failures = 0
    try:
        while True:
            await asyncio.wait({waiting}, timeout=ASK_AFTER_S)
            if waiting.done():
                return waiting.result()
            failures = 0 if await well() else failures + 1
            if failures >= FAILURES and not waiting.done():
                raise TimeoutError("it does not answer any more")
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
