"""Whole hosts: which one is free for somebody alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.control.scheduler.request import NAMED_MAX, Room
from yuntai.control.scheduler.rules import closed
from yuntai.model.base import now_utc

if TYPE_CHECKING:
    from collections.abc import Collection

    from yuntai.control.scheduler.fleet import Fleet
    from yuntai.model.cluster import Host

_ANY = Room(0, 0)


def empty_host(fleet: Fleet, least: Room = _ANY, avoid: Collection[str] = ()) -> tuple[str, str]:
    """Return the smallest host on which nothing is and that has at least ``least``, or "" and why there is none."""
    now = now_utc()
    taken: list[str] = []
    for host_id in sorted(fleet.hosts, key=lambda h: (fleet.hosts[h].memory_mib_max, h)):
        why = _why_not(fleet.hosts[host_id], now, least) or _guests(fleet, host_id)
        if not why and host_id not in avoid:
            return host_id, ""
        taken.append(f"{host_id} rejected: {why or 'it is to be avoided'}")
    return "", "no host is free: " + ("; ".join(taken[:NAMED_MAX]) or "there is no host")


def _why_not(host: Host, now: str, least: Room) -> str:
    if closed(host):
        return f"it is {host.dedicated or host.maintenance or host.status}"
    if host.jailed_until > now:
        return f"it takes nothing before {host.jailed_until}"
    if host.memory_mib_max < least.memory_mib or host.vcpus_max < least.vcpus:
        return f"it is too small for {least.memory_mib} MiB and {least.vcpus} vCPUs"
    return ""


def _guests(fleet: Fleet, host_id: str) -> str:
    guests = fleet.guests.get(host_id)
    return f"it has {len(guests)} instances" if guests else ""
