"""What the leader knows of the hosts: leases and storage by watches, witnesses by asking, etcd by using it."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from yuntai import log
from yuntai.compute.witness import witnesses_of
from yuntai.control.failover.returning import awaited, most_started
from yuntai.control.failover.verdict import Evidence, storage_fine
from yuntai.model.base import Record, now_utc
from yuntai.model.cluster import Host, HostAlive
from yuntai.state import Deleted, Put, Reset, StateError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from yuntai.state import Store

    class Asker(Protocol):
        """Who carries questions to witnesses; :class:`yuntai.compute.witness.Prober`."""

        async def ask(self, witness: HostAlive, host: str) -> bool | None:
            """Return whether the witness reaches the host; ``None`` if it cannot be told."""


T = TypeVar("T", bound=Record)

ASK_AGAIN_S = 1.0
STEADY_EVERY_S = 1.0
STEADY_ANSWER_S = 2.0
HOSTS_ASKED_AT_ONCE = 64
_LOG = log.get("failover")


class Witnessing:
    """The questions about one host that has no lease, asked again and again until it has one."""

    def __init__(self) -> None:
        self.answers: dict[str, bool | None] | None = None
        self.at = float("-inf")
        self.task: asyncio.Task[None] | None = None


class Collector:
    """Gathers while :meth:`run` runs. ``changed`` is set whenever something is known anew."""

    def __init__(
        self,
        store: Store,
        asker: Asker,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], str] = now_utc,
    ) -> None:
        self._store = store
        self._asker = asker
        self._clock = clock
        self._wall = wall
        self._began = clock()
        self._steady_since = self._began
        self._asked: dict[str, Witnessing] = {}
        self._slots = asyncio.Semaphore(HOSTS_ASKED_AT_ONCE)
        self._ready: set[type[Record]] = set()
        self.hosts: dict[str, Host] = {}
        self.alive: dict[str, HostAlive] = {}
        self._most_started = ""
        self.missed: dict[str, float] = {}  # host without a lease → since when, on this clock
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Follow and ask until cancelled; raise what ended a watch."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(Host, self.hosts))
                tasks.create_task(self._follow(HostAlive, self.alive))
                tasks.create_task(self._use_etcd())
        finally:
            for one in self._asked.values():
                if one.task is not None:
                    one.task.cancel()

    @property
    def ready(self) -> bool:
        """Whether everything has been read once."""
        return {Host, HostAlive} <= self._ready

    def of(self, host: Host) -> Evidence:
        """Return what is known of a host now; begins to ask about it where that is needed."""
        now = self._clock()
        lease = host.id in self.alive
        dead = {one: bool(self.hosts[one].storage_dead_since) for one in self.alive if one in self.hosts}
        return Evidence(
            lease=lease,
            led_s=now - self._began,
            steady_s=now - self._steady_since,
            witnesses=None if lease else self._witnesses(host.id, now),
            storage_dead=bool(host.storage_dead_since),
            others_storage_fine=storage_fine(host.id, dead),
            awaited="no" if lease else awaited(host, self._most_started, self._wall()),
        )

    def _witnesses(self, host: str, now: float) -> dict[str, bool | None] | None:
        one = self._asked.setdefault(host, Witnessing())
        if (one.task is None or one.task.done()) and now - one.at >= ASK_AGAIN_S:
            one.task = asyncio.create_task(self._ask(host, one))
        return one.answers

    async def _ask(self, host: str, one: Witnessing) -> None:
        async with self._slots:
            began = self._clock()
            witnesses = witnesses_of(host, self.alive.values())
            answers = await asyncio.gather(*(self._asker.ask(witness, host) for witness in witnesses))
        one.answers = {witness.id: answer for witness, answer in zip(witnesses, answers, strict=True)}
        one.at = self._clock()
        _LOG.info("witnesses asked", host=host, answers=one.answers, took_ms=round((one.at - began) * 1000))
        self.changed.set()

    async def _follow(self, kind: type[T], known: dict[str, T]) -> None:
        async with aclosing(self._store.watch(kind)) as events:
            async for event in events:
                match event:
                    case Reset(records=records):
                        known.clear()
                        known.update({record.value.id: record.value for record in records})
                        self._ready.add(kind)
                    case Put(record=record):
                        known[record.value.id] = record.value
                    case Deleted(id=gone):
                        known.pop(gone, None)
                if self.ready:
                    self._note_missed()
                self.changed.set()
        raise RuntimeError(f"the watch on {kind.KIND} ended")

    def _note_missed(self) -> None:
        now = self._clock()
        self.missed = {
            host: self.missed.get(host, now)
            for host, record in self.hosts.items()
            if record.guarded and host not in self.alive
        }
        self._most_started = most_started([one.booted for one in self.alive.values()])
        for gone in set(self._asked) - set(self.missed):
            task = self._asked.pop(gone).task
            if task is not None:
                task.cancel()

    async def _use_etcd(self) -> None:
        """Find out whether etcd answers: while it does not, no lease that is missing means anything."""
        while True:
            try:
                async with asyncio.timeout(STEADY_ANSWER_S):
                    await self._store.get(HostAlive, "-")
            except (StateError, TimeoutError) as error:
                _LOG.warning("etcd does not answer; no host is judged", error=str(error))
                self._steady_since = float("inf")
            else:
                self._steady_since = min(self._steady_since, self._clock())
            await asyncio.sleep(STEADY_EVERY_S)
