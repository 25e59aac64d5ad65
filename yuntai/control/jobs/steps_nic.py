"""Steps on secondary network cards: plugged into and out of guests that run, or kept for their next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control.jobs.plugging import need_alive, need_plugged, need_unplugged
from yuntai.control.jobs.steps_instance import free_card
from yuntai.model.compute import Instance

if TYPE_CHECKING:
    from yuntai.control.jobs.context import Context
    from yuntai.model.compute import ObservedInstance


async def _owner(ctx: Context) -> tuple[Instance | None, ObservedInstance | None]:
    instance = await ctx.unit.get(Instance, ctx.job.arguments["instance"])
    return instance, await ctx.observed(instance) if instance is not None else None


async def plug_card(ctx: Context) -> None:
    """Put the card among those that the guest is to have, and its network on the guest's host."""
    port = await ctx.card()
    instance, _ = await _owner(ctx)
    instance = need_alive(ctx, instance)
    if port.id not in instance.ports:
        ctx.unit.put(msgspec.structs.replace(instance, ports=(*instance.ports, port.id)))
    if (port.host, port.destination) != (instance.host, instance.migrating_to):
        ctx.unit.put(msgspec.structs.replace(port, host=instance.host, destination=instance.migrating_to))


async def wait_card_plugged(ctx: Context) -> None:
    """Wait until the running guest has the card; one that does not run gets it at its start."""
    port = await ctx.card()
    instance, observed = await _owner(ctx)
    instance = need_alive(ctx, instance)
    has = observed.nics if observed is not None else ()
    need_plugged(instance, observed, has, port.id, f"network card {port.eni}")
    ctx.unit.put(msgspec.structs.replace(port, host=instance.host, state="", job="", reason=""))


async def unplug_card(ctx: Context) -> None:
    """Take the card from those that the guest is to have."""
    port = await ctx.card()
    instance, _ = await _owner(ctx)
    if instance is not None and port.id in instance.ports:
        rest = tuple(one for one in instance.ports if one != port.id)
        ctx.unit.put(msgspec.structs.replace(instance, ports=rest))


async def wait_card_unplugged(ctx: Context) -> None:
    """Wait until no guest has the card."""
    port = await ctx.card()
    instance, observed = await _owner(ctx)
    if instance is None or observed is None:
        return
    need_unplugged(instance, observed, observed.nics, port.id, f"network card {port.eni}")


async def finish_detach_card(ctx: Context) -> None:
    """Say that the card is free."""
    ctx.unit.put(free_card(await ctx.card()))


async def undo_attach_card(ctx: Context) -> None:
    """Say that the card is free again, and why it was not attached."""
    ctx.unit.put(free_card(await ctx.card(), ctx.job.error))


async def undo_detach_card(ctx: Context) -> None:
    """Give the card back to the guest that did not let go of it, and say why."""
    port = await ctx.card()
    instance, _ = await _owner(ctx)
    if instance is None:  # there is nobody left to give it back to
        ctx.unit.put(free_card(port))
        return
    if port.id not in instance.ports:
        ctx.unit.put(msgspec.structs.replace(instance, ports=(*instance.ports, port.id)))
    ctx.unit.put(msgspec.structs.replace(port, state="", job="", reason=ctx.job.error))
