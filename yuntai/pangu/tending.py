"""Opens volumes that nobody has attached when the store itself has work on them, and closes them when it is done.

Only a gateway moves, rebuilds and hydrates, under a generation of its own. So the master has some gateway open the
volume without an export. Attaching is a newer generation, which ends it at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.pangu import rules
from yuntai.pangu.errors import PanguError
from yuntai.pangu.units import is_hydrated, volume_id
from yuntai.state import StateError

if TYPE_CHECKING:
    from yuntai.model.cluster import Volume
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.mover import Mover
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers
    from yuntai.pangu.serving import Serving
    from yuntai.pangu.tuning import Tuning

EVERY_S = 1.0
IDLE_TURNS = 5
"""A tended volume is closed after so many turns in a row without work: plans come and go in between."""
OPENS_AT_ONCE = 4
MOVE, CATCH_UP, HEAL, HYDRATE = "move", "catch up", "heal", "hydrate"
URGENCY = {CATCH_UP: 2, HEAL: 3, HYDRATE: 9}

_log = log.get("tending")


class Tending:
    """A loop over the unattached volumes."""

    def __init__(
        self,
        office: Office,
        atlas: Atlas,
        servers: Servers,
        gateways: Gateways,
        serving: Serving,
        mover: Mover,
        tuning: Tuning,
    ) -> None:
        self._office = office
        self._atlas = atlas
        self._servers = servers
        self._gateways = gateways
        self._serving = serving
        self._mover = mover
        self._tuning = tuning
        self._since: dict[str, float] = {}  # volume → when it was first seen to need something
        self._idle: dict[str, int] = {}
        self.waiting: dict[str, str] = {}
        """Unattached volumes with work that are not open yet, and what for."""

    async def run(self) -> None:
        """Tend until cancelled."""
        await self._atlas.ready()
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.turn()
            except (StateError, PanguError) as error:
                _log.info("tending waits", error=str(error))

    async def turn(self) -> None:
        """Look at every unattached volume once."""
        now = asyncio.get_running_loop().time()
        damaged = {volume_id(one.volume) for status in self._servers.statuses().values() for one in status.damaged}
        due: list[tuple[int, float, str]] = []
        ended: list[Volume] = []
        seen: set[str] = set()
        tended = 0
        self.waiting = {}
        for volume in list(self._atlas.volumes.values()):
            if volume.state != "available":
                continue
            reason, urgency = self._reason(volume, damaged=volume.id in damaged)
            if volume.tended_by:
                tended += 1
                self._idle[volume.id] = 0 if reason else self._idle.get(volume.id, 0) + 1
                if self._idle[volume.id] >= IDLE_TURNS:
                    ended.append(volume)
            elif reason:
                seen.add(volume.id)
                self.waiting[volume.id] = reason
                since = self._since.setdefault(volume.id, now)
                if now - since >= self._tuning.of("hydrate_after_s" if reason == HYDRATE else "tend_after_s"):
                    due.append((urgency, since, volume.id))
        self._since = {volume: since for volume, since in self._since.items() if volume in seen}
        room = max(0, self._tuning.of("tended_at_once") - tended)
        slots = asyncio.Semaphore(OPENS_AT_ONCE)
        begun = [self._begin(slots, volume) for _, _, volume in sorted(due)[:room]]
        await asyncio.gather(*begun, *(self._end(slots, volume.id) for volume in ended))

    def _reason(self, volume: Volume, *, damaged: bool) -> tuple[str, int]:
        """Return what there is to do on a volume and how urgent it is; ("", 0) if nothing is."""
        plan = self._mover.plan
        if volume.id in plan.closed:
            return MOVE, plan.closed[volume.id]
        if plan.wanted.get(volume.id) or volume.id in plan.pressed:
            return MOVE, 0
        answering = self._servers.statuses()
        if any(int(n) in answering and self._atlas.on_server(volume.id, int(n)) for n in volume.stale):
            return CATCH_UP, URGENCY[CATCH_UP]
        if damaged:
            return HEAL, URGENCY[HEAL]
        if volume.source is not None and not is_hydrated(volume):
            return HYDRATE, URGENCY[HYDRATE]
        return "", 0

    async def _begin(self, slots: asyncio.Semaphore, volume: str) -> None:
        up = [one for one in self._gateways.states() if one["state"] == "up"]
        if not up:
            return
        host = str(min(up, key=lambda one: (one["volumes"], one["id"]))["id"])
        try:
            async with slots, self._office.lock(volume):
                record = await self._office.change(volume, lambda current: rules.tend(current, host))
                if record.state != "available" or record.tended_by != host:
                    return
                _log.info("tending", volume=volume, gateway=host, why=self.waiting.get(volume, ""))
                try:
                    await self._serving.open(record)
                except PanguError:
                    await self._office.change(volume, rules.untended)
                    raise
        except (PanguError, StateError) as error:
            _log.info("cannot be tended now", volume=volume, gateway=host, error=str(error))

    async def _end(self, slots: asyncio.Semaphore, volume: str) -> None:
        try:
            async with slots, self._office.lock(volume):
                was = (await self._office.volume(volume)).value
                if not was.tended_by or was.state != "available":
                    return
                await self._office.change(volume, rules.untended)
                _log.info("tended", volume=volume, gateway=was.tended_by)
                self._serving.dismiss_soon(was)
        except (PanguError, StateError) as error:
            _log.info("tending not ended", volume=volume, error=str(error))
        self._idle.pop(volume, None)
