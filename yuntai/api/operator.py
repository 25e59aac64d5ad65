"""The operator's own product: chunk servers, volumes, health, jobs; and for tenants why an instance is as it is.

Volumes are asked of the Pangu master, everything else is read from the records.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from yuntai.api.errors import invalid_parameter
from yuntai.api.operator_rows import chosen, paged_rows
from yuntai.api.registry import PAGES, YUNTAI, Call, action
from yuntai.control.requests import instances
from yuntai.model.cluster import ChunkServer, Host, Job, Volume
from yuntai.pangu.auxiliary import KEEP_S

GIB = 1 << 30
_SERVER = (
    "Address ChunkServerId FreeBytes:i Host Number:i Pid:i Rack Replicas:i Seen State TotalBytes:i UsedBytes:i Version"
)
_VOLUME = """
    Created Generation:i Head:i Host HydratedChunks:i Layers:i ReadOnly:b SizeBytes:i SnapshotCount:i SourceNode:i
    SourceVolume Stale[]{ChunkServer:i Reason} State VolumeId
"""
_JOB = "Action Account Attempts:i Created Error JobId Request Resource State Steps[]{Done:b Name} Updated"


@action(
    YUNTAI,
    "DescribeChunkServers",
    f"ChunkServerId[]{PAGES}",
    f"ChunkServers{{ChunkServer[]{{{_SERVER}}}}} PageNumber:i PageSize:i TotalCount:i",
    operator=True,
)
async def describe_chunk_servers(call: Call) -> dict[str, Any]:
    """List chunk servers with their space."""
    rows = (
        {
            "Address": server.address,
            "ChunkServerId": server.id,
            "FreeBytes": server.free_bytes,
            "Host": server.host,
            "Number": server.number,
            "Pid": server.pid,
            "Rack": server.rack,
            "Replicas": server.replicas,
            "Seen": server.seen,
            "State": server.state,
            "TotalBytes": server.total_bytes,
            "UsedBytes": server.used_bytes,
            "Version": server.version,
        }
        for server in (one.value for one in await call.context.reads.list(ChunkServer))
    )
    wanted = chosen(rows, "ChunkServerId", call.texts("ChunkServerId"))
    return paged_rows(call, "ChunkServers", "ChunkServer", wanted)


def _volume(volume: Volume) -> dict[str, Any]:
    source = volume.source
    return {
        "Created": volume.created,
        "Generation": volume.generation,
        "Head": volume.head,
        "Host": volume.host,
        "HydratedChunks": volume.hydrated_chunks,
        "Layers": len(volume.parents),
        "ReadOnly": volume.read_only,
        "SizeBytes": volume.size_bytes,
        "SnapshotCount": len(volume.snapshots),
        "SourceNode": source.node if source is not None else 0,
        "SourceVolume": source.volume if source is not None else "",
        "Stale": [{"ChunkServer": int(number), "Reason": reason} for number, reason in sorted(volume.stale.items())],
        "State": volume.state,
        "VolumeId": volume.id,
    }


@action(
    YUNTAI,
    "DescribeVolumes",
    f"VolumeId[]{PAGES}",
    f"PageNumber:i PageSize:i TotalCount:i Volumes{{Volume[]{{{_VOLUME}}}}}",
    operator=True,
)
async def describe_volumes(call: Call) -> dict[str, Any]:
    """List volumes, those of disks and images too."""
    rows = (_volume(one.value) for one in await call.context.reads.list(Volume))
    return paged_rows(call, "Volumes", "Volume", chosen(rows, "VolumeId", call.texts("VolumeId")))


def _size_bytes(call: Call) -> int:
    """Return the size in bytes: GiB are what a person gives, bytes what a program may."""
    size = int(call.args.get("SizeBytes") or call.args.get("SizeGib", 0) * GIB)
    if size <= 0:
        raise invalid_parameter("SizeGib", "give a size in SizeGib, or in SizeBytes, above 0")
    return size


@action(YUNTAI, "CreateVolume", "SizeGib:i SizeBytes:i ClientToken Auxiliary:b", "VolumeId", operator=True)
async def create_volume(call: Call) -> dict[str, Any]:
    """Create an empty volume that is no tenant's disk.

    An auxiliary one is deleted when nobody says KeepVolume for some minutes, until it is registered as disk or image.
    """
    keep_s = KEEP_S if call.args.get("Auxiliary", False) else 0
    made = await call.context.volumes.create_volume(
        _size_bytes(call), client_token=call.text("ClientToken"), keep_s=keep_s
    )
    return {"VolumeId": made.id}


@action(YUNTAI, "DeleteVolume", "VolumeId!", operator=True)
async def delete_volume(call: Call) -> dict[str, Any]:
    """Delete a volume that nothing has open."""
    await call.context.volumes.delete_volume(call.text("VolumeId"))
    return {}


@action(YUNTAI, "ResizeVolume", "VolumeId! SizeGib:i SizeBytes:i", operator=True)
async def resize_volume(call: Call) -> dict[str, Any]:
    """Make a volume larger."""
    await call.context.volumes.resize(call.text("VolumeId"), _size_bytes(call))
    return {}


@action(YUNTAI, "AttachVolume", "VolumeId! HostId! ReadOnly:b", "Generation:i Socket Uri VolumeId", operator=True)
async def attach_volume(call: Call) -> dict[str, Any]:
    """Connect a volume to a host: it becomes an NBD socket there."""
    opened = await call.context.volumes.attach(
        call.text("VolumeId"), call.text("HostId"), read_only=call.args.get("ReadOnly", False)
    )
    return {
        "Generation": opened.generation,
        "Socket": opened.socket,
        "Uri": opened.uri,
        "VolumeId": call.text("VolumeId"),
    }


@action(YUNTAI, "DetachVolume", "VolumeId! HostId!", operator=True)
async def detach_volume(call: Call) -> dict[str, Any]:
    """Close a volume's NBD socket on a host."""
    await call.context.volumes.detach(call.text("VolumeId"), call.text("HostId"))
    return {}


@action(YUNTAI, "DescribeHealth", "", "Healthy:b Checks[]{Detail Healthy:b Name}", operator=True)
async def describe_health(call: Call) -> dict[str, Any]:
    """Say what is wrong with the cloud, if anything is."""
    checks = [
        _check("hosts", (f"{h.id} is {h.status}" for h in await _all(call, Host) if h.status != "up")),
        _check("chunk servers", (f"{s.id} is {s.state}" for s in await _all(call, ChunkServer) if s.state != "up")),
        _check(
            "volumes",
            (f"{v.id} has no current replica on {', '.join(v.stale)}" for v in await _all(call, Volume) if v.stale),
        ),
        _check(
            "jobs",
            (
                f"{j.id} ({j.action} {j.resource}) failed: {j.error}"
                for j in await _all(call, Job)
                if j.state == "failed"
            ),
        ),
    ]
    return {"Checks": checks, "Healthy": all(check["Healthy"] for check in checks)}


def _check(name: str, wrong: Iterable[str]) -> dict[str, Any]:
    found = list(wrong)
    return {"Detail": "; ".join(found[:20]), "Healthy": not found, "Name": name}


async def _all(call: Call, kind: type[Any]) -> list[Any]:
    return [one.value for one in await call.context.reads.list(kind)]


@action(
    YUNTAI,
    "DescribeJobs",
    f"JobId[] State Resource{PAGES}",
    f"Jobs{{Job[]{{{_JOB}}}}} PageNumber:i PageSize:i TotalCount:i",
    operator=True,
)
async def describe_jobs(call: Call) -> dict[str, Any]:
    """List the jobs of the control plane, the newest first."""
    jobs = sorted(await _all(call, Job), key=lambda job: (job.created, job.id), reverse=True)
    rows = [
        {
            "Account": job.account,
            "Action": job.action,
            "Attempts": job.attempts,
            "Created": job.created,
            "Error": job.error,
            "JobId": job.id,
            "Request": job.request_id,
            "Resource": job.resource,
            "State": job.state,
            "Steps": [{"Done": step.done, "Name": step.name} for step in job.steps],
            "Updated": job.updated,
        }
        for job in jobs
        if call.text("State") in ("", job.state) and call.text("Resource") in ("", job.resource)
    ]
    return paged_rows(call, "Jobs", "Job", chosen(rows, "JobId", call.texts("JobId")))


@action(
    YUNTAI,
    "DescribeInstanceState",
    "InstanceId!",
    "Accelerator BootCount:i Desired Error Host InstanceId Observed Reason Since Status",
)
async def describe_instance_state(call: Call) -> dict[str, Any]:
    """Say why an instance is where it is; for its tenant, who sees the host only as an operator."""
    detail = await instances.get_instance(call.context.reads, call.caller, call.text("InstanceId"))
    instance, observed = detail.instance, detail.observed
    out: dict[str, Any] = {
        "Desired": instance.desired,
        "Host": instance.host if call.key.operator else "",
        "InstanceId": instance.id,
        "Reason": instance.reason,
        "Status": instance.status,
    }
    if observed is not None:
        out |= {
            "Accelerator": observed.accelerator,
            "BootCount": observed.boot_seq,
            "Error": observed.error,
            "Observed": observed.state,
            "Since": observed.since,
        }
    return out
