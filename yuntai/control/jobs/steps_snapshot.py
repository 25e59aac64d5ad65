"""Steps on snapshots, groups of them, and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from yuntai.control.jobs.outcome import JobFailedError, NotYetError
from yuntai.control.sources import makers_of, readers_of_image
from yuntai.model.compute import Disk, Image, Snapshot, SnapshotGroup
from yuntai.model.lifecycle_storage import IMAGE, SNAPSHOT

if TYPE_CHECKING:
    from yuntai.control.jobs.context import Context
    from yuntai.model.compute import ImageStatus, SnapshotStatus


async def _snapshots(ctx: Context) -> list[Snapshot]:
    """Return the snapshots of this job: those that its arguments name, or its resource."""
    named = cast("list[str]", ctx.job.arguments.get("snapshots") or [])
    if not named:
        return [await ctx.snapshot()]
    found = [await ctx.unit.get(Snapshot, one) for one in named]
    if missing := [one for one, record in zip(named, found, strict=True) if record is None]:
        raise JobFailedError(f"the snapshot {missing[0]} is gone")
    return [one for one in found if one is not None]


async def take_snapshot(ctx: Context) -> None:
    """Freeze the volumes at one moment and write down the nodes.

    A snapshot's id is the token that makes it the same node again.
    """
    snapshots = await _snapshots(ctx)
    if all(snapshot.status == "accomplished" for snapshot in snapshots):
        return
    if len(snapshots) == 1:
        one = snapshots[0]
        nodes = {one.volume: await ctx.volumes.take_snapshot(one.volume, one.id)}
    else:
        nodes = await ctx.volumes.take_group({one.volume: one.id for one in snapshots})
    for snapshot in snapshots:
        state = cast("SnapshotStatus", SNAPSHOT.step(snapshot.status, "taken", snapshot.id).state)
        ctx.unit.put(msgspec.structs.replace(snapshot, node=nodes[snapshot.volume], status=state, progress=100))
    await _settle_group(ctx, "accomplished", "")


async def undo_snapshot(ctx: Context) -> None:
    """Let go of the nodes that may have been taken, and show why the snapshots failed."""
    named = cast("list[str]", ctx.job.arguments.get("snapshots") or [])
    volumes = []
    for one in named or [str(ctx.job.arguments.get("snapshot") or ctx.job.resource)]:
        snapshot = await ctx.unit.get(Snapshot, one)
        if snapshot is None or snapshot.status != "progressing":
            continue
        await ctx.volumes.delete_snapshot(snapshot.volume, snapshot.id)
        state = cast("SnapshotStatus", SNAPSHOT.step(snapshot.status, "take_failed", snapshot.id).state)
        ctx.unit.put(msgspec.structs.replace(snapshot, status=state, reason=ctx.job.error))
        volumes.append({"id": snapshot.volume})
    await _settle_group(ctx, "failed", ctx.job.error)
    if volumes:
        ctx.argue(volumes=volumes)


async def _settle_group(ctx: Context, status: SnapshotStatus, reason: str) -> None:
    group_id = str(ctx.job.arguments.get("group") or "")
    group = await ctx.unit.get(SnapshotGroup, group_id) if group_id else None
    if group is not None and group.status == "progressing":
        ctx.unit.put(msgspec.structs.replace(group, status=status, reason=reason))


async def wait_snapshot_unread(ctx: Context) -> None:
    """Wait until no disk is being made of it any more: one may have been asked for just before.

    Disks that are made, and still read from it, do not matter: what they need stays until they have it.
    """
    makers = makers_of(await ctx.unit.list(Disk), ctx.job.resource)
    if makers:
        raise NotYetError(f"{', '.join(makers[:5])} are being made of it", *(f"disk/{d}" for d in makers))


async def delete_node(ctx: Context) -> None:
    """Let go of the snapshot's node."""
    await ctx.volumes.delete_snapshot(str(ctx.job.arguments["volume"]), ctx.job.resource)


async def remove_snapshot(ctx: Context) -> None:
    """Delete the snapshot's record, and take it from its group, which goes with its last one."""
    snapshot = await ctx.unit.get(Snapshot, ctx.job.resource)
    if snapshot is not None:
        ctx.unit.delete(Snapshot, snapshot.id)
        group = await ctx.unit.get(SnapshotGroup, snapshot.group) if snapshot.group else None
        if group is not None:
            rest = tuple(one for one in group.snapshots if one != snapshot.id)
            if rest:
                ctx.unit.put(msgspec.structs.replace(group, snapshots=rest))
            else:
                ctx.unit.delete(SnapshotGroup, group.id)
    ctx.argue(volumes=[{"id": ctx.job.arguments["volume"]}])


async def publish_image(ctx: Context) -> None:
    """Say that an image is Available, now that its snapshots are there."""
    image = await ctx.unit.get(Image, ctx.job.resource)
    if image is None:
        raise JobFailedError(f"the image {ctx.job.resource} is gone")
    nodes = {snapshot.id: snapshot.node for snapshot in await _snapshots(ctx)}
    state = cast("ImageStatus", IMAGE.step(image.status, "created", image.id).state)
    data = tuple(msgspec.structs.replace(one, node=nodes[one.snapshot]) for one in image.data_disks)
    system = nodes[image.source_snapshot]
    ctx.unit.put(msgspec.structs.replace(image, node=system, data_disks=data, status=state, progress=100))


async def undo_image(ctx: Context) -> None:
    """Show why the image could not be made."""
    image = await ctx.unit.get(Image, ctx.job.resource)
    if image is None:
        return
    state = cast("ImageStatus", IMAGE.step(image.status, "create_failed", image.id).state)
    ctx.unit.put(msgspec.structs.replace(image, status=state, reason=ctx.job.error))


async def wait_image_unread(ctx: Context) -> None:
    """Wait until no disk needs the image any more."""
    image = await ctx.unit.get(Image, ctx.job.resource)
    if image is None or not image.node:
        return
    users = await readers_of_image(ctx.unit, image)
    if users:
        raise NotYetError(f"{', '.join(users[:5])} still read it", *(f"disk/{d}" for d in users))


async def remove_image(ctx: Context) -> None:
    """Delete the image's record."""
    if await ctx.unit.get(Image, ctx.job.resource) is not None:
        ctx.unit.delete(Image, ctx.job.resource)
    ctx.argue(volumes=[{"id": ctx.job.arguments["volume"]}])
