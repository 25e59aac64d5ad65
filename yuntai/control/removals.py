"""The leader's part for hosts that were removed: their place in the virtual network is cleared, again until it is.

A host that still runs puts its chassis back as soon as it misses it, so it counts as cleared once it was found gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from yuntai import log
from yuntai.model.joining import RemovedHost
from yuntai.network.southbound import SouthboundError, forget_chassis
from yuntai.state import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from yuntai.state import Store

_log = log.get("removals")


PERIOD_S = 10.0


async def run(store: Store, southbound: str, fences: Sequence[Any] = ()) -> None:
    """Look now and then, until cancelled."""
    while True:
        await clear(store, southbound, fences)
        await asyncio.sleep(PERIOD_S)


async def clear(
    store: Store,
    southbound: str,
    fences: Sequence[Any] = (),
    *,
    forget: Callable[[str, str], Awaitable[bool]] = forget_chassis,
) -> None:
    """Do it for every removed host for which it is not done yet."""
    for found in await store.list(RemovedHost):
        if found.value.forgotten_by_network:
            continue
        try:
            if await forget(southbound, found.value.id):
                _log.info("removed host taken from the network", host=found.value.id)
                continue
            await store.update(
                RemovedHost,
                found.value.id,
                lambda one: msgspec.structs.replace(one, forgotten_by_network=True),
                guard=fences,
            )
        except (SouthboundError, NotFound) as error:
            _log.warning("removed host not cleared from the network", host=found.value.id, error=str(error))
