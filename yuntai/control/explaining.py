"""Why an instance is where it is, and what each host says to it now."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.placer import fleet_of
from yuntai.control.scheduler import Room, request_of
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance

if TYPE_CHECKING:
    from yuntai.state import Store


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """One host as the instance's placement sees it. ``why`` "" = it could take the instance."""

    host: Host
    room: Room
    why: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """An instance, the host that the scheduler would choose if it had to choose anew, and every host's view."""

    instance: Instance
    best: str
    best_why: str
    hosts: tuple[HostView, ...]


async def explain(store: Store, instance_id: str) -> Explanation:
    """Explain an instance of any account."""
    found = await store.get(Instance, instance_id) if instance_id.isprintable() and instance_id else None
    if found is None:
        raise errors.not_found("InstanceId", instance_id, "InvalidInstanceId.NotFound")
    fleet = await fleet_of(store)
    anew = dataclasses.replace(request_of(found.value), prefer="")
    views = fleet.explain(anew)
    best = fleet.choose(anew)
    return Explanation(
        instance=found.value,
        best=best.host,
        best_why=best.why or best.reason,
        hosts=tuple(HostView(host=fleet.hosts[h], room=fleet.room(h), why=why) for h, why in views),
    )
