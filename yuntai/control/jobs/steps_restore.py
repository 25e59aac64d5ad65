"""Steps that give a disk other contents: rolled back to a snapshot, or as it was when it was new."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from yuntai.control.jobs.outcome import NotYetError
from yuntai.control.requests.power import begin_start
from yuntai.control.requests.types import Caller
from yuntai.control.sources import GIB
from yuntai.model.cluster import Volume
from yuntai.model.compute import Disk, Instance
from yuntai.model.lifecycle_storage import DISK

if TYPE_CHECKING:
    from yuntai.control.jobs.context import Context
    from yuntai.model.compute import DiskStatus

RELEASE_TIMEOUT_S = 120.0


async def roll_back(ctx: Context) -> None:
    """Put the disk back to its snapshot, which may be on the volume that the disk had before it was initialized."""
    disk = await ctx.disk()
    await _released(ctx, disk)
    arguments = ctx.job.arguments
    volume = str(arguments["volume"])
    await ctx.volumes.roll_back(volume, str(arguments["snapshot"]), ctx.job.id)
    if volume != disk.volume:
        await ctx.volumes.resize_volume(volume, disk.size_gib * GIB)
        ctx.argue(volumes=[{"id": disk.volume}])
    ctx.unit.put(_restored(msgspec.structs.replace(disk, volume=volume)))


async def swap_volume(ctx: Context) -> None:
    """Give the disk its new volume; the old one stays while snapshots of it are there."""
    disk = await ctx.disk()
    await _released(ctx, disk)
    (made,) = ctx.job.arguments["volumes"]
    ctx.argue(volumes=[{"id": disk.volume}])
    ctx.unit.put(_restored(msgspec.structs.replace(disk, volume=made["id"])))
    if ctx.job.arguments.get("start"):
        await _start(ctx, disk)


async def _start(ctx: Context, disk: Disk) -> None:
    """Start the disk's instance, unless it runs, or another disk of it is not ready: then that one's job may do so."""
    instance = await ctx.unit.get(Instance, disk.instance) if disk.instance else None
    others = [one for one in await ctx.unit.list(Disk) if one.instance == disk.instance and one.id != disk.id]
    if instance is not None and instance.status == "Stopped" and all(one.status != "ReIniting" for one in others):
        begin_start(ctx.unit, Caller(account=ctx.job.account, request_id=ctx.job.request_id), instance)


async def undo_restore(ctx: Context) -> None:
    """Leave the disk as it is, and say why."""
    disk = await ctx.disk()
    ctx.unit.put(_restored(disk, ctx.job.error))


async def _released(ctx: Context, disk: Disk) -> None:
    """Wait until the host has let go of the disk's volume: it does so a moment after its guest has stopped."""
    volume = await ctx.unit.get(Volume, disk.volume)
    if volume is not None and volume.state == "attached":
        raise NotYetError(
            f"{volume.host} still holds the disk {disk.id}", f"volume/{volume.id}", timeout_s=RELEASE_TIMEOUT_S
        )


def _restored(disk: Disk, reason: str = "") -> Disk:
    fact = "restored_attached" if disk.instance else "restored"
    state = cast("DiskStatus", DISK.step(disk.status, fact, disk.id).state)
    return msgspec.structs.replace(disk, status=state, job="", reason=reason)
