"""Gives a dedicated host another machine when its own has failed; its instances then follow as all others do.

``ActionOnMaintenance`` says whether: ``Migrate`` looks for a machine at once, ``Stop`` waits for the failed one, until
its owner asks (RedeployDedicatedHost). The failed machine is nobody's own any more when it comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from yuntai import log
from yuntai.control.scheduler import Request, Room, empty_host
from yuntai.model.cluster import Host, HostAlive
from yuntai.model.placement import DedicatedHost
from yuntai.state import Absent, StateError, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from yuntai.control.placer import Placer
    from yuntai.control.scheduler import Fleet
    from yuntai.state import Store

AGAIN_S = 3.0
SETTLE_S = 10.0
"""How long the instances are held back for this leader's fleet to hear of the new machine; usually milliseconds."""
_LOG = log.get("failover")


class Machines:
    """Replaces machines of dedicated hosts. What it remembers only spares work; the records have the rest."""

    def __init__(self, store: Store, placer: Placer, fences: Sequence[Any], clock: Callable[[], float]) -> None:
        self._store = store
        self._placer = placer
        self._fences = tuple(fences)
        self._clock = clock
        self._again_at: dict[str, float] = {}  # dedicated host without a machine → when to look again
        self._given: dict[
            str, tuple[str, float]
        ] = {}  # dedicated host → its new machine, and until when to wait for it

    async def replace(
        self, failed: Iterable[str], avoid: Collection[str], *, by_lease: Callable[[str], bool]
    ) -> frozenset[str]:
        """Look after the dedicated hosts on failed machines; return those whose new machine is not known here yet."""
        fleet = await self._placer.fleet()
        for host_id in failed:
            host = fleet.hosts.get(host_id)
            wanted = host.dedicated if host is not None else ""
            if wanted and wanted not in self._given and self._again_at.get(wanted, 0.0) <= self._clock():
                try:
                    await self._replace(fleet, host_id, wanted, avoid, by_lease=by_lease(host_id))
                except StateError as error:
                    _LOG.warning("dedicated host not moved, will be", number=wanted, host=host_id, error=str(error))
        self._given = {
            one: (to, until)
            for one, (to, until) in self._given.items()
            if until > self._clock() and (to not in fleet.hosts or fleet.hosts[to].dedicated != one)
        }
        return frozenset(self._given)

    async def _replace(self, fleet: Fleet, source: str, wanted: str, avoid: Collection[str], *, by_lease: bool) -> None:
        found = await self._store.get(DedicatedHost, wanted)
        self._again_at[wanted] = self._clock() + AGAIN_S
        if found is None or found.value.host != source:
            return  # released, or moved by another leader
        one = found.value
        if one.action_on_maintenance != "Migrate" and not one.redeploy:
            return
        chosen, why = empty_host(fleet, _needs(fleet, source), avoid)
        if not chosen:
            await self._leave_waiting(wanted, source, why)
            return
        old, new = await self._store.need(Host, source), await self._store.need(Host, chosen)
        # Nothing else may be placed there before the record says so.
        self._placer.hold(Request(wanted, new.value.vcpus_max, new.value.memory_mib_max), chosen)
        done = False
        try:
            done = not new.value.dedicated and await self._store.txn(
                compare=[
                    *self._fences,
                    *([Absent(HostAlive, source)] if by_lease else []),
                    *(Unchanged(record) for record in (found, old, new)),
                ],
                put=[
                    replace(one, host=chosen, redeploy=False, reason=""),
                    replace(old.value, dedicated=""),
                    replace(new.value, dedicated=wanted),
                ],
            )
        finally:
            if not done:
                self._placer.release(wanted)
        if done:
            self._given[wanted] = (chosen, self._clock() + SETTLE_S)
            _LOG.warning("dedicated host has another machine", number=wanted, source=source, to=chosen)
        else:
            self._again_at.pop(wanted, None)  # a record has changed since: in the next turn

    async def _leave_waiting(self, wanted: str, source: str, why: str) -> None:
        reason = f"its machine {source} failed, and it waits for another: {why}"

        def change(one: DedicatedHost) -> DedicatedHost | None:
            return replace(one, reason=reason) if one.host == source else None

        await self._store.update(DedicatedHost, wanted, change, guard=self._fences)


def _needs(fleet: Fleet, host_id: str) -> Room:
    """Return what the instances on a host hold; stopped ones come along too."""
    vcpus, memory_mib = fleet.used[host_id]
    return Room(vcpus, memory_mib)
