"""ResetDisk and ReInitDisk: a disk goes back to one of its snapshots, or to what it was when it was new."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import credentials, validate
from yuntai.control.requests.base import decide, new_job, transact
from yuntai.control.requests.disks import need_disk, need_idle, volume_of
from yuntai.control.requests.keypairs import need_key_pair
from yuntai.control.requests.snapshots import need_snapshot, progressing_on
from yuntai.model.base import new_id
from yuntai.model.compute import Image, Instance, Snapshot
from yuntai.model.lifecycle_storage import DISK, SNAPSHOT

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller
    from yuntai.control.unit import Unit
    from yuntai.model.compute import Disk
    from yuntai.state import Store


async def reset_disk(store: Store, caller: Caller, disk_id: str, snapshot_id: str, *, dry_run: bool = False) -> None:
    """ResetDisk: roll a disk back to a snapshot of it; what was written since is lost unless a snapshot has it."""

    async def body(unit: Unit) -> None:
        disk = await need_disk(unit, caller, disk_id)
        snapshot = await need_snapshot(unit, caller, snapshot_id)
        if snapshot.disk != disk.id:
            raise ApiError(
                "InvalidParameter.Mismatch",
                f"The snapshot {snapshot.id} is of the disk {snapshot.disk}, not of {disk.id}; "
                "make a new disk of it with CreateDisk.",
                errors.FORBIDDEN,
            )
        decide(SNAPSHOT, snapshot.status, "use", snapshot.id)
        move = await _begin(unit, disk, "reset")
        job = new_job(caller, move, disk.id, snapshot=snapshot.id, volume=snapshot.volume)
        unit.put(msgspec.structs.replace(disk, status="ReIniting", job=job.id, reason=""))
        unit.add(job)

    await transact(store, caller, body, type(None), dry_run=dry_run)


async def reinit_disk(
    store: Store, caller: Caller, disk_id: str, *, key_pair: str = "", password: str = "", start: bool = False
) -> None:
    """ReInitDisk: a system disk is its image again, a data disk what it was made of, or empty. Snapshots stay.

    With a system disk its instance gets another key pair, which ends password logins, or another password; with
    ``start`` it is started when its disks are ready.
    """
    if key_pair and password:
        raise ApiError("InvalidParameter.Conflict", "Password and KeyPairName exclude each other; give one of them.")
    hashed = await asyncio.to_thread(credentials.hash_password, validate.password(password)) if password else ""

    async def body(unit: Unit) -> None:
        disk = await need_disk(unit, caller, disk_id)
        source = await _origin(unit, disk)
        if key_pair:
            await need_key_pair(unit, caller, key_pair)
        move = await _begin(unit, disk, "reinit")
        # A volume of its own, so that the snapshots of the present one stay what they are.
        fresh = volume_of(msgspec.structs.replace(disk, volume=new_id("vol")), source)
        job = new_job(caller, move, disk.id, volumes=[fresh], start=start)
        unit.put(msgspec.structs.replace(disk, status="ReIniting", job=job.id, reason=""))
        unit.add(job)
        instance = await unit.get(Instance, disk.instance) if disk.instance and disk.kind == "system" else None
        if instance is not None and key_pair:
            unit.put(msgspec.structs.replace(instance, key_pair=key_pair, password_hash=""))
        elif instance is not None and hashed:
            unit.put(msgspec.structs.replace(instance, password_hash=hashed))

    await transact(store, caller, body, type(None))


async def _begin(unit: Unit, disk: Disk, event: str) -> str:
    """Check that nobody uses the disk; return the job's action."""
    move = decide(DISK, disk.status, event, disk.id)
    instance = await unit.get(Instance, disk.instance) if disk.instance else None
    if instance is not None and instance.status != "Stopped":
        raise ApiError(
            "IncorrectInstanceStatus",
            f'The current status "{instance.status}" of the instance {instance.id} does not support this operation; '
            "stop it first.",
            errors.FORBIDDEN,
        )
    need_idle(disk)
    await progressing_on(unit, disk.id)
    return move.wants


async def _origin(unit: Unit, disk: Disk) -> tuple[str, int] | None:
    """Return the node that a disk was made of; raise if that is gone."""
    if disk.source_image:
        image = await unit.get(Image, disk.source_image)
        if image is None or image.status != "Available":
            raise errors.not_found("ImageId", disk.source_image, "InvalidImageId.NotFound")
        return image.volume, image.node
    if disk.source_snapshot:
        snapshot = await unit.get(Snapshot, disk.source_snapshot)
        if snapshot is None or snapshot.status != "accomplished":
            raise errors.not_found("snapshot", disk.source_snapshot, "InvalidSnapshotId.NotFound")
        return snapshot.volume, snapshot.node
    return None
