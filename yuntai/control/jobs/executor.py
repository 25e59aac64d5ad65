"""Runs every unfinished job: one task each, woken by watches, with a bounded number at work at a time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.control.jobs.bell import Bell
from yuntai.control.jobs.outcome import Finished, Later, Outcome, Waiting
from yuntai.control.jobs.runner import BACKOFF_MAX_S
from yuntai.model.cluster import Host, Job, Volume
from yuntai.model.compute import Disk, Instance, Migration, MigrationProgress, ObservedInstance
from yuntai.state import Deleted, Put, Reset

if TYPE_CHECKING:
    from yuntai.control.jobs.runner import Runner
    from yuntai.model.base import Record
    from yuntai.state import Store

AT_WORK_MAX = 16
TASKS_MAX = 10_000
WATCHED: tuple[type[Record], ...] = (
    Instance,
    ObservedInstance,
    Disk,
    Host,
    Volume,
    Migration,
    MigrationProgress,
)

_log = log.get("executor")


class Executor:
    """Holds a task for each unfinished job while :meth:`run` runs; all that lasts is in the store."""

    def __init__(self, store: Store, runner: Runner) -> None:
        self._store = store
        self._runner = runner
        self._bell = Bell()
        self._slots = asyncio.Semaphore(AT_WORK_MAX)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._later: dict[str, None] = {}  # jobs above the bound, in order
        self._running = False

    async def run(self) -> None:
        """Run until cancelled, or until a watch ends or breaks; then every task is stopped."""
        self._running = True
        watchers = [asyncio.create_task(self._watch(kind)) for kind in WATCHED]
        watchers.append(asyncio.create_task(self._watch_jobs()))
        try:
            done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError("a watch of the executor ended")
        finally:
            self._running = False
            running = [*watchers, *self._tasks.values()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _watch(self, kind: type[Record]) -> None:
        async with aclosing(self._store.watch(kind)) as events:
            async for event in events:
                match event:
                    case Reset(records=records):
                        for record in records:
                            self._bell.ring(f"{kind.KIND}/{record.value.id}")
                    case Put(record=record):
                        self._bell.ring(f"{kind.KIND}/{record.value.id}")
                    case Deleted(id=gone):
                        self._bell.ring(f"{kind.KIND}/{gone}")

    async def _watch_jobs(self) -> None:
        async with aclosing(self._store.watch(Job)) as events:
            async for event in events:
                match event:
                    case Reset(records=records):
                        for record in records:
                            self._notice(record.value)
                    case Put(record=record):
                        self._notice(record.value)
                    case Deleted(id=gone):
                        self._bell.ring(f"job/{gone}")

    def _notice(self, job: Job) -> None:
        self._bell.ring(f"job/{job.id}")
        if job.state in ("done", "failed") or job.id in self._tasks:
            return
        if len(self._tasks) >= TASKS_MAX:
            self._later[job.id] = None
            return
        self._start(job.id)

    def _start(self, job_id: str) -> None:
        task = asyncio.create_task(self._follow(job_id), name=job_id)
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._ended(job_id))

    def _ended(self, job_id: str) -> None:
        self._tasks.pop(job_id, None)
        if self._later and self._running:
            following = next(iter(self._later))
            del self._later[following]
            self._start(following)

    async def _advance(self, job_id: str) -> Outcome:
        try:
            return await self._runner.advance(job_id)
        except Exception as error:  # noqa: BLE001 — a fault of ours in one job must not stop the others, nor end this one
            _log.exception("job could not be advanced", job=job_id)
            return Later(BACKOFF_MAX_S, str(error))

    async def _follow(self, job_id: str) -> None:
        """Carry one job to its end."""
        while True:
            mark = self._bell.mark()
            async with self._slots:
                outcome = await self._advance(job_id)
            match outcome:
                case Finished():
                    return
                case Waiting(keys=keys, delay_s=delay_s):
                    await self._bell.wait(keys, mark, delay_s)
                case _:
                    await asyncio.sleep(outcome.delay_s)
