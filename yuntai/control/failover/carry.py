"""Carries out what was planned: one etcd transaction for each instance, which compares all that was read for it.

For a host whose lease had ended it also compares that it has none: its guard announces the host *before* it reads whose
its paused guests are, so what it then finds to be its own is taken from it by nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yuntai import log
from yuntai.control.failover import planner
from yuntai.model.base import now_utc
from yuntai.model.cluster import HostAlive
from yuntai.model.compute import Instance
from yuntai.model.network import Port
from yuntai.state import Absent, StateError, Uncertain, Unchanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.model.compute import InstanceEvent
    from yuntai.state import Store, Versioned

TRIES_MAX = 8
_LOG = log.get("failover")


async def move(
    store: Store,
    fences: Sequence[Any],
    instance_id: str,
    source: str,
    to: str,
    why: str,
    *,
    by_lease: bool,
    leaves_set: str = "",
) -> InstanceEvent | None:
    """Give the instance to the host ``to``; return the event, or ``None`` when it is not to be moved any more.

    ``leaves_set`` is the deployment set that it must be taken out of to be there.
    Raise :class:`StateError` if it cannot be done now.
    """
    for _ in range(TRIES_MAX):
        found = await store.get(Instance, instance_id)
        if found is None or found.value.host != source or found.value.status == "Stopped":
            return None
        if leaves_set not in ("", found.value.deployment_set):
            raise StateError(f"instance {instance_id} is not in {leaves_set} any more; it is placed anew")
        ports = await _ports(store, found.value)
        moved = planner.move(found.value, [one.value for one in ports], to, now_utc(), why, leaves_set=bool(leaves_set))
        alive: list[Any] = [Absent(HostAlive, source)] if by_lease else []
        try:
            done = await store.txn(
                compare=[*fences, *alive, Unchanged(found), *(Unchanged(one) for one in ports)],
                put=[moved.instance, *moved.ports, moved.event],
            )
        except Uncertain:
            continue  # the next turn reads what is there
        if done:
            return moved.event
        if by_lease and await store.get(HostAlive, source) is not None:
            _LOG.info("host is back before its instance was moved", host=source, instance=instance_id)
            return None
    raise StateError(f"instance {instance_id} changed {TRIES_MAX} times in a row while it was being moved; later again")


async def leave_waiting(store: Store, fences: Sequence[Any], instance_id: str, source: str, why: str) -> None:
    """Say on the instance that nothing has room for it."""

    def change(instance: Instance) -> Instance | None:
        return planner.wait(instance, why) if instance.host == source and instance.status != "Stopped" else None

    await store.update(Instance, instance_id, change, guard=fences)


async def _ports(store: Store, instance: Instance) -> list[Versioned[Port]]:
    found = [await store.get(Port, port) for port in (instance.port, *instance.ports) if port]
    return [one for one in found if one is not None]
