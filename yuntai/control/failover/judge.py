"""Writes down what was judged of a host: its status, how often it failed lately, until when it is jailed, and why."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from yuntai import log
from yuntai.control.failover.returning import later
from yuntai.control.failover.verdict import jail
from yuntai.model.base import ago_utc, now_utc
from yuntai.model.cluster import HOST_LEASE_S, Host, HostFailure
from yuntai.model.placement import SETTINGS_ID, SchedulerSettings
from yuntai.state import Conflict, NotFound, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yuntai.control.failover.verdict import Verdict
    from yuntai.state import Store

SILENT_S = HOST_LEASE_S
"""A host that is silent so long gets nothing new, though what it has stays with it."""
TRIES_MAX = 8
_LOG = log.get("failover")


class Judge:
    """What this leader has called failed; the rest is in the records."""

    def __init__(
        self, store: Store, fences: Sequence[Any], clock: Callable[[], float], wall: Callable[[], str] = now_utc
    ) -> None:
        self._store = store
        self._fences = tuple(fences)
        self._clock = clock
        self._wall = wall
        self._failed: set[str] = set()

    async def note(self, host: Host, judged: Verdict, missed: float | None) -> bool:
        """Make the records say what was judged; return whether the host counts as failed from now on."""
        match judged.state:
            case "alive":
                self._failed.discard(host.id)
                if host.status == "down" or host.awaited_since:
                    await self._back(host.id)
            case "silent" if host.status == "up" and missed is not None and self._clock() - missed >= SILENT_S:
                _LOG.warning("host is silent", host=host.id, why=judged.why)
                await self._status(host.id, "down")
            case "awaited" if judged.anew:
                await self._await(host, judged)
            case "failed":
                if host.id not in self._failed:
                    await self._fail(host.id, judged, missed)
                    self._failed.add(host.id)
                return True
        return False

    async def _await(self, host: Host, judged: Verdict) -> None:
        """Write until when the host is awaited: no longer than now, where that is not wished or it failed before."""
        settings = await self._store.get(SchedulerSettings, SETTINGS_ID)
        wait_s = (settings.value if settings is not None else SchedulerSettings(id=SETTINGS_ID)).await_hosts_s
        failure = await self._store.get(HostFailure, host.id)
        failed_before = failure is not None and not failure.value.back
        since = self._wall()
        until = later(since, 0 if failed_before else wait_s)

        def change(old: Host) -> Host | None:
            if old.awaited_since != host.awaited_since:
                return None  # the operator decided, or this leader, and the watch has not told of it yet
            return replace(old, status="down", awaited_since=since, awaited_until=until)

        if (await self._store.update(Host, host.id, change, guard=self._fences)).awaited_until == until:
            _LOG.warning("host is awaited", host=host.id, why=judged.why, until=until)

    async def _fail(self, host_id: str, judged: Verdict, missed: float | None) -> None:
        """Count the failure once, whoever of several leaders sees it: it lasts until the host is back."""
        known = await self._store.get(HostFailure, host_id)
        if known is not None and not known.value.back:
            await self._status(host_id, "down")
            return
        silent_s = self._clock() - missed if missed is not None else 0.0
        for _ in range(TRIES_MAX):
            found = await self._store.need(Host, host_id)
            downs, until = jail(found.value.downs, dt.datetime.now(dt.UTC))
            failure = HostFailure(
                id=host_id,
                state="failing over",
                why=judged.why,
                began=ago_utc(silent_s),
                judged=now_utc(),
                stages_ms={"judged": round(silent_s * 1000)},
            )
            down = replace(found.value, status="down", downs=downs, jailed_until=until)
            if await self._store.txn(compare=[*self._fences, Unchanged(found)], put=[down, failure]):
                _LOG.warning(
                    "host failed", host=host_id, why=judged.why, silent_s=round(silent_s, 2), jailed_until=until or None
                )
                return
        raise Conflict(f"host {host_id} changed {TRIES_MAX} times in a row while it was called failed; try again")

    async def _back(self, host_id: str) -> None:
        _LOG.warning("host lives", host=host_id)
        await self._store.update(
            Host, host_id, lambda old: replace(old, status="up", awaited_since="", awaited_until=""), guard=self._fences
        )
        try:
            await self._store.update(HostFailure, host_id, _over, guard=self._fences)
        except NotFound:
            return  # it was only silent

    async def _status(self, host_id: str, status: Literal["up", "down"]) -> None:
        await self._store.update(Host, host_id, lambda old: replace(old, status=status), guard=self._fences)


def _over(failure: HostFailure) -> HostFailure:
    """Return the failure of a host that lives again; what had found no room elsewhere runs on there."""
    now = now_utc()
    back, ended = failure.back or now, failure.ended or now
    return replace(failure, state="over", back=back, ended=ended, waiting=0, left=())
