"""Steps on instances. Each may be run again after a crash at any point, and then does what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from yuntai.control import scheduler
from yuntai.control.jobs.outcome import JobFailedError, NotYetError, RetryError, SupersededError
from yuntai.control.settle import settle
from yuntai.model.base import now_utc
from yuntai.model.cluster import Host
from yuntai.model.compute import Disk, Instance, ObservedInstance
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.lifecycle_storage import DISK
from yuntai.model.network import Port

if TYPE_CHECKING:
    from yuntai.control.jobs.context import Context
    from yuntai.model.compute import DesiredState, DiskStatus, InstanceStatus

START_TIMEOUT_S = 600.0
STOP_GRACE_S = 120.0


async def place(ctx: Context) -> None:
    """Choose the host, or keep the one that it was on; the room on it is the instance's from this write on."""
    instance = await ctx.instance()
    placement = await ctx.choose_host(scheduler.request_of(instance))
    if not placement.host:
        raise RetryError(placement.reason)
    if placement.host != instance.host:
        ctx.unit.put(msgspec.structs.replace(instance, host=placement.host, placed_why=placement.why))
    await ctx.port_to(instance, placement.host)


async def make_volumes(ctx: Context) -> None:
    """Make the volumes whose ids the request fixed."""
    for volume in cast("list[dict[str, Any]]", ctx.job.arguments["volumes"]):
        source = volume["source"]
        await ctx.volumes.create_volume(
            volume["id"], volume["size_bytes"], (source["volume"], source["node"]) if source else None
        )


async def prepare(ctx: Context) -> None:
    """Declare the instance whole: from here on nothing of it is undone."""
    instance = await ctx.instance()
    start = bool(ctx.job.arguments["start"])
    move = INSTANCE.step(instance.status, "created" if start else "parked", instance.id)
    changed = msgspec.structs.replace(
        instance, status=cast("InstanceStatus", move.state), desired=cast("DesiredState", move.wants)
    )
    ctx.unit.put(changed if start else msgspec.structs.replace(changed, job=""))
    for disk_id in instance.disks:
        disk = await ctx.unit.get(Disk, disk_id)
        if disk is None:
            raise JobFailedError(f"the record of the disk {disk_id} is gone")
        status = DISK.step(disk.status, "created_attached", disk.id).state
        ctx.unit.put(msgspec.structs.replace(disk, status=cast("DiskStatus", status), attached_time=now_utc(), job=""))


async def launch(ctx: Context) -> None:
    """Let the agent start the guest."""
    instance = await ctx.instance()
    if instance.desired != "running":
        ctx.unit.put(msgspec.structs.replace(instance, desired="running"))


async def wait_running(ctx: Context) -> None:
    """Wait until the agent sees the guest running, and say so."""
    instance = await ctx.instance()
    observed = await ctx.observed(instance)
    settled = settle(instance, observed, now=now_utc())
    if settled.status != "Running":
        why = observed.error or observed.state if observed is not None else "its agent has not reported it"
        raise NotYetError(
            f"the guest is not running yet on {instance.host}: {why}",
            f"observed/{instance.id}",
            f"instance/{instance.id}",
            timeout_s=START_TIMEOUT_S,
        )
    ctx.unit.put(msgspec.structs.replace(settled, job=""))


async def undo_start(ctx: Context) -> None:
    """Leave an instance that did not start Stopped, with the reason on it."""
    await _give_up(ctx, "start_failed", desired="stopped")


async def undo_reboot(ctx: Context) -> None:
    """Leave an instance whose reset was not confirmed as Running as it was, with the reason on it."""
    await _give_up(ctx, "reboot_failed", desired="running")


async def _give_up(ctx: Context, fact: str, *, desired: DesiredState) -> None:
    instance = await ctx.instance()
    state = INSTANCE.step(instance.status, fact, instance.id).state
    ctx.unit.put(
        msgspec.structs.replace(
            instance, status=cast("InstanceStatus", state), desired=desired, job="", reason=ctx.job.error
        )
    )


async def wait_stopped_politely(ctx: Context) -> None:
    """Wait for the guest to shut down; when it does not in time, cut its power."""
    instance = await ctx.instance()
    if instance.force_stop or settle(instance, await ctx.observed(instance)).status == "Stopped":
        return
    if ctx.waited_s < STOP_GRACE_S:
        raise NotYetError(
            "the guest is shutting down",
            f"observed/{instance.id}",
            f"instance/{instance.id}",
            timeout_s=STOP_GRACE_S * 2,
        )
    ctx.unit.put(
        msgspec.structs.replace(
            instance, force_stop=True, reason=f"the guest did not shut down within {STOP_GRACE_S:.0f} s; power is cut"
        )
    )


async def wait_stopped(ctx: Context) -> None:
    """Wait until the agent sees the guest stopped, and say so."""
    instance = await ctx.instance()
    settled = settle(instance, await ctx.observed(instance))
    if settled.status != "Stopped":
        raise NotYetError(
            f"the guest is not stopped yet on {instance.host}", f"observed/{instance.id}", f"instance/{instance.id}"
        )
    ctx.unit.put(msgspec.structs.replace(settled, job="", force_stop=False))


async def wait_absent(ctx: Context) -> None:
    """Wait until the agent has let go of the guest and of its volumes."""
    instance = await ctx.instance()
    if not instance.host or await ctx.unit.get(Host, instance.host) is None:
        return  # no agent ever had it, or its host left the cluster
    observed = await ctx.observed(instance)
    if observed is None or observed.state != "absent":
        state = observed.state if observed is not None else "not reported"
        raise NotYetError(
            f"the guest is not gone yet from {instance.host}: {state}",
            f"observed/{instance.id}",
            f"instance/{instance.id}",
            f"host/{instance.host}",
        )


async def remove_instance(ctx: Context) -> None:
    """Delete instance, port and the disks that go along; let the other disks go free."""
    instance = await ctx.unit.get(Instance, ctx.job.resource)
    if instance is None:
        return
    volumes = []
    for disk in await ctx.unit.list(Disk):
        if disk.instance != instance.id:
            continue
        if disk.job and disk.job != ctx.job.id:
            raise NotYetError(f"another operation on {disk.id} is to end first", f"disk/{disk.id}", f"job/{disk.job}")
        if disk.delete_with_instance:
            volumes.append({"id": disk.volume})
            ctx.unit.delete(Disk, disk.id)
        else:
            state = DISK.step(disk.status, "instance_released", disk.id).state
            ctx.unit.put(free_disk(disk, state))
    ctx.argue(volumes=volumes)
    await release_cards(ctx, instance)
    ctx.unit.delete(Instance, instance.id)
    ctx.unit.delete(Port, instance.port)
    ctx.unit.delete(ObservedInstance, instance.id)


async def release_cards(ctx: Context, instance: Instance) -> None:
    """Delete the secondary network cards that go with an instance; let the others go free."""
    for port_id in instance.ports:
        port = await ctx.unit.get(Port, port_id)
        if port is None:
            continue
        if port.job and port.job != ctx.job.id:
            raise NotYetError(f"another operation on {port.eni} is to end first", f"port/{port.id}", f"job/{port.job}")
        if port.delete_with_instance:
            ctx.unit.delete(Port, port.id)
        else:
            ctx.unit.put(free_card(port))


def free_card(port: Port, reason: str = "") -> Port:
    """Return a network card that no instance has."""
    return msgspec.structs.replace(port, instance="", host="", destination="", state="", job="", reason=reason)


def free_disk(disk: Disk, state: str, reason: str = "") -> Disk:
    """Return a disk that no instance has."""
    return msgspec.structs.replace(
        disk,
        status=cast("DiskStatus", state),
        instance="",
        device="",
        job="",
        detached_time=now_utc(),
        reason=reason,
    )


async def undo_mark(ctx: Context) -> None:
    """Show on the instance why it will not be."""
    instance = await ctx.unit.get(Instance, ctx.job.resource)
    if instance is not None and instance.status not in ("Pending", "Deleting"):
        raise SupersededError(f"{instance.id} is {instance.status}: it was made whole")
    if instance is not None and instance.reason != ctx.job.error:
        ctx.unit.put(msgspec.structs.replace(instance, reason=ctx.job.error))


async def undo_volumes(ctx: Context) -> None:
    """Delete the volumes that this job made, or may have made."""
    for volume in ctx.job.arguments["volumes"]:
        await ctx.volumes.delete_volume(volume["id"])


async def undo_records(ctx: Context) -> None:
    """Delete the records of an instance that could not be made."""
    instance = await ctx.unit.get(Instance, ctx.job.resource)
    if instance is None:
        return
    for disk_id in instance.disks:
        ctx.unit.delete(Disk, disk_id)
    ctx.unit.delete(Instance, instance.id)
    ctx.unit.delete(Port, instance.port)
    ctx.unit.delete(ObservedInstance, instance.id)
