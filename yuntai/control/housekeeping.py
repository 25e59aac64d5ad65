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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.control.jobs.volumes import Volumes
    from yuntai.model.base import Record
    from yuntai.state import Store

PERIOD_S = 300.0
JOB_DAYS = 7
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
    old: list[tuple[type[Record], str]] = [
        (Job, job.id) for job in over if _age(job.updated, moment) > dt.timedelta(days=JOB_DAYS)
    ]
    expired: list[tuple[type[Record], str]] = [
        (ClientToken, t.value.id) for t in await store.list(ClientToken) if token_expired(t.value)
    ]
    gone = [*old, *expired]
    for start in range(0, len(gone), BATCH_MAX):
        await store.txn(compare=fences, delete=gone[start : start + BATCH_MAX])
    if gone:
        _log.info("cleaned", jobs=len(old), tokens=len(expired))


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


def _age(moment: str, now: dt.datetime) -> dt.timedelta:
    return now - dt.datetime.fromisoformat(moment)
