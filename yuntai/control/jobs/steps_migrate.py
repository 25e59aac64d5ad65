"""Steps of a live migration. Agents do what the Migration record says and report; here it is decided who has the guest.

What decides is one transaction on the volumes' records: either the destination has taken them, because the guest runs
there, or the migration is called off and it never can (:mod:`yuntai.pangu.takeover_rules`). So whatever died, and
whichever reports were lost, each step and the undoing end with one owner: the destination where the volumes are its
own, else the source.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from yuntai.control.cpu_baseline import missing_for_guest
from yuntai.control.jobs.outcome import JobFailedError, NotYetError
from yuntai.control.scheduler import request_of
from yuntai.model.base import now_utc
from yuntai.model.cluster import Host
from yuntai.model.compute import Disk, Instance, Migration, MigrationProgress
from yuntai.model.network import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yuntai.control.jobs.context import Context
    from yuntai.control.scheduler import Request

PREPARE_TIMEOUT_S = 45.0
MOVE_TIMEOUT_S = 900.0
MOVE_S_PER_GIB = 60.0
ARRIVE_TIMEOUT_S = 30.0
UNDO_TIMEOUT_S = 60.0


async def choose_destination(ctx: Context) -> None:
    """Choose where it goes, by what the scheduler and the CPU allow, and hold room there too."""
    instance = await ctx.instance()
    if instance.status != "Running":
        raise JobFailedError(f"{instance.id} is {instance.status}: only a running instance can be migrated live")
    source = await ctx.unit.get(Host, instance.host)
    if source is None:
        raise JobFailedError(f"the host {instance.host} of {instance.id} has no record")
    wanted = str(ctx.job.arguments.get("to", ""))
    placement = await ctx.choose_host(move_request(instance, source, wanted), besides=True)
    if not placement.host:
        raise JobFailedError(f"{instance.id} cannot be migrated: {placement.reason}")
    destination = await ctx.unit.get(Host, placement.host)
    if destination is None:
        raise JobFailedError(f"the host {placement.host} has left the cluster meanwhile")
    ctx.unit.put(msgspec.structs.replace(instance, migrating_to=destination.id))
    ctx.unit.put(
        Migration(
            id=instance.id,
            job=ctx.job.id,
            source=instance.host,
            destination=destination.id,
            address=destination.address,
            phase="prepare",
            post_copy=bool(ctx.job.arguments.get("post_copy", False)),
            created=now_utc(),
        )
    )
    await _ports(ctx, instance, lambda port: msgspec.structs.replace(port, destination=destination.id))


def move_request(instance: Instance, source: Host, wanted: str = "") -> Request:
    """Return what the scheduler is asked for a running guest that is to leave ``source``, for ``wanted`` if given."""

    def unfit(host: Host) -> Sequence[str]:
        if wanted and host.id != wanted:
            return (f"{wanted} was asked for",)
        return missing_for_guest(host, instance, source)

    return replace(request_of(instance, prefer=False), unfit=unfit)


async def prepare_destination(ctx: Context) -> None:
    """Wait until the destination keeps a place for every volume, then let the source begin."""
    migration = await _migration(ctx)
    _check(ctx, migration, await ctx.unit.get(Host, migration.source), await ctx.unit.get(Host, migration.destination))
    there = await _progress(ctx, migration.destination)
    if there is not None and there.state == "failed":
        raise JobFailedError(f"{migration.destination} cannot take {migration.id}: {there.error}")
    if there is None or there.state != "ready":
        waits_for = there.waits_for if there is not None else ""
        raise NotYetError(
            waits_for or f"{migration.destination} prepares for {migration.id}",
            *_keys(migration),
            timeout_s=PREPARE_TIMEOUT_S,
        )
    ctx.unit.put(msgspec.structs.replace(migration, phase="move"))


async def move_guest(ctx: Context) -> None:
    """Wait until the guest runs at the destination, which owns it then; give up if it never will."""
    migration = await _migration(ctx)
    here, there = await _progress(ctx, migration.source), await _progress(ctx, migration.destination)
    if there is None or there.state != "moved":
        source, destination = (
            await ctx.unit.get(Host, migration.source),
            await ctx.unit.get(Host, migration.destination),
        )
        why = _failure(migration, here, there, _is_up(source), _is_up(destination))
        instance = await ctx.unit.get(Instance, migration.id)
        limit_s = _move_limit_s(instance)
        if not why and ctx.waited_s > limit_s:
            why = f"it has taken longer than {limit_s:.0f} s"
        if not why:
            raise NotYetError(f"{migration.id} moves to {migration.destination}", *_keys(migration))
        if not await _is_taken(ctx, migration):
            raise JobFailedError(why)
    await _give(ctx, migration)


def _move_limit_s(instance: Instance | None) -> float:
    return MOVE_TIMEOUT_S + MOVE_S_PER_GIB * (instance.memory_mib / 1024 if instance else 0)


def _failure(
    migration: Migration,
    here: MigrationProgress | None,
    there: MigrationProgress | None,
    source_up: bool,
    destination_up: bool,
) -> str:
    """Return why the guest will not come, "" while it may."""
    if here is not None and here.state == "failed":
        cancelled = "it was cancelled: " if migration.cancel else ""
        return f"{cancelled}{here.error}"
    if there is not None and there.state == "failed":
        return f"{migration.destination}: {there.error}"
    if not destination_up:
        return f"the destination {migration.destination} does not report any more"
    if not source_up:
        return f"the source {migration.source} does not report any more"
    return ""


async def finish_move(ctx: Context) -> None:
    """Wait until the destination keeps the guest and the source has nothing of it left, then forget the migration."""
    instance = await ctx.unit.get(Instance, ctx.job.resource)
    migration = await _mine(ctx)
    if instance is not None and migration is not None:
        await _wait_released(ctx, migration, instance)
        await _wait_kept(ctx, instance)
    await _forget(ctx)


async def _wait_released(ctx: Context, migration: Migration, instance: Instance) -> None:
    """Wait until the source's hypervisor is done with the guest: by post-copy its memory is needed until then.

    It could not come back before that either. A source that reports nothing is not waited for longer than a while.
    """
    here = await _progress(ctx, migration.source)
    if here is None or here.state != "moving" or not _is_up(await ctx.unit.get(Host, migration.source)):
        return
    limit_s = _move_limit_s(instance) if here.stage == "post-copy" else ARRIVE_TIMEOUT_S
    if ctx.waited_s < limit_s:
        why = f"{migration.source} has not let go of {migration.id} yet"
        raise NotYetError(why, *_keys(migration), timeout_s=2 * limit_s)


async def _wait_kept(ctx: Context, instance: Instance) -> None:
    if ctx.waited_s >= ARRIVE_TIMEOUT_S or not _is_up(await ctx.unit.get(Host, instance.host)):
        return
    observed = await ctx.observed(instance)
    if observed is None or observed.state != "running":
        raise NotYetError(
            f"{instance.host} has not reported the guest yet",
            f"observed/{instance.id}",
            f"host/{instance.host}",
            timeout_s=2 * ARRIVE_TIMEOUT_S,
        )


async def call_off(ctx: Context) -> None:
    """Undo: decide who has the guest. If it is the source, both hosts are told to clean up."""
    migration = await _mine(ctx)
    if migration is None:
        return
    if await _is_taken(ctx, migration):
        await _give(ctx, migration)
        return
    ctx.unit.put(msgspec.structs.replace(migration, phase="undo"))
    instance = await ctx.unit.get(Instance, migration.id)
    if instance is not None:
        if instance.migrating_to == migration.destination:
            ctx.unit.put(msgspec.structs.replace(instance, migrating_to=""))
        await _ports(ctx, instance, lambda port: _left(port, migration.destination))


async def wait_undone(ctx: Context) -> None:
    """Undo: wait until nothing is left at the destination and the guest is no longer on its way, then forget it."""
    migration = await _mine(ctx)
    if migration is not None and migration.phase == "undo" and ctx.waited_s < UNDO_TIMEOUT_S:
        for host in (migration.source, migration.destination):
            progress = await _progress(ctx, host)
            if _is_up(await ctx.unit.get(Host, host)) and (progress is None or progress.state != "undone"):
                raise NotYetError(f"{host} cleans up behind the migration", *_keys(migration))
    await _forget(ctx)


async def _migration(ctx: Context) -> Migration:
    instance = await ctx.unit.get(Instance, ctx.job.resource)
    migration = await _mine(ctx)
    if migration is None:
        raise JobFailedError(f"the migration of {ctx.job.resource} has no record any more")
    if instance is None or instance.job != ctx.job.id or instance.host != migration.source:
        raise JobFailedError(f"{ctx.job.resource} was stopped, started elsewhere, or deleted meanwhile")
    return migration


async def _mine(ctx: Context) -> Migration | None:
    migration = await ctx.unit.get(Migration, ctx.job.resource)
    return migration if migration is not None and migration.job == ctx.job.id else None


def _check(ctx: Context, migration: Migration, source: Host | None, destination: Host | None) -> None:
    del ctx
    if migration.cancel:
        raise JobFailedError("it was cancelled")
    for host, name in ((source, migration.source), (destination, migration.destination)):
        if not _is_up(host):
            raise JobFailedError(f"{name} does not report any more")


async def _progress(ctx: Context, host: str) -> MigrationProgress | None:
    found = await ctx.unit.get(MigrationProgress, f"{ctx.job.resource}.{host}")
    return found if found is not None and found.job == ctx.job.id else None


def _keys(migration: Migration) -> tuple[str, ...]:
    return (
        f"migration/{migration.id}",
        f"instance/{migration.id}",
        *(f"migration_progress/{migration.id}.{host}" for host in (migration.source, migration.destination)),
        *(f"host/{host}" for host in (migration.source, migration.destination)),
    )


def _is_up(host: Host | None) -> bool:
    return host is not None and host.status == "up"


async def _is_taken(ctx: Context, migration: Migration) -> bool:
    """Call the hand-over off; return whether it is too late, as the destination has the volumes."""
    instance = await ctx.unit.get(Instance, migration.id)
    if instance is None:
        return False
    disks = [await ctx.unit.get(Disk, disk) for disk in instance.disks or (instance.system_disk,)]
    volumes = [disk.volume for disk in disks if disk is not None]
    return await ctx.volumes.call_off(volumes, migration.destination, migration.job)


async def _give(ctx: Context, migration: Migration) -> None:
    """Make the destination the owner of the guest and of its address."""
    ctx.unit.put(msgspec.structs.replace(migration, phase="finish"))
    instance = await ctx.unit.get(Instance, migration.id)
    if instance is None or instance.host != migration.source:
        return  # it was started elsewhere meanwhile: whoever did that owns it
    ctx.unit.put(msgspec.structs.replace(instance, host=migration.destination, migrating_to="", reason=""))
    await _ports(ctx, instance, lambda port: msgspec.structs.replace(port, host=migration.destination, destination=""))


def _left(port: Port, destination: str) -> Port:
    return msgspec.structs.replace(port, destination="") if port.destination == destination else port


async def _ports(ctx: Context, instance: Instance, change: Callable[[Port], Port]) -> None:
    for port_id in (instance.port, *instance.ports):
        port = await ctx.unit.get(Port, port_id)
        if port is not None and change(port) != port:
            ctx.unit.put(change(port))


async def _forget(ctx: Context) -> None:
    migration = await _mine(ctx)
    if migration is not None:
        ctx.unit.delete(Migration, migration.id)
        for host in (migration.source, migration.destination):
            if await _progress(ctx, host) is not None:
                ctx.unit.delete(MigrationProgress, f"{migration.id}.{host}")
    instance = await ctx.unit.get(Instance, ctx.job.resource)
    if instance is not None and instance.job == ctx.job.id:
        failed = ctx.job.state == "undoing"
        # What a tenant asked for by moving it is not so where it could not be moved.
        before = ctx.job.arguments.get("before", {}) if failed else {}
        reason = f"the migration failed: {ctx.job.error}" if failed else ""
        ctx.unit.put(msgspec.structs.replace(instance, job="", reason=reason, **before))
