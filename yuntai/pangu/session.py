"""One term of a leading master: everything that runs while it leads, and ends with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.pangu.accounts import Accounts
from yuntai.pangu.changes import Changes
from yuntai.pangu.desk import Desk
from yuntai.pangu.garbage import Garbage
from yuntai.pangu.gateways import Gateways
from yuntai.pangu.servers import Servers
from yuntai.pangu.serving import Serving
from yuntai.pangu.snapshots import Snapshots
from yuntai.pangu.sweeper import Sweeper
from yuntai.pangu.volumes import Volumes

if TYPE_CHECKING:
    from yuntai.pangu.office import Office

_log = log.get("session")


class Session:
    """The parts, tied together. :meth:`run` works until it is cancelled."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.servers = Servers(office)
        self.serving = Serving(office, self.servers)
        self.gateways = Gateways(office, Desk(office, self.serving))
        self.serving.gateways = self.gateways
        self.changes = Changes(office, self.servers)
        self.garbage = Garbage(office, self.servers)
        self.volumes = Volumes(office, self.servers, self.gateways, self.serving, self.garbage)
        self.sweeper = Sweeper(office, self.servers)
        self.accounts = Accounts(office, self.servers)
        self.snapshots = Snapshots(office, self.serving, self.sweeper, self.accounts)

    async def run(self) -> None:
        """Lead. A part that ends by itself has a fault, which ends the term and goes up."""
        _log.info("leading", master=self.office.name)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.servers.run())
                group.create_task(self._gateways())
                group.create_task(self.garbage.run())
                group.create_task(self.sweeper.run())
                group.create_task(self.accounts.run())
        finally:
            await self.serving.stop()
            _log.info("no longer leading", master=self.office.name)

    async def _gateways(self) -> None:
        # Opening needs the servers' addresses, so they come first; those that are down are not waited for long.
        await self.servers.ready()
        await self.gateways.run()
