"""The leader's part that watches over hosts: judges them, moves what failed ones had, and says what it did.

Nothing of it has to be remembered: a new leader judges anew, and finds in the records what is still to be moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from yuntai import log
from yuntai.control.failover.evidence import Collector
from yuntai.control.failover.judge import Judge
from yuntai.control.failover.move_all import Mover
from yuntai.control.failover.verdict import Verdict, verdict
from yuntai.model.base import now_utc
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yuntai.control.failover.evidence import Asker
    from yuntai.control.placer import Placer
    from yuntai.state import Store

TICK_S = 0.5
_LOG = log.get("failover")


class Failover:
    """Watches over hosts while :meth:`run` runs."""

    def __init__(
        self,
        store: Store,
        placer: Placer,
        asker: Asker,
        *,
        fences: Sequence[Any] = (),
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], str] = now_utc,
    ) -> None:
        self.collector = Collector(store, asker, clock, wall)
        self._judge = Judge(store, fences, clock, wall)
        self._mover = Mover(store, placer, fences, clock)

    async def run(self) -> None:
        """Run until cancelled; raise what ended a watch."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.collector.run())
            tasks.create_task(self._work())

    async def _work(self) -> None:
        await self._mover.remember()
        while True:
            with contextlib.suppress(TimeoutError):  # nothing happened: look at the clock all the same
                async with asyncio.timeout(TICK_S):
                    await self.collector.changed.wait()
            self.collector.changed.clear()
            if self.collector.ready:
                await self.turn()

    async def turn(self) -> None:
        """Judge every host that has a guard, and move what is to be moved; what fails is tried in the next turn."""
        failed: dict[str, Verdict] = {}
        for host in list(self.collector.hosts.values()):
            if not host.guarded:
                continue
            known = self.collector.of(host)
            judged = verdict(known)
            missed = self.collector.missed.get(host.id)
            try:
                if await self._judge.note(host, judged, missed):
                    failed[host.id] = judged
            except StateError as error:
                _LOG.warning("host not judged, will be", host=host.id, error=str(error))
        try:
            await self._mover.turn(failed, self.collector)
        except (StateError, TimeoutError) as error:
            _LOG.warning("failover not finished, goes on", hosts=sorted(failed), error=str(error))
