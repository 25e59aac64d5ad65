"""Moves what failed hosts had, the most important first; follows it until it runs; says how far it is, and why not."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from msgspec.structs import replace

from yuntai import log
from yuntai.control.failover import carry, planner
from yuntai.control.failover.machines import Machines
from yuntai.model.base import now_utc
from yuntai.model.cluster import HostFailure
from yuntai.model.compute import Instance, InstanceEvent
from yuntai.state import NotFound, StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from yuntai.control.failover.evidence import Collector
    from yuntai.control.failover.verdict import Verdict
    from yuntai.control.placer import Placer
    from yuntai.control.scheduler import Placement
    from yuntai.state import Store

AT_ONCE_MAX = 16
ROUND_MAX = 512  # of one turn: the most important ones run before the last are planned
WAIT_AGAIN_S = 3.0
MIGRATION_GRACE_S = 5.0
LEFT_SHOWN_MAX = 50
State: TypeAlias = Literal["failing over", "waiting for room", "over"]
_LOG = log.get("failover")


class Mover:
    """Moves and follows. What it remembers only spares work; the records have the rest."""

    def __init__(self, store: Store, placer: Placer, fences: Sequence[Any], clock: Callable[[], float]) -> None:
        self._store = store
        self._placer = placer
        self._fences = tuple(fences)
        self._clock = clock
        self._machines = Machines(store, placer, fences, clock)
        self._since: dict[str, float] = {}  # failed host → since when it has counted as failed
        self._again_at: dict[str, float] = {}  # instance that found no room → when to look again
        self._takers: frozenset[str] = frozenset()
        self._left: dict[str, dict[str, str]] = {}  # failed host → instance that waits → why
        self._moving: dict[str, InstanceEvent] = {}
        self._moved: Counter[str] = Counter()
        self._written: dict[str, tuple[State, int, bool, bool, dict[str, str]]] = {}

    async def remember(self) -> None:
        """Take up what a former leader moved and did not see running."""
        listed = await self._store.list(InstanceEvent)
        self._moving = {
            one.value.id: one.value for one in listed if one.value.cycle == "Executing" and one.value.from_host
        }

    async def turn(self, failed: Mapping[str, Verdict], collector: Collector) -> None:
        """Move what can be moved now, and look after what was moved before."""
        now = self._clock()
        self._since = {host: self._since.get(host, now) for host in failed}
        for gone in (set(self._left) | set(self._written)) - set(failed):
            for known in (self._left, self._written, self._moved):
                known.pop(gone, None)
        if failed:
            await self._move(failed, collector, now)
        await self._follow()
        for host in failed:
            await self._report(host, collector)

    async def _move(self, failed: Mapping[str, Verdict], collector: Collector, now: float) -> None:
        takers = frozenset(one.id for one in collector.hosts.values() if one.status == "up" and not one.maintenance)
        if takers != self._takers:
            self._takers = takers
            self._again_at.clear()
        avoid = frozenset(failed) | frozenset(collector.missed)
        there = await self._placer.instances_on(failed)
        between = await self._machines.replace(failed, avoid, by_lease=lambda host: host not in collector.alive)
        patient = {host for host, since in self._since.items() if now - since < MIGRATION_GRACE_S}
        lost = [
            one
            for one in planner.lost(there, frozenset(failed), migrations_too=True)
            if not (one.migrating_to and one.host in patient)
            and self._again_at.get(one.id, 0.0) <= now
            and one.dedicated_host not in between
        ][:ROUND_MAX]
        if not lost:
            return
        by_id = {one.id: one for one in lost}
        placed = await self._placer.take_all(planner.request_for(one, avoid) for one in lost)
        _LOG.info(
            "failover planned", lost=len(lost), placed=sum(bool(p.host) for _, p in placed),
            took_ms=round((self._clock() - now) * 1000),
        )  # fmt: skip
        slots = asyncio.Semaphore(AT_ONCE_MAX)

        async def one(instance: Instance, placement: Placement) -> None:
            async with slots:
                await self._carry(instance, placement, failed[instance.host].why, collector)

        await asyncio.gather(*(one(by_id[request.instance], placement) for request, placement in placed))
        _LOG.info("failover carried out", instances=len(lost), took_ms=round((self._clock() - now) * 1000))

    async def _carry(self, instance: Instance, placement: Placement, why: str, collector: Collector) -> None:
        """Move one instance, or say that it waits. What fails is planned anew in the next turn."""
        source = instance.host
        try:
            if not placement.host:
                self._again_at[instance.id] = self._clock() + WAIT_AGAIN_S
                if self._left.setdefault(source, {}).get(instance.id) != placement.reason:
                    await carry.leave_waiting(self._store, self._fences, instance.id, source, placement.reason)
                    self._left[source][instance.id] = placement.reason
                    _LOG.warning("no room for an instance of a failed host", instance=instance.id, why=placement.reason)
                return
            by_lease = source not in collector.alive
            event = await carry.move(
                self._store, self._fences, instance.id, source, placement.host, why,
                by_lease=by_lease, leaves_set=placement.leaves_set,
            )  # fmt: skip
        except (StateError, NotFound) as error:
            self._placer.release(instance.id)
            _LOG.warning("instance not moved, will be", instance=instance.id, host=source, error=str(error))
            return
        self._left.get(source, {}).pop(instance.id, None)
        self._again_at.pop(instance.id, None)
        if event is None:
            self._placer.release(instance.id)
            return
        self._moving[event.id] = event
        self._moved[source] += 1
        _LOG.info("instance moved", instance=instance.id, source=source, to=event.to_host, number=event.id)

    async def _follow(self) -> None:
        """Close the events of instances that run again, or that somebody else has done something with meanwhile."""
        for event in list(self._moving.values()):
            instance = await self._placer.instance(event.instance)
            cycle = _cycle(event, instance)
            if cycle is None:
                continue
            try:
                await self._store.update(
                    InstanceEvent,
                    event.id,
                    lambda old, cycle=cycle: replace(old, cycle=cycle, finished=now_utc()),  # type: ignore[misc]
                    guard=self._fences,
                )
            except NotFound:
                _LOG.info("event is gone", number=event.id)
            del self._moving[event.id]
            _LOG.info("instance settled after failover", instance=event.instance, to=event.to_host, cycle=cycle)

    async def _report(self, host: str, collector: Collector) -> None:
        """Bring the host's record of failure up to date."""
        left = dict(self._left.get(host, {}))
        still = planner.lost(await self._placer.instances_on({host}), frozenset({host}), migrations_too=True)
        todo = len(still) - len(left)
        runs = not todo and not any(event.from_host == host for event in self._moving.values())
        state: State = "waiting for room" if left and not todo else "over" if runs else "failing over"
        done = (state, self._moved[host], not todo, runs, left)
        if self._written.get(host) == done:
            return
        gone_ms = round((self._clock() - collector.missed.get(host, self._since[host])) * 1000)
        stages = {name: gone_ms for name, reached in (("moved", not todo), ("running", runs and not left)) if reached}

        def change(old: HostFailure) -> HostFailure:
            return replace(
                old,
                state=state,
                left=tuple(sorted(left.items()))[:LEFT_SHOWN_MAX],
                waiting=len(left),
                moved=max(old.moved, self._moved[host]),
                stages_ms={**stages, **old.stages_ms},
                ended=old.ended or (now_utc() if state == "over" else ""),
            )

        after = await self._store.update(HostFailure, host, change, guard=self._fences)
        self._written[host] = done
        _LOG.info(
            "failover", host=host, state=state, moved=after.moved, waiting=after.waiting, stages_ms=after.stages_ms
        )


def _cycle(event: InstanceEvent, instance: Instance | None) -> Literal["Executed", "Failed", "Canceled"] | None:
    """Return how the event has ended, or ``None`` while it has not."""
    if instance is None:
        return "Canceled"
    if instance.host == event.from_host and instance.host != event.to_host:
        return None  # the watch has not told of the move yet
    if instance.status in ("Running", "Stopped") or instance.host != event.to_host:
        return "Executed"
    return None
