"""The operator's way of a snapshot's bytes out of the cloud, and of a volume that was filled from outside to a disk."""

from __future__ import annotations

from typing import Any

from yuntai.api.registry import YUNTAI, Call, action
from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import adopted
from yuntai.model.cluster import Volume, VolumeSource
from yuntai.model.compute import Snapshot
from yuntai.pangu.auxiliary import KEEP_S

_OPENED = """
    CloneId CreationTime DiskId DiskKind Export Node:i SizeBytes:i SnapshotId SnapshotName Socket Uri VolumeId
"""


async def _snapshot(call: Call) -> Snapshot:
    found = await call.context.reads.get(Snapshot, call.text("SnapshotId"))
    if found is None:
        raise errors.not_found("snapshot", call.text("SnapshotId"), "InvalidSnapshotId.NotFound")
    if found.value.status != "accomplished":
        raise ApiError(
            "IncorrectSnapshotStatus", f"The snapshot {found.value.id} is {found.value.status}.", errors.CONFLICT
        )
    return found.value


@action(YUNTAI, "OpenSnapshot", "SnapshotId! HostId!", _OPENED, operator=True)
async def open_snapshot(call: Call) -> dict[str, Any]:
    """Serve a snapshot's bytes, read-only, on a host: through a clone, so that its disk's own I/O is left alone.

    Detach and delete the clone when it is read; whoever takes long says KeepVolume now and then.
    """
    snapshot = await _snapshot(call)
    volume = await call.context.reads.get(Volume, snapshot.volume)
    if volume is None:
        raise errors.not_found("volume", snapshot.volume, "InvalidVolumeId.NotFound")
    size_bytes = volume.value.snapshot_bytes.get(str(snapshot.node), volume.value.size_bytes)
    volumes = call.context.volumes
    source = VolumeSource(volume=snapshot.volume, node=snapshot.node)
    clone = await volumes.create_volume(size_bytes, source=source, keep_s=KEEP_S)
    try:
        opened = await volumes.attach(clone.id, call.text("HostId"), read_only=True)
    except BaseException:
        await volumes.delete_volume(clone.id)
        raise
    return {
        "CloneId": clone.id,
        "CreationTime": snapshot.created,
        "DiskId": snapshot.disk,
        "DiskKind": snapshot.disk_kind,
        "Export": clone.id,
        "Node": snapshot.node,
        "SizeBytes": size_bytes,
        "SnapshotId": snapshot.id,
        "SnapshotName": snapshot.name,
        "Socket": opened.socket,
        "Uri": opened.uri,
        "VolumeId": snapshot.volume,
    }


@action(YUNTAI, "KeepVolume", "VolumeId!", operator=True)
async def keep_volume(call: Call) -> dict[str, Any]:
    """Say that the clone of OpenSnapshot, or an auxiliary volume, is still needed."""
    await call.context.volumes.keep(call.text("VolumeId"), KEEP_S)
    return {}


@action(YUNTAI, "DescribeSnapshotChanges", "SnapshotId! Since:i FirstChunk:i Chunks:i", "Changes", operator=True)
async def describe_snapshot_changes(call: Call) -> dict[str, Any]:
    """Say what may differ in a snapshot from node ``Since`` of its volume; without that, what may be data.

    ``Changes`` is a text: ``7+2 100+16z`` are blocks 7 and 8 from the first chunk on, and sixteen that are zeros now.
    """
    snapshot = await _snapshot(call)
    found = await call.context.volumes.changes(
        snapshot.volume,
        snapshot.node,
        since=call.args.get("Since", -1),
        first_chunk=call.args.get("FirstChunk", 0),
        chunks=call.args.get("Chunks", 64),
    )
    return {"Changes": " ".join(f"{block}+{blocks}{'' if data else 'z'}" for block, blocks, data in found)}


@action(YUNTAI, "RegisterDisk", "VolumeId! DiskName Description", "DiskId", operator=True)
async def register_disk(call: Call) -> dict[str, Any]:
    """Make a disk of a volume that an operator has filled; the same volume gives the same disk."""
    found = await call.context.reads.get(Volume, call.text("VolumeId"))
    if found is None:
        raise errors.not_found("volume", call.text("VolumeId"), "InvalidVolumeId.NotFound")
    await call.context.volumes.keep(found.value.id, 0)
    disk_id = await adopted.register_disk(
        call.context.writes,
        call.caller,
        volume=found.value.id,
        size_bytes=found.value.size_bytes,
        name=call.text("DiskName"),
        description=call.text("Description"),
    )
    return {"DiskId": disk_id}
