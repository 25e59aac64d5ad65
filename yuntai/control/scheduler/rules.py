"""Why a host cannot take an instance: one rule after the other, each with its reason for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.control.cpu_baseline import missing_for_pool
from yuntai.control.scheduler import reserve, spread

if TYPE_CHECKING:
    from yuntai.control.scheduler.fleet import Fleet
    from yuntai.control.scheduler.request import Request
    from yuntai.model.cluster import Host


def closed(host: Host) -> bool:
    """Tell whether a host takes no plain instance whatever its room; a jail ends by itself, so it is looked at anew."""
    return host.status != "up" or bool(host.maintenance) or bool(host.dedicated)


def why_not(fleet: Fleet, host_id: str, request: Request, now: str) -> str:
    """Return why the host cannot take the instance, "" if it can. ``now`` is the time in UTC."""
    host = fleet.hosts[host_id]
    return (
        _state(host, request, now)
        or _dedicated(host, request)
        or _room(fleet, host, request)
        or spread.why_not(fleet, host, request)
        or ", ".join(missing_for_pool(host, fleet.pools.get(host.pool)))
        or (", ".join(request.unfit(host)) if request.unfit is not None else "")
        or reserve.why_not(fleet, host, request)
    )


def _state(host: Host, request: Request, now: str) -> str:
    if host.status != "up":
        return f"it is {host.status}"
    if host.maintenance:
        return f"it is {host.maintenance}"
    if host.jailed_until > now:
        return f"it was down {len(host.downs)} times lately and takes nothing before {host.jailed_until}"
    return "it is to be avoided" if host.id in request.avoid else ""


def _dedicated(host: Host, request: Request) -> str:
    if host.dedicated == request.dedicated_host:
        return ""
    if not host.dedicated:
        return f"it is not the dedicated host {request.dedicated_host}"
    return f"it is the dedicated host {host.dedicated}"


def _room(fleet: Fleet, host: Host, request: Request) -> str:
    vcpus, memory_mib = fleet.used[host.id]
    own = fleet.holds.get(request.instance)
    if own is not None and host.id in own.hosts:  # an instance does not stand in its own way
        vcpus, memory_mib = vcpus - own.cpu, memory_mib - own.memory_mib
    short_mib = memory_mib + request.memory_mib - host.memory_mib_max
    short_vcpus = vcpus + request.cpu - host.vcpus_max
    if short_mib <= 0 and short_vcpus <= 0:
        return ""
    short = [f"{short_mib} MiB short"] if short_mib > 0 else []
    return ", ".join(short + ([f"{short_vcpus} vCPU short"] if short_vcpus > 0 else []))
