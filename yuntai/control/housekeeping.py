"""What must not grow for ever: old tokens and jobs. And a second look for volumes that a job meant to delete.

A call to the block store that was under way when its caller died may arrive after its successor's deletion. So the
volumes that a finished job names, and that no record needs, are deleted again while the job is remembered.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

from yuntai import log
from yuntai.control.jobs.volumes import VolumesRefused, VolumesUnavailable
from yuntai.control.requests.base import token_expired
from yuntai.control.sources import holders
from yuntai.control.unit import Unit
from yuntai.model.cluster import ClientToken, Job, Volume
from yuntai.model.compute import InstanceEvent, Snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.control.jobs.volumes import Volumes
    from yuntai.model.base import Record
    from yuntai.state import Store

PERIOD_S = 300.0
JOB_DAYS = 7
EVENT_DAYS = 31  # a day more than they are shown
DELETIONS = ("delete_disk", "delete_snapshot", "delete_image", "delete_instance", "reset_disk", "reinit_disk")
BATCH_MAX = 100

_log = log.get("housekeeping")


async def run(store: Store, volumes: Volumes, fences: Sequence[Any] = ()) -> None:
    """Clean up now and then, until cancelled."""
    while True:
        await clean(store, volumes, fences)
        await asyncio.sleep(PERIOD_S)


async def clean(store: Store, volumes: Volumes, fences: Sequence[Any] = (), *, now: dt.datetime | None = None) -> None:
    """Delete expired tokens, jobs that ended long ago, and volumes that finished jobs left behind."""
    moment = now or dt.datetime.now(dt.UTC)
    jobs = [found.value for found in await store.list(Job)]
    over = [job for job in jobs if job.state in ("done", "failed")]
    await _sweep(store, volumes, over)
    await _sweep_snapshots(store, volumes, jobs)
    held = await _remembered(store, over)
    old: list[tuple[type[Record], str]] = [
        (Job, job.id) for job in over if _age(job.updated, moment) > dt.timedelta(days=JOB_DAYS) and job.id not in held
    ]
    expired: list[tuple[type[Record], str]] = [
        (ClientToken, t.value.id) for t in await store.list(ClientToken) if token_expired(t.value)
    ]
    history: list[tuple[type[Record], str]] = [
        (InstanceEvent, e.value.id) for e in await store.list(InstanceEvent) if _is_history(e.value, moment)
    ]
    gone = [*old, *expired, *history]
    for start in range(0, len(gone), BATCH_MAX):
        await store.txn(compare=fences, delete=gone[start : start + BATCH_MAX])
    if gone:
        _log.info("cleaned", jobs=len(old), tokens=len(expired), events=len(history))


def _is_history(event: InstanceEvent, now: dt.datetime) -> bool:
    """Tell whether an event ended so long ago that nobody is shown it any more."""
    ended = event.finished or (event.not_before if event.simulated else "")
    return bool(ended) and _age(ended, now) > dt.timedelta(days=EVENT_DAYS)


async def _remembered(store: Store, over: Sequence[Job]) -> set[str]:
    """Return the deletions of volumes that others hold still: clones without their copy, and nobody else may know."""
    unit = Unit(store)
    there = {volume.id for volume in await unit.list(Volume)}
    return {
        job.id
        for job in over
        if job.action in DELETIONS
        for volume in job.arguments.get("volumes", ())
        if volume["id"] in there and await holders(unit, volume["id"])
    }


async def _sweep(store: Store, volumes: Volumes, over: Sequence[Job]) -> None:
    named = {volume["id"] for job in over for volume in job.arguments.get("volumes", ())}
    unit = Unit(store)
    there = [v.id for v in await unit.list(Volume) if v.id in named and v.state == "available"]
    for volume in there:
        if await holders(unit, volume):
            continue
        _log.warning("deleting a volume that a finished job left behind", volume=volume)
        try:
            await volumes.delete_volume(volume)
        except (VolumesUnavailable, VolumesRefused) as error:
            _log.warning("not deleted, will be tried again", volume=volume, error=str(error))


async def _sweep_snapshots(store: Store, volumes: Volumes, jobs: Sequence[Job]) -> None:
    """Delete nodes that a late call made for a snapshot whose job had given it up, or that was deleted."""
    named = {str(token) for job in jobs if job.state in ("done", "failed") for token in _tokens(job)}
    if not named:
        return
    records = [found.value for found in await store.list(Volume) if found.value.state != "deleting"]
    wanted = {found.value.id for found in await store.list(Snapshot) if found.value.status != "failed"}
    for volume in records:
        for token in set(volume.snapshot_names.values()) & (named - wanted):
            _log.warning("deleting a snapshot that a finished job left behind", volume=volume.id, snapshot=token)
            try:
                await volumes.delete_snapshot(volume.id, token)
            except (VolumesUnavailable, VolumesRefused) as error:
                _log.warning("not deleted, will be tried again", volume=volume.id, error=str(error))


def _tokens(job: Job) -> list[Any]:
    if job.action in ("create_snapshot", "delete_snapshot"):
        return [job.resource]
    return [*job.arguments.get("snapshots", ()), *([job.arguments["snapshot"]] if "snapshot" in job.arguments else [])]


def _age(moment: str, now: dt.datetime) -> dt.timedelta:
    return now - dt.datetime.fromisoformat(moment)
