"""Steps that give whole hosts away."""

from __future__ import annotations

import msgspec

from yuntai.control.jobs.context import Context
from yuntai.control.jobs.outcome import RetryError
from yuntai.control.scheduler import Fleet, Request
from yuntai.control.scheduler.rules import closed
from yuntai.model.base import now_utc
from yuntai.model.cluster import Host
from yuntai.model.placement import DedicatedHost


async def dedicate(ctx: Context) -> None:
    """Choose a host on which nothing is, and close it to everybody else from this write on."""
    one = await ctx.unit.get(DedicatedHost, ctx.job.resource)
    if one is None or one.host:
        return  # released meanwhile, or done before
    fleet = await ctx.fleet()
    chosen, why = empty_host(fleet)
    if not chosen:
        raise RetryError(why)
    host = await ctx.unit.get(Host, chosen)
    if host is None or closed(host):
        raise RetryError(f"{chosen} changed while it was being chosen")
    # Nothing else may be placed there before the record says so.
    ctx.hold(Request(one.id, host.vcpus_max, host.memory_mib_max), chosen)
    ctx.unit.put(msgspec.structs.replace(host, dedicated=one.id))
    ctx.unit.put(msgspec.structs.replace(one, host=chosen, reason=""))


def empty_host(fleet: Fleet) -> tuple[str, str]:
    """Return the smallest host that is free for somebody alone, or "" and why there is none."""
    now = now_utc()
    taken: list[str] = []
    for host_id in sorted(fleet.hosts, key=lambda h: (fleet.hosts[h].memory_mib_max, h)):
        host, guests = fleet.hosts[host_id], fleet.guests.get(host_id)
        if closed(host) or host.jailed_until > now:
            taken.append(f"{host_id} rejected: it is {host.dedicated or host.maintenance or host.status}")
        elif guests:
            taken.append(f"{host_id} rejected: it has {len(guests)} instances")
        else:
            return host_id, ""
    return "", "no host is free: " + ("; ".join(taken[:16]) or "there is no host")


async def undo_dedicate(ctx: Context) -> None:
    """Show on the dedicated host why there is none."""
    one = await ctx.unit.get(DedicatedHost, ctx.job.resource)
    if one is not None and not one.host:
        ctx.unit.put(msgspec.structs.replace(one, reason=ctx.job.error))
