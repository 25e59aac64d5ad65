"""Follows the settings' record and tells every gateway and chunk server what is set for it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.model.cluster import PanguSettings
from yuntai.pangu import settings as tunables
from yuntai.pangu import wire
from yuntai.pangu.errors import NotFound, Unavailable
from yuntai.pangu.planner import Limits
from yuntai.state import Absent, Deleted, Put, Reset
from yuntai.state import NotFound as NoRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers

PUSH_EVERY_S = 2.0
TUNE_TIMEOUT_S = 5.0
NONE = PanguSettings(id=tunables.SETTINGS_ID)

_log = log.get("tuning")


class Tuning:
    """The settings as they are now."""

    def __init__(self, office: Office, servers: Servers, gateways: Gateways) -> None:
        self._office = office
        self._servers = servers
        self._gateways = gateways
        self._told: dict[tuple[str, str], tuple[int, dict[str, int]]] = {}  # who → its process and what it was told
        self.now = NONE

    def of(self, name: str) -> int:
        """Return one of the master's own tunables."""
        return tunables.value(self.now, name)

    def limits(self) -> Limits:
        """Return the limits on moves."""
        return Limits(
            at_once=self.of("moves_at_once"),
            per_volume=self.of("moves_per_volume"),
            per_server=self.of("moves_per_server"),
            spread=self.of("balance_spread_ppm") / 1e6,
        )

    async def change(self, rule: Callable[[PanguSettings], PanguSettings]) -> PanguSettings:
        """Replace the record by ``rule`` of it and take it over at once; return what is stored."""
        while True:
            try:
                self.now = await self._office.store.update(
                    PanguSettings, tunables.SETTINGS_ID, rule, guard=[self._office.guard]
                )
            except NoRecord:
                absent = Absent(PanguSettings, NONE.id)
                await self._office.store.txn(compare=[self._office.guard, absent], put=[NONE])
            else:
                await self.push()
                return self.now

    async def run(self) -> None:
        """Follow the record, and tell whoever connects or starts again, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._push_often())

    async def _follow(self) -> None:
        async with aclosing(self._office.store.watch(PanguSettings)) as events:
            async for event in events:
                match event:
                    case Reset(records=records):
                        self.now = next((one.value for one in records), NONE)
                    case Put(record=record):
                        self.now = record.value
                    case Deleted():
                        self.now = NONE

    async def _push_often(self) -> None:
        while True:
            await self.push()
            await asyncio.sleep(PUSH_EVERY_S)

    async def push(self) -> None:
        """Tell everybody who does not know."""
        for_servers, for_gateways = tunables.pushed(self.now, "server"), tunables.pushed(self.now, "gateway")
        servers = [(str(number), status.pid) for number, status in self._servers.statuses().items()]
        gateways = [(str(one["id"]), int(one["pid"])) for one in self._gateways.states() if one["state"] == "up"]
        await asyncio.gather(
            *(self._tell(("server", who), pid, for_servers) for who, pid in servers),
            *(self._tell(("gateway", who), pid, for_gateways) for who, pid in gateways if pid),
        )

    async def _tell(self, who: tuple[str, str], pid: int, values: dict[str, int]) -> None:
        if self._told.get(who, (pid, {})) == (pid, values):
            return
        request = {"op": "tune", "tunables": values}
        try:
            if who[0] == "server":
                await self._servers.call(int(who[1]), request, TUNE_TIMEOUT_S)
            else:
                await self._gateways.call(who[1], request, TUNE_TIMEOUT_S)
        except wire.Refused as error:
            # An older program that does not know one of them: telling it again does not help.
            _log.warning("not tuned", kind=who[0], name=who[1], error=str(error))
        except (Unavailable, NotFound):
            return
        self._told[who] = (pid, values)
