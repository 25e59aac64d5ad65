"""Does this master still reach the block store? One whose host has lost its way to it leads nobody, and steps down.

Its place in etcd does not tell: that may be on another network, or the path be dead for the store's traffic alone. Then
the other hosts, whose path is fine, would wait for ever for a leader that hears none of them. So a leader that nothing
on any other host answers, no chunk server and no gateway, leaves the office to the next, and stands again once it
reaches somebody. With fewer than two other hosts it could not tell whose path it is that is dead, and goes on.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.pangu import wire

if TYPE_CHECKING:
    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers

LOOK_EVERY_S = 1.0
GREET_S = 2.0
OTHERS_MIN = 2
ASKED_MAX = 16
STAND_AGAIN_S = 30.0
"""After so long it stands again all the same: if everything else is really gone, somebody has to lead what comes."""
TRY_EVERY_S = 2.0
_log = log.get("reach")


class Reach:
    """What a leader hears of other hosts."""

    def __init__(self, office: Office, servers: Servers, gateways: Gateways) -> None:
        self._office = office
        self._servers = servers
        self._gateways = gateways
        self._known: list[str] = []  # addresses on other hosts; the parts above forget theirs with the term

    async def lost(self) -> None:
        """Return once nothing on any other host answers."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            host = self._office.name.partition(":")[2]
            others = {one.number: one for one in self._servers.records() if one.host != host}
            hosts = sorted({one.host for one in others.values()})
            if len(hosts) < OTHERS_MIN or set(others) & set(self._servers.statuses()):
                continue
            gateways = [one["address"] for one in self._gateways.states() if one["id"] != host]
            self._known = [*(one.address for one in others.values()), *gateways]
            if not await self._any_greets():
                _log.warning("no other host's part of the block store answers; another master may lead", hosts=hosts)
                return

    async def regained(self) -> None:
        """Return once something on another host answers again, or nothing has for :data:`STAND_AGAIN_S`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + STAND_AGAIN_S
        while loop.time() < until:
            if await self._any_greets():
                _log.info("the block store is reached again")
                return
            await asyncio.sleep(TRY_EVERY_S)
        _log.warning("still nothing answers; stands for election all the same", waited_s=STAND_AGAIN_S)

    async def _any_greets(self) -> bool:
        """Look whether anybody is there, without a word: who leads now is the one that they listen to."""
        asked = random.sample(self._known, min(len(self._known), ASKED_MAX))
        return any(await asyncio.gather(*(wire.greets(one, GREET_S, context=self._office.tls) for one in asked)))
