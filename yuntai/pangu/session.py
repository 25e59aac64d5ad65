"""One term of a leading master: everything that runs while it leads, and ends with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.pangu.accounts import Accounts
from yuntai.pangu.admission import Admission
from yuntai.pangu.atlas import Atlas
from yuntai.pangu.auxiliary import Auxiliary
from yuntai.pangu.changes import Changes
from yuntai.pangu.desk import Desk
from yuntai.pangu.garbage import Garbage
from yuntai.pangu.gateways import Gateways
from yuntai.pangu.healing import Healing
from yuntai.pangu.holdings import Holdings
from yuntai.pangu.mover import Mover
from yuntai.pangu.operations import Operations
from yuntai.pangu.reach import Reach
from yuntai.pangu.servers import Servers
from yuntai.pangu.serving import Serving
from yuntai.pangu.snapshots import Snapshots
from yuntai.pangu.sweeper import Sweeper
from yuntai.pangu.takeover import Takeover
from yuntai.pangu.tending import Tending
from yuntai.pangu.tuning import Tuning
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
        self.atlas = Atlas(office)
        self.gateways = Gateways(office)
        self.reach = Reach(office, self.servers, self.gateways)
        self.tuning = Tuning(office, self.servers, self.gateways)
        self.holdings = Holdings(office, self.servers, self.serving, self.tuning)
        self.mover = Mover(office, self.servers, self.gateways, self.atlas, self.tuning, self.holdings)
        self.takeover = Takeover(office, self.atlas, self.gateways, self.serving)
        self.gateways.handler = Desk(office, self.serving, self.mover, self.takeover)
        self.serving.gateways, self.serving.mover, self.serving.atlas = self.gateways, self.mover, self.atlas
        self.holdings.mover = self.mover
        self.tending = Tending(office, self.atlas, self.servers, self.gateways, self.serving, self.mover, self.tuning)
        self.admission = Admission(office, self.servers, self.serving, self.mover)
        self.healing = Healing(self.atlas, self.servers, self.gateways)
        self.changes = Changes(office, self.servers)
        self.garbage = Garbage(office, self.servers, self.holdings)
        self.volumes = Volumes(office, self.servers, self.gateways, self.serving, self.garbage)
        self.auxiliary = Auxiliary(office, self.atlas, self.volumes)
        self.sweeper = Sweeper(office, self.servers, self.atlas)
        self.accounts = Accounts(office, self.servers, self.atlas)
        self.snapshots = Snapshots(office, self.serving, self.sweeper, self.accounts, self.atlas)
        self.operations = Operations(self)

    async def run(self) -> None:
        """Lead. A part that ends by itself has a fault, which ends the term and goes up."""
        _log.info("leading", master=self.office.name)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.servers.run())
                group.create_task(self._gateways())
                group.create_task(self.garbage.run())
                group.create_task(self.auxiliary.run())
                group.create_task(self.sweeper.run())
                group.create_task(self.accounts.run())
                group.create_task(self.atlas.run())
                group.create_task(self.tuning.run())
                group.create_task(self.mover.run())
                group.create_task(self.tending.run())
                group.create_task(self.admission.run())
                group.create_task(self.healing.run())
                group.create_task(self.holdings.run())
        finally:
            await self.serving.stop()
            _log.info("no longer leading", master=self.office.name)

    async def _gateways(self) -> None:
        # Opening needs the servers' addresses, so they come first; those that are down are not waited for long.
        await self.servers.ready()
        await self.gateways.run()
