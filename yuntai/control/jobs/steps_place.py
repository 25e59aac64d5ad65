"""Steps that give whole hosts away."""

from __future__ import annotations

import msgspec

from yuntai.control.jobs.context import Context
from yuntai.control.jobs.outcome import RetryError
from yuntai.control.scheduler import Request, empty_host
from yuntai.control.scheduler.rules import closed
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


async def undo_dedicate(ctx: Context) -> None:
    """Show on the dedicated host why there is none."""
    one = await ctx.unit.get(DedicatedHost, ctx.job.resource)
    if one is not None and not one.host:
        ctx.unit.put(msgspec.structs.replace(one, reason=ctx.job.error))
