"""Shows tenants what agents observe, and operators which hosts report: level-triggered, from watches.

A job that waits for a guest settles its instance itself; this settles all others, and what changes with no job at all
(a crash, a guest that shut itself down, a host that is gone). Both use the same pure function, so who is first does
not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from yuntai import log
from yuntai.control.settle import settle
from yuntai.model.base import Record, now_utc
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance, ObservedInstance
from yuntai.state import Deleted, NotFound, Put, Reset, StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yuntai.state import Store

T = TypeVar("T", bound=Record)

HOST_DOWN_AFTER_S = 30.0
TICK_S = 5.0
FULL_PASS_S = 60.0

_log = log.get("reconciler")


class Reconciler:
    """Settles instances and judges hosts while :meth:`run` runs."""

    def __init__(
        self, store: Store, *, fences: Sequence[Any] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._fences = tuple(fences)
        self._clock = clock
        self._instances: dict[str, Instance] = {}
        self._observed: dict[str, ObservedInstance] = {}
        self._hosts: dict[str, Host] = {}
        self._heard: dict[str, tuple[str, float]] = {}  # host → its last `seen`, and when that changed here
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled; raise what ended a watch."""
        tasks = [
            asyncio.create_task(self._follow(Instance, self._instances)),
            asyncio.create_task(self._follow(ObservedInstance, self._observed)),
            asyncio.create_task(self._follow(Host, self._hosts)),
            asyncio.create_task(self._work()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError("a watch of the reconciler ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, kind: type[T], known: dict[str, T]) -> None:
        async with aclosing(self._store.watch(kind)) as events:
            async for event in events:
                match event:
                    case Reset(records=records):
                        known.clear()
                        known.update({record.value.id: record.value for record in records})
                        self._dirty.update(self._instances)
                    case Put(record=record):
                        known[record.value.id] = record.value
                        self._touch(record.value)
                    case Deleted(id=gone):
                        known.pop(gone, None)
                        self._dirty.update(i.id for i in self._instances.values() if gone in (i.id, i.host))
                self._wake.set()

    def _touch(self, record: Record) -> None:
        if isinstance(record, Host):
            self._dirty.update(i.id for i in self._instances.values() if i.host == record.id)
        else:
            self._dirty.add(record.id)

    async def _work(self) -> None:
        full_at = judge_at = self._clock() + TICK_S
        while True:
            with contextlib.suppress(TimeoutError):  # nothing happened: look at the clock all the same
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            self._wake.clear()
            if self._clock() >= judge_at:
                await self.judge_hosts()
                judge_at = self._clock() + TICK_S
            if self._clock() >= full_at:
                self._dirty.update(self._instances)
                full_at = self._clock() + FULL_PASS_S
            dirty, self._dirty = self._dirty, set()
            for instance_id in sorted(dirty):
                await self._settle(instance_id)

    async def _settle(self, instance_id: str) -> None:
        """Write the instance as it is to be shown, if that differs."""
        known = self._instances.get(instance_id)
        if known is None or self._settled(known) == known:
            return
        try:
            after = await self._store.update(Instance, instance_id, self._settled, guard=self._fences)
        except NotFound:
            return  # deleted meanwhile
        except StateError as error:
            _log.warning("instance not settled, will be later", instance=instance_id, error=str(error))
            self._dirty.add(instance_id)
            return
        _log.info("instance settled", instance=instance_id, status=after.status, reason=after.reason)

    def _settled(self, instance: Instance) -> Instance:
        host = self._hosts.get(instance.host)
        up = host is not None and host.status != "down"
        return settle(instance, self._observed.get(instance.id), host_up=up, now=now_utc())

    async def judge_hosts(self) -> None:
        """Call a host without a guard down that has not reported for a while, and up again when it does.

        What counts is when a report arrived here: the hosts' clocks may differ. Hosts with a guard are judged by their
        leases (:mod:`yuntai.control.failover`).
        """
        for host in [one for one in self._hosts.values() if not one.guarded]:
            seen, since = self._heard.get(host.id, ("", 0.0))
            if seen != host.seen:
                self._heard[host.id] = (host.seen, self._clock())
                if seen and host.status == "down":
                    await self._judge(host.id, "up")
            elif self._clock() - since > HOST_DOWN_AFTER_S and host.status == "up":
                await self._judge(host.id, "down")
        for gone in set(self._heard) - set(self._hosts):
            del self._heard[gone]

    async def _judge(self, host_id: str, status: str) -> None:
        _log.warning("host changes", host=host_id, status=status)
        try:
            await self._store.update(
                Host, host_id, lambda host: msgspec.structs.replace(host, status=status), guard=self._fences
            )
        except StateError as error:
            _log.warning("host not changed, will be later", host=host_id, error=str(error))
