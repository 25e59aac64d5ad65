"""Carries a job forward, one committed step at a time. It keeps nothing: whatever is killed, another goes on.

A step first does its idempotent outside work, then its records and "this step is done" are committed together, under
the comparison that nobody changed the job or what the step read. So a step is done wholly, or done again.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

import msgspec

from yuntai import log
from yuntai.control.jobs import plans
from yuntai.control.jobs.context import Context
from yuntai.control.jobs.outcome import (
    Finished,
    JobFailedError,
    Later,
    NotYetError,
    Outcome,
    RetryError,
    SupersededError,
    Waiting,
)
from yuntai.control.jobs.volumes import VolumesRefused, VolumesUnavailable
from yuntai.control.unit import Unit
from yuntai.model.base import now_utc
from yuntai.model.cluster import Job, Step
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yuntai.control.jobs.volumes import Volumes
    from yuntai.control.placer import Placer
    from yuntai.state import Store

ATTEMPTS_MAX = 8
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
RECHECK_S = 15.0
STEP_TIMEOUT_S = 60.0
TURNS_MAX = 200  # commits and conflicts in one advance; more is a livelock, and then others get their turn

_log = log.get("jobs")


def backoff_s(attempts: int) -> float:
    """Return how long to wait after so many failed attempts."""
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(max(attempts - 1, 0), 16)))


class Runner:
    """Advances jobs. ``fences`` are compared in every write (the leadership, say); ``placer`` is the leader's."""

    def __init__(
        self,
        store: Store,
        volumes: Volumes,
        *,
        fences: Sequence[Any] = (),
        placer: Placer | None = None,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._store = store
        self._volumes = volumes
        self._fences = tuple(fences)
        self._placer = placer
        self._clock = clock

    async def advance(self, job_id: str) -> Outcome:
        """Carry the job as far as it goes now."""
        for _ in range(TURNS_MAX):
            unit = Unit(self._store, self._fences)
            try:
                outcome = await self._turn(unit, job_id)
            except StateError as error:
                return Later(BACKOFF_FIRST_S, f"the store: {error}")
            if outcome is not None:
                return outcome
        return Later(BACKOFF_FIRST_S, "its records change all the time")

    async def _turn(self, unit: Unit, job_id: str) -> Outcome | None:
        """Do one step, or one change of the job's state; ``None`` = look again at once."""
        stored = await unit.get(Job, job_id)
        if stored is None or stored.state in ("done", "failed"):
            return Finished()
        plan = plans.plan_of(stored)
        if plan is None:
            return Later(BACKOFF_MAX_S, f"this build does not know the action {stored.action}; upgrade it")
        job = _planned(stored, plan)
        step = _next(job)
        if step is None:
            return await self._save(unit, _ended(job))
        function = plans.function_of(step)
        if function is None:
            return Later(BACKOFF_MAX_S, f"this build does not know the step {step.name}; upgrade it")
        context = Context(unit, self._volumes, job, step, self._clock(), self._placer)
        trouble = await self._attempt(function, context)
        if trouble is not None:
            return await self._troubled(unit.narrowed(Job, job_id), job, step, plan, trouble)
        return await self._save(unit, mark_done(context.job, step))

    async def _attempt(self, function: plans.StepFunction, context: Context) -> Exception | None:
        """Run a step; return what kept it from being done. Trouble with the store is raised."""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await function(context)
        except StateError:
            raise
        except (NotYetError, SupersededError, JobFailedError, VolumesRefused, RetryError, VolumesUnavailable) as error:
            return error
        except TimeoutError:
            return RetryError(f"it took longer than {STEP_TIMEOUT_S:.0f} s")
        except Exception as error:  # noqa: BLE001 — see below
            # A fault of ours in one step must not leave the job, and what it holds, where it is for ever.
            _log.exception("step raised", job=context.job.id, action=context.job.action, step=context.step.name)
            return RetryError(f"{type(error).__name__}: {error}")
        return None

    async def _troubled(self, unit: Unit, job: Job, step: Step, plan: plans.Plan, trouble: Exception) -> Outcome | None:
        """Write down why the step was not done, and say what comes next. ``unit`` knows the job and nothing else."""
        no_way_back = plan.persistent or job.state == "undoing"
        if isinstance(trouble, NotYetError):
            waiting = _waiting(job, step, trouble, self._clock(), bounded=not no_way_back)
            if waiting is not None:
                if step.since:
                    return waiting
                since = msgspec.structs.replace(step, since=self._clock().astimezone(dt.UTC).isoformat())
                unit.put(replace(job, steps=_swap(job.steps, step, since)))
                return waiting if await unit.commit() else None
            trouble = JobFailedError(f"{trouble.reason}; that took longer than {trouble.timeout_s:.0f} s")
        if isinstance(trouble, SupersededError):
            before = f"{job.error}; " if job.state == "undoing" else ""
            return await self._save(unit, replace(job, state="failed", error=f"{before}superseded: {trouble}"))
        attempts = job.attempts + 1
        final = isinstance(trouble, JobFailedError | VolumesRefused) or attempts >= ATTEMPTS_MAX
        _log.warning("step not done", job=job.id, action=job.action, step=step.name, reason=str(trouble), final=final)
        if final and not no_way_back:
            undo = plans.undo_of(plan, step.name)
            return await self._save(
                unit, replace(job, state="undoing", attempts=0, error=str(trouble), steps=(*job.steps, *undo))
            )
        reason = job.error if job.state == "undoing" else str(trouble)
        unit.put(replace(job, attempts=attempts, error=reason))
        return Later(backoff_s(attempts), str(trouble)) if await unit.commit() else None

    async def _save(self, unit: Unit, job: Job) -> Outcome | None:
        """Commit the unit with the job, which is ended if nothing is left to do; ``None`` = look again."""
        if _next(job) is None:
            job = _ended(job)
        unit.put(job)
        if not await unit.commit():
            return None
        done = sum(step.done for step in job.steps)
        _log.info(
            "job", job=job.id, action=job.action, resource=job.resource, state=job.state, done=done, of=len(job.steps)
        )
        return Finished() if job.state in ("done", "failed") else None


def _planned(job: Job, plan: plans.Plan) -> Job:
    """Return the job with the steps that its state asks for."""
    if job.state == "queued":
        return replace(job, state="running", steps=plans.steps_of(plan))
    if job.state == "undoing" and not any(step.name.startswith(plans.UNDO) for step in job.steps):
        steps = job.steps or plans.steps_of(plan)  # aborted before it began
        failed = next((step.name for step in steps if not step.done), "")
        return replace(job, steps=(*steps, *plans.undo_of(plan, failed)))
    return job


def _waiting(job: Job, step: Step, why: NotYetError, now: dt.datetime, *, bounded: bool) -> Waiting | None:
    """Return how to wait, or ``None`` when it has taken longer than it may."""
    left_s = RECHECK_S
    if bounded and why.timeout_s is not None:
        waited_s = (now - dt.datetime.fromisoformat(step.since)).total_seconds() if step.since else 0.0
        left_s = why.timeout_s - waited_s
        if left_s <= 0:
            return None
    return Waiting((*why.keys, f"job/{job.id}"), min(RECHECK_S, left_s), why.reason)


def _ended(job: Job) -> Job:
    if job.state in ("done", "failed"):
        return job
    return replace(job, state="failed" if job.state == "undoing" else "done")


def replace(job: Job, **changes: Any) -> Job:
    """Return the job with changes, stamped."""
    return msgspec.structs.replace(job, updated=now_utc(), **changes)


def mark_done(job: Job, step: Step) -> Job:
    """Return the job with a step done; its attempts begin anew."""
    error = job.error if job.state == "undoing" else ""
    done = _swap(job.steps, step, msgspec.structs.replace(step, done=True))
    return replace(job, steps=done, attempts=0, error=error)


def _swap(steps: tuple[Step, ...], old: Step, new: Step) -> tuple[Step, ...]:
    return tuple(new if step is old else step for step in steps)


def _next(job: Job) -> Step | None:
    undoing = job.state == "undoing"
    return next((s for s in job.steps if not s.done and s.name.startswith(plans.UNDO) == undoing), None)
