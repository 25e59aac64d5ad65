"""What is held back for the failure of any one host, if the operator wants that.

A new instance is refused where afterwards the hosts that are left could not take what any one of them holds. With up
to :data:`EXACT_HOSTS_MAX` hosts that is tried, instance by instance; with more, the sums decide: a small part of a
host that is left over here and there weighs little then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.scheduler.fleet import Fleet
    from yuntai.control.scheduler.request import Request
    from yuntai.model.cluster import Host

EXACT_HOSTS_MAX = 16


def applies(fleet: Fleet, request: Request) -> bool:
    """Tell whether a request must leave the reserve: new load does, what only comes back or moves does not."""
    return fleet.settings.reserve_for_one_host and not request.uses_reserve and not request.dedicated_host


def why_not(fleet: Fleet, host: Host, request: Request) -> str:
    """Return what would be short when a host fails after the instance was placed on ``host``, "" if nothing."""
    if not applies(fleet, request):
        return ""
    own = fleet.holds.get(request.instance)
    if own is not None and own.hosts == (host.id,) and (own.cpu, own.memory_mib) == (request.cpu, request.memory_mib):
        return ""  # it holds this room already
    short = _short_in_sum(fleet, request)
    if short:
        return f"the rest could not take over a host that fails: {short}"
    if len(fleet.open_hosts()) <= EXACT_HOSTS_MAX:
        return _short_in_parts(fleet, host, request)
    return ""


def _short_in_sum(fleet: Fleet, request: Request) -> str:
    """Compare what is free afterwards with the largest host.

    When a host fails, what is free on the others must hold what it held; that is: what is free on all must be no less
    than the whole of it, free and held.
    """
    free, largest = fleet.free_without(request.instance), fleet.largest()
    free_mib, free_vcpus = free.memory_mib - request.memory_mib, free.vcpus - request.cpu
    if free_mib < largest.memory_mib:
        return f"{largest.memory_mib - free_mib} MiB short"
    return f"{largest.vcpus - free_vcpus} vCPU short" if free_vcpus < largest.vcpus else ""


def _short_in_parts(fleet: Fleet, host: Host, request: Request) -> str:
    """Try it: each host fails in turn, and its instances go to the others, the largest first to the roomiest."""
    rooms = {h: [fleet.room(h).memory_mib, fleet.room(h).vcpus] for h in fleet.open_hosts()}
    parts = {h: {g: (fleet.holds[g].memory_mib, fleet.holds[g].cpu) for g in fleet.guests[h]} for h in rooms}
    for there in rooms:
        old = parts[there].pop(request.instance, None)
        if old is not None:
            rooms[there][0] += old[0]
            rooms[there][1] += old[1]
    parts[host.id][request.instance] = (request.memory_mib, request.cpu)
    rooms[host.id][0] -= request.memory_mib
    rooms[host.id][1] -= request.cpu
    for failed in rooms:
        left = {h: list(room) for h, room in rooms.items() if h != failed}
        for guest, (memory_mib, vcpus) in sorted(parts[failed].items(), key=lambda p: (-p[1][0], -p[1][1], p[0])):
            fitting = [h for h, room in left.items() if room[0] >= memory_mib and room[1] >= vcpus]
            if not fitting:
                name = guest if guest in fleet.holds else "the new instance"
                return f"if {failed} failed, {name} ({memory_mib} MiB, {vcpus} vCPUs) would fit nowhere else"
            target = max(fitting, key=lambda h: (left[h], h))
            left[target][0] -= memory_mib
            left[target][1] -= vcpus
    return ""
