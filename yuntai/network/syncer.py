"""The loop that makes OVN what the records say: level-triggered, so it does not matter what it missed or did twice.

A change of a record, a change of OVN by somebody else, and every :data:`RESYNC_S` lead to the same act: derive the
whole wanted content, compare, write the difference. What differs although the records did not change is drift; it is
repaired and logged row by row, so that an operator sees what somebody did behind the cloud's back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.model.cluster import Host
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.network import plan
from yuntai.network.cache import Cache
from yuntai.network.northbound import NorthboundError
from yuntai.network.ovn import OvnNorthbound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.config import Config
    from yuntai.network.northbound import Northbound
    from yuntai.network.rows import Changes, Content, Key
    from yuntai.state.store import Store

_LOG = log.get("network.syncer")
RESYNC_S = 60.0
# A job writes several records in a row: wait for the rest of them.
GATHER_S = 0.03
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 10.0
_ROWS_LOGGED = 20


async def run(store: Store, config: Config) -> None:
    """Keep OVN in step with the store until cancelled. Two of these at once do no harm."""
    northbound = OvnNorthbound(config.ovn_nb)
    try:
        await Syncer(northbound).run(store)
    finally:
        await northbound.close()


class Syncer:
    """One syncer; :func:`run` has it with the real database, tests with the twin."""

    def __init__(self, northbound: Northbound, resync_s: float = RESYNC_S) -> None:
        self.syncs = 0
        """How many syncs have succeeded."""
        self._northbound = northbound
        self._resync_s = resync_s
        self._cache = Cache(Vpc, VSwitch, SecurityGroup, Port, Host, essence={Host: lambda host: host.status})
        self._applied: Content | None = None
        self._problems: tuple[str, ...] = ()

    async def run(self, store: Store) -> None:
        """Sync until cancelled."""
        self._northbound.on_change(self._cache.changed.set)
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(self._cache.follow(store))
            await self._cache.ready()
            await self._loop(follower)

    async def _loop(self, follower: asyncio.Task[None]) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not follower.done():
            self._cache.changed.clear()
            try:
                await self.sync()
            except NorthboundError as error:
                _LOG.warning("OVN is not in step", error=str(error), next_try_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
                continue
            backoff_s = BACKOFF_FIRST_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cache.changed.wait(), self._resync_s)
            await asyncio.sleep(GATHER_S)

    async def sync(self) -> Changes:
        """Bring OVN in step once; return what had to change."""
        wanted = plan.build(self._records())
        if wanted.problems != self._problems:
            self._problems = wanted.problems
            _LOG.warning("records that OVN cannot have", problems=wanted.problems)
        changes = await self._northbound.apply(wanted.content)
        if changes:
            drifted = drift(self._applied, wanted.content, changes)
            _LOG.info("applied", rows=len(changes), repaired=len(drifted), tables=_tables(changes.keys()))
            if drifted:
                _LOG.warning(
                    "repaired what was changed behind the records",
                    rows=[f"{key.table} {key.id}" for key in sorted(drifted)[:_ROWS_LOGGED]],
                    more=max(0, len(drifted) - _ROWS_LOGGED),
                )
        self._applied = wanted.content
        self.syncs += 1
        return changes

    def _records(self) -> plan.Records:
        hosts = self._cache.all(Host)
        serving = [host.id for host in hosts if not host.maintenance]
        return plan.Records(
            vpcs=self._cache.all(Vpc),
            vswitches=self._cache.all(VSwitch),
            groups=self._cache.all(SecurityGroup),
            ports=self._cache.all(Port),
            hosts=serving or [host.id for host in hosts],
        )


def drift(before: Content | None, now: Content, changes: Changes) -> set[Key]:
    """Return the rows among ``changes`` that the records did not ask for: wanted now as at the last sync. Pure.

    At the first sync nothing is known of before, so everything counts as asked for.
    """
    if before is None:
        return set()
    return {key for key in changes.keys() if before.get(key) == now.get(key)}  # noqa: SIM118 — not a mapping


def _tables(keys: Iterable[Key]) -> dict[str, int]:
    return dict(Counter(key.table for key in keys))
