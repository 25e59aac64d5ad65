"""Steps on disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from yuntai.control.jobs.plugging import need_alive, need_plugged, need_unplugged
from yuntai.control.jobs.steps_instance import free_disk
from yuntai.control.sources import GIB
from yuntai.model.base import now_utc
from yuntai.model.compute import Disk, Instance
from yuntai.model.lifecycle_storage import DISK

if TYPE_CHECKING:
    from yuntai.control.jobs.context import Context
    from yuntai.model.compute import DiskStatus, ObservedInstance


async def finish_disk(ctx: Context) -> None:
    """Say that a new disk is Available."""
    disk = await ctx.disk()
    state = DISK.step(disk.status, "created", disk.id).state
    ctx.unit.put(msgspec.structs.replace(disk, status=cast("DiskStatus", state), job=""))


async def undo_disk(ctx: Context) -> None:
    """Delete the record of a disk that could not be made, or one whose deletion was asked for."""
    if await ctx.unit.get(Disk, ctx.job.resource) is not None:
        ctx.unit.delete(Disk, ctx.job.resource)


remove_disk = undo_disk


async def delete_volumes(ctx: Context) -> None:
    """Delete the volumes of what was removed, unless a snapshot or an image still needs them."""
    for volume in ctx.job.arguments.get("volumes", ()):
        await ctx.release_volume(volume["id"])


async def _host_instance(ctx: Context) -> tuple[Instance | None, ObservedInstance | None]:
    instance = await ctx.unit.get(Instance, ctx.job.arguments["instance"])
    return instance, await ctx.observed(instance) if instance is not None else None


async def plug(ctx: Context) -> None:
    """Put the disk among those that the guest is to have."""
    disk = await ctx.disk()
    instance, _ = await _host_instance(ctx)
    instance = need_alive(ctx, instance)
    if disk.id not in instance.disks:
        ctx.unit.put(msgspec.structs.replace(instance, disks=(*instance.disks, disk.id)))


async def wait_plugged(ctx: Context) -> None:
    """Wait until the running guest has the disk; one that does not run gets it at its start."""
    disk = await ctx.disk()
    instance, observed = await _host_instance(ctx)
    instance = need_alive(ctx, instance)
    has = observed.attached if observed is not None else ()
    need_plugged(instance, observed, has, disk.id, f"disk {disk.id}")
    state = DISK.step(disk.status, "attached", disk.id).state
    ctx.unit.put(
        msgspec.structs.replace(disk, status=cast("DiskStatus", state), attached_time=now_utc(), job="", reason="")
    )


async def unplug(ctx: Context) -> None:
    """Take the disk from those that the guest is to have."""
    disk = await ctx.disk()
    instance, _ = await _host_instance(ctx)
    if instance is not None and disk.id in instance.disks:
        rest = tuple(d for d in instance.disks if d != disk.id)
        ctx.unit.put(msgspec.structs.replace(instance, disks=rest))


async def wait_unplugged(ctx: Context) -> None:
    """Wait until no guest has the disk."""
    disk = await ctx.disk()
    instance, observed = await _host_instance(ctx)
    if instance is None or observed is None:
        return
    need_unplugged(instance, observed, observed.attached, disk.id, f"disk {disk.id}")


async def finish_detach(ctx: Context) -> None:
    """Say that the disk is Available."""
    disk = await ctx.disk()
    ctx.unit.put(free_disk(disk, DISK.step(disk.status, "detached", disk.id).state))


async def undo_attach(ctx: Context) -> None:
    """Say that the disk is Available again, and why it was not attached."""
    disk = await ctx.disk()
    ctx.unit.put(free_disk(disk, DISK.step(disk.status, "attach_failed", disk.id).state, ctx.job.error))


async def undo_detach(ctx: Context) -> None:
    """Give the disk back to the guest that did not let go of it, and say why."""
    disk = await ctx.disk()
    instance, _ = await _host_instance(ctx)
    if instance is None:  # there is nobody left to give it back to
        ctx.unit.put(free_disk(disk, DISK.step(disk.status, "detached", disk.id).state))
        return
    if disk.id not in instance.disks:
        ctx.unit.put(msgspec.structs.replace(instance, disks=(*instance.disks, disk.id)))
    state = DISK.step(disk.status, "detach_failed", disk.id).state
    ctx.unit.put(msgspec.structs.replace(disk, status=cast("DiskStatus", state), job="", reason=ctx.job.error))


async def resize(ctx: Context) -> None:
    """Let the volume grow to the size that the record has already."""
    disk = await ctx.disk()
    await ctx.volumes.resize_volume(disk.volume, int(ctx.job.arguments["size_gib"]) * GIB)
    ctx.unit.put(msgspec.structs.replace(disk, job=""))


async def undo_resize(ctx: Context) -> None:
    """Show the old size again, and why it did not grow."""
    disk = await ctx.disk()
    old = int(ctx.job.arguments["old_size_gib"])
    ctx.unit.put(msgspec.structs.replace(disk, size_gib=old, job="", reason=ctx.job.error))
