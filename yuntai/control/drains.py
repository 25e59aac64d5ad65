"""The leader's part for hosts that are to be emptied: what runs is migrated, what is stopped gets another host.

Level-triggered: each round looks at who is there still, begins what can be begun, and writes on the host what each of
the others waits for. When nobody is left the host is drained. Only patience is remembered from round to round.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from yuntai import log
from yuntai.control import scheduler
from yuntai.control.requests.migrations import begin_migration
from yuntai.control.requests.types import Caller
from yuntai.control.unit import Unit
from yuntai.model.cluster import Host, Job
from yuntai.model.compute import Instance
from yuntai.model.network import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yuntai.control.placer import Placer
    from yuntai.state import Store

PERIOD_S = 2.0
MOVES_MAX = 4
"""Migrations that one host does at a time: each sends the memory of a guest over the same link."""
AGAIN_FIRST_S, AGAIN_MAX_S = 15.0, 600.0

_log = log.get("drains")


@dataclass(slots=True)
class _Try:
    """The last migration that was begun for an instance."""

    job: str
    again_at_s: float
    delay_s: float


class Drains:
    """Empties hosts while :meth:`run` runs."""

    def __init__(
        self,
        store: Store,
        placer: Placer,
        fences: Sequence[Any] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._placer = placer
        self._fences = tuple(fences)
        self._clock = clock
        self._tries: dict[str, _Try] = {}

    async def run(self) -> None:
        """Look at every host that is being emptied, again and again, until cancelled."""
        while True:
            hosts = (await self._placer.fleet()).hosts
            draining = sorted(host.id for host in hosts.values() if host.maintenance == "draining")
            for host_id in draining:
                await self.look(host_id)
            if not draining:
                self._tries.clear()
            await asyncio.sleep(PERIOD_S)

    async def look(self, host_id: str) -> None:
        """Do one round for one host."""
        waiting: dict[str, str] = {}
        there = [i.value for i in await self._store.list(Instance) if host_id in (i.value.host, i.value.migrating_to)]
        moving = sum(1 for one in there if one.host == host_id and one.migrating_to)
        for instance in sorted(there, key=lambda one: (-one.priority, one.id)):
            if instance.status == "Running" and not _busy(instance, host_id):
                why, begun = await self._migrate(instance, moving)
                moving += begun
            else:
                why = await self._wait_or_replace(instance, host_id)
            if why:
                waiting[instance.id] = why

        def note(host: Host) -> Host:
            if host.maintenance != "draining":
                return host
            return msgspec.structs.replace(host, waiting=waiting, maintenance="draining" if waiting else "drained")

        after = await self._store.update(Host, host_id, note, guard=self._fences)
        if after.maintenance == "drained":
            _log.info("host drained", host=host_id)

    async def _wait_or_replace(self, instance: Instance, host_id: str) -> str:
        why = _busy(instance, host_id)
        if why:
            return why
        if instance.status != "Stopped":
            return f"it is {instance.status}"
        return await self._replace(instance)

    async def _migrate(self, instance: Instance, moving: int) -> tuple[str, int]:
        """Begin a migration, if it is time for one; return what it waits for, and 1 if it began."""
        last = self._tries.get(instance.id)
        if last is not None and self._clock() < last.again_at_s:
            job = await self._store.get(Job, last.job)
            return f"its migration failed and is tried again: {job.value.error if job else 'no reason is known'}", 0
        if moving >= MOVES_MAX:
            return f"{MOVES_MAX} others are migrated first", 0
        unit = Unit(self._store, self._fences)
        if await unit.get(Instance, instance.id) != instance:
            return "it is changing", 0
        caller = Caller(account=instance.account, request_id="drain")
        made = begin_migration(unit, caller, instance, reason="drain")
        if not await unit.commit():
            return "it is changing", 0
        delay_s = AGAIN_FIRST_S if last is None else min(AGAIN_MAX_S, 2 * last.delay_s)
        self._tries[instance.id] = _Try(made.id, self._clock() + delay_s, delay_s)
        return f"it is being migrated ({made.id})", 1

    async def _replace(self, instance: Instance) -> str:
        """Give a stopped instance another host: nothing is moved but its claim to room."""
        placement = await self._placer.take(scheduler.request_of(instance, prefer=False))
        if not placement.host:
            return placement.reason
        unit = Unit(self._store, self._fences)
        if await unit.get(Instance, instance.id) == instance:
            unit.put(msgspec.structs.replace(instance, host=placement.host, placed_why=placement.why))
            for port_id in (instance.port, *instance.ports):
                port = await unit.get(Port, port_id)
                if port is not None and port.host:
                    unit.put(msgspec.structs.replace(port, host=placement.host))
            if await unit.commit():
                _log.info("stopped instance has another host", instance=instance.id, host=placement.host)
                return ""
        self._placer.release(instance.id)
        return "it is changing"


def _busy(instance: Instance, host_id: str) -> str:
    """Return what is to end before an instance can be sent away, "" if nothing."""
    if instance.migrating_to == host_id:
        return "it is being migrated here, and is moved on afterwards"
    if instance.migrating_to:
        return f"it is being migrated to {instance.migrating_to}"
    if instance.job:
        return f"an operation on it is to end first ({instance.job})"
    return ""
