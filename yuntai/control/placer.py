"""The leader's fleet: kept up to date by watches, so that a placement reads nothing and two of them never collide.

Only the leader places, and each of its writes compares the leadership. So what another process could write about who
is where is known here as soon as the first :class:`~yuntai.state.Reset` of this leader's watches has come. What this
process has decided and not seen in the watch yet is held (:meth:`Placer.take`) until the instance's own record comes
by and says so; a decision that was never written is dropped after a while.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from yuntai.control.scheduler import Fleet, Placement, Request
from yuntai.control.unit import Unit
from yuntai.model.base import Record
from yuntai.model.cluster import Host, HostPool
from yuntai.model.compute import Instance
from yuntai.model.placement import SETTINGS_ID, DeploymentSet, SchedulerSettings
from yuntai.state import Deleted, Put, Reset

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from yuntai.state import Store, Versioned

T = TypeVar("T", bound=Record)

KINDS: tuple[type[Record], ...] = (Host, HostPool, Instance, DeploymentSet, SchedulerSettings)
TAKEN_S = 120.0  # twice what a step may take
READY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Taken:
    host: str
    until_s: float


_standing: weakref.WeakKeyDictionary[Store, Placer] = weakref.WeakKeyDictionary()


def stand(store: Store, placer: Placer) -> None:
    """Let :func:`fleet_of` answer from a placer that somebody keeps up to date (:meth:`Placer.feed`)."""
    _standing[store] = placer


async def fleet_of(source: Unit | Store) -> Fleet:
    """Return who is where, for a question that decides nothing: as a standing placer knows it, or by reading all."""
    unit = source if isinstance(source, Unit) else Unit(source)
    placer = _standing.get(unit.store)
    if placer is not None:
        return await placer.fleet()
    settings = await unit.get(SchedulerSettings, SETTINGS_ID)
    return Fleet(
        await unit.list(Host),
        await unit.list(Instance),
        await unit.list(DeploymentSet),
        settings or SchedulerSettings(id=SETTINGS_ID),
        await unit.list(HostPool),
    )


class Placer:
    """Chooses hosts while :meth:`run` runs."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._fleet = Fleet()
        self._instances: dict[str, Instance] = {}
        self._taken: dict[str, _Taken] = {}
        self._waiting: set[type[Record]] = set(KINDS)
        self._filled = asyncio.Event()

    async def run(self) -> None:
        """Follow the records until cancelled; raise what ended a watch."""
        self._waiting = set(KINDS)
        self._filled.clear()
        async with asyncio.TaskGroup() as group:
            for kind in KINDS:
                group.create_task(self._follow(kind))

    def feed(self, kind: type[T], event: Reset[T] | Put[T] | Deleted) -> None:
        """Take in one event of the watch on a kind."""
        match event:
            case Reset(records=records):
                self._reset(kind, records)
                self._waiting.discard(kind)
                if not self._waiting:
                    self._filled.set()
            case Put(record=record):
                self._put(record)
            case Deleted(id=gone):
                self._gone(kind, gone)

    async def fleet(self) -> Fleet:
        """Return who is where, what was just decided included; raise :class:`TimeoutError` while it is not known.

        It is the placer's own: look at it, and hold room only through :meth:`take`.
        """
        async with asyncio.timeout(READY_TIMEOUT_S):
            await self._filled.wait()
        self._drop_old()
        return self._fleet

    async def instances_on(self, hosts: Collection[str]) -> list[Instance]:
        """Return the instances whose records name one of the hosts; raise :class:`TimeoutError` as :meth:`fleet`."""
        await self.fleet()
        return [one for one in self._instances.values() if one.host in hosts]

    async def instance(self, instance_id: str) -> Instance | None:
        """Return an instance as the watch last told of it; raise :class:`TimeoutError` as :meth:`fleet`."""
        await self.fleet()
        return self._instances.get(instance_id)

    async def take(self, request: Request, *, besides: bool = False) -> Placement:
        """Choose a host for one instance, and hold the room until its record is written (see the module)."""
        placement = (await self.fleet()).choose(request)
        if placement.host:
            self.hold(request, placement.host, besides=besides)
        return placement

    async def take_all(self, requests: Iterable[Request]) -> list[tuple[Request, Placement]]:
        """Choose hosts for many, by priority, and hold the room of each (:meth:`Fleet.place_all`)."""
        placed = (await self.fleet()).place_all(requests)
        for request, placement in placed:
            if placement.host:
                self._remember(request, placement.host)
        return placed

    def hold(self, request: Request, host: str, *, besides: bool = False) -> None:
        """Hold room at a host that was chosen otherwise, instead of what the instance holds or ``besides`` that."""
        self._fleet.hold(request, host, besides=besides)
        self._remember(request, host)

    def release(self, instance_id: str) -> None:
        """Give up what was taken for an instance: from now on its record counts again."""
        self._taken.pop(instance_id, None)
        known = self._instances.get(instance_id)
        if known is None:
            self._fleet.remove_instance(instance_id)
        else:
            self._fleet.put_instance(known)

    def _remember(self, request: Request, host: str) -> None:
        self._taken[request.instance] = _Taken(host, self._clock() + TAKEN_S)

    def _drop_old(self) -> None:
        now_s = self._clock()
        for instance_id in [i for i, taken in self._taken.items() if taken.until_s <= now_s]:
            self.release(instance_id)

    async def _follow(self, kind: type[T]) -> None:
        async with aclosing(self._store.watch(kind)) as events:
            async for event in events:
                self.feed(kind, event)
        raise RuntimeError(f"the watch on {kind.KIND} ended")

    def _reset(self, kind: type[T], records: tuple[Versioned[T], ...]) -> None:
        known: dict[type[Record], list[str]] = {
            Host: [*self._fleet.hosts],
            HostPool: [*self._fleet.pools],
            Instance: [*self._instances],
            DeploymentSet: [*self._fleet.sets],
            SchedulerSettings: [SETTINGS_ID],
        }
        for gone in set(known[kind]).difference(record.value.id for record in records):
            self._gone(kind, gone)
        for record in records:
            self._put(record)

    def _put(self, record: Versioned[T]) -> None:
        match record.value:
            case Instance() as instance:
                self._instances[instance.id] = instance
                taken = self._taken.get(instance.id)
                if taken is None or taken.host in (instance.host, instance.migrating_to):
                    self._taken.pop(instance.id, None)
                    self._fleet.put_instance(instance)
            case Host() as host:
                self._fleet.put_host(host)
                if host.dedicated in self._taken:  # the whole of it was held until now
                    self.release(host.dedicated)
            case HostPool() as pool:
                self._fleet.put_pool(pool)
            case DeploymentSet() as one:
                self._fleet.put_set(one)
            case SchedulerSettings() as settings:
                self._fleet.settings = settings

    def _gone(self, kind: type[Record], record_id: str) -> None:
        if kind is Instance:
            self._instances.pop(record_id, None)
            self._taken.pop(record_id, None)
            self._fleet.remove_instance(record_id)
        elif kind is Host:
            self._fleet.remove_host(record_id)
        elif kind is HostPool:
            self._fleet.pools.pop(record_id, None)
        elif kind is DeploymentSet:
            self._fleet.sets.pop(record_id, None)
        elif kind is SchedulerSettings:
            self._fleet.settings = SchedulerSettings(id=record_id)
