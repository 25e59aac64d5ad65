"""The leader's part for hosts that are down: no port has such a host beside the one that it is on.

While a guest is moved the network has its port at both hosts. A destination that dies meanwhile cannot let go of it,
and whatever is sent to the guest would be sent to that host, too, for as long as it is away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.model.cluster import Host
from yuntai.model.compute import Migration
from yuntai.network.southbound import SouthboundError, leave_ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yuntai.state import Store

PERIOD_S = 5.0
_log = log.get("bindings")


async def run(store: Store, southbound: str) -> None:
    """Look now and then, until cancelled."""
    cleared: set[str] = set()
    while True:
        cleared = await clear(store, southbound, cleared)
        await asyncio.sleep(PERIOD_S)


async def clear(
    store: Store,
    southbound: str,
    cleared: set[str],
    *,
    leave: Callable[[str, str], Awaitable[int]] = leave_ports,
) -> set[str]:
    """Do it for every host that is down, except for those in ``cleared``; return for which it need not be done again.

    A host that is down takes no port anew. One to which a guest is still being moved has its turn when that has ended.
    """
    down = {one.value.id for one in await store.list(Host) if one.value.status == "down"}
    done = cleared & down
    if done == down:
        return done
    wanted = {one.value.destination for one in await store.list(Migration)}
    for host in sorted(down - done - wanted):
        try:
            count = await leave(southbound, host)
        except SouthboundError as error:
            _log.warning("a host that is down keeps ports of guests elsewhere", host=host, error=str(error))
            continue
        if count:
            _log.info("ports of guests elsewhere taken from a host that is down", host=host, ports=count)
        done.add(host)
    return done
