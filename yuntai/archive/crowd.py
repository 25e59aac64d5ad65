"""Several pieces of work at a time, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

AT_ONCE = 4
"""Objects that are read, packed and written side by side: so much memory is needed, some 12 MiB each."""

T = TypeVar("T")
R = TypeVar("R")


async def side_by_side(items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Do ``work`` for every item and return the results in order. The first error ends all of it and is raised."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        try:
            return await work(item)
        finally:
            slots.release()

    tasks: list[asyncio.Task[R]] = []
    failed: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                await slots.acquire()
                tasks.append(group.create_task(one(item)))
    except* Exception as errors:  # noqa: BLE001 — the first of them is raised
        failed = errors.exceptions[0]
    # Raised in the clause, Python 3.11.2 would wrap it in a group again.
    if failed is not None:
        raise failed
    return [task.result() for task in tasks]
