"""``yuntai disk|volume|chunkserver …``."""

from __future__ import annotations

from typing import Annotated

import typer

from yuntai.cli import instances
from yuntai.cli.client import ECS, YUNTAI, Api, CliError
from yuntai.cli.local import local_pid, local_uri
from yuntai.cli.output import Format, Output, Timeout, Wait, gib, made, one, rows, wait_for

disk = typer.Typer(no_args_is_help=True, help="elastic disks")
volume = typer.Typer(no_args_is_help=True, help="volumes of the block store, below disks (operator)")
chunkserver = typer.Typer(no_args_is_help=True, help="chunk servers of the block store (operator)")

DiskId = Annotated[str, typer.Argument(metavar="DISK", help="the disk's id, d-…")]
VolumeId = Annotated[str, typer.Argument(metavar="VOLUME", help="the volume's id, vol-…")]
HostId = Annotated[str, typer.Option("--host", help="the host")]
GIB = 1 << 30


def _disk_status(api: Api, disk_id: str) -> str:
    found = list(api.every(ECS, "DescribeDisks", "Disks", "Disk", DiskIds=f'["{disk_id}"]'))
    return found[0]["Status"] if found else ""


def _settle_disk(api: Api, disk_id: str, wanted: str, wait: bool, timeout_s: float) -> None:
    if wait:
        wait_for(disk_id, lambda: _disk_status(api, disk_id), wanted, timeout_s)


@disk.command("list")
def disk_list(output: Output = Format.table) -> None:
    """List disks."""
    rows(
        Api().every(ECS, "DescribeDisks", "Disks", "Disk"),
        {
            "ID": lambda d: d["DiskId"],
            "NAME": lambda d: d["DiskName"],
            "STATUS": lambda d: d["Status"],
            "SIZE": lambda d: f"{d['Size']} GiB",
            "KIND": lambda d: d["Type"],
            "INSTANCE": lambda d: d["InstanceId"],
            "DEVICE": lambda d: d["Device"],
        },
        output,
    )


@disk.command("show")
def disk_show(disk_id: DiskId, output: Output = Format.table) -> None:
    """Show one disk."""
    found = list(Api().every(ECS, "DescribeDisks", "Disks", "Disk", DiskIds=f'["{disk_id}"]'))
    if not found:
        raise CliError(f"there is no disk {disk_id!r}; `yuntai disk list` shows all")
    one(found[0], output)


@disk.command("create")
def disk_create(
    size: Annotated[int | None, typer.Option(help="GiB", min=1)] = None,
    from_snapshot: Annotated[str, typer.Option("--snapshot", help="make it from this snapshot, without copying")] = "",
    name: Annotated[str, typer.Option(help="name")] = "",
    client_token: Annotated[str, typer.Option(help="makes a repeated call create nothing more")] = "",
    wait: Wait = False,
    timeout: Timeout = 60,
    output: Output = Format.table,
) -> None:
    """Create a disk, empty or from a snapshot."""
    api = Api()
    zone = api.ecs("DescribeZones")["Zones"]["Zone"][0]["ZoneId"]
    answer = api.ecs(
        "CreateDisk", ZoneId=zone, Size=size, SnapshotId=from_snapshot, DiskName=name, ClientToken=client_token
    )
    _settle_disk(api, answer["DiskId"], "Available", wait, timeout)
    made({"DiskId": answer["DiskId"]}, answer["DiskId"], output)


@disk.command("delete")
def disk_delete(disk_id: DiskId, wait: Wait = False, timeout: Timeout = 60) -> None:
    """Release a disk that no instance uses."""
    api = Api()
    api.ecs("DeleteDisk", DiskId=disk_id)
    _settle_disk(api, disk_id, "", wait, timeout)


@disk.command("attach")
def disk_attach(disk_id: DiskId, instance: instances.Id, wait: Wait = False, timeout: Timeout = 60) -> None:
    """Attach a disk to an instance, running or stopped."""
    api = Api()
    api.ecs("AttachDisk", DiskId=disk_id, InstanceId=instances.find(api, instance)["InstanceId"])
    _settle_disk(api, disk_id, "In_use", wait, timeout)


@disk.command("detach")
def disk_detach(disk_id: DiskId, instance: instances.Id, wait: Wait = False, timeout: Timeout = 60) -> None:
    """Detach a disk from its instance."""
    api = Api()
    api.ecs("DetachDisk", DiskId=disk_id, InstanceId=instances.find(api, instance)["InstanceId"])
    _settle_disk(api, disk_id, "Available", wait, timeout)


@disk.command("reset")
def disk_reset(
    disk_id: DiskId,
    from_snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="a snapshot of this disk, s-…")],
    wait: Wait = False,
    timeout: Timeout = 60,
) -> None:
    """Roll a disk back to one of its snapshots; its instance must be stopped."""
    api = Api()
    api.ecs("ResetDisk", DiskId=disk_id, SnapshotId=from_snapshot)
    settle_restored(api, disk_id, wait, timeout)


@disk.command("reinit")
def disk_reinit(
    disk_id: DiskId,
    key_pair: Annotated[str, typer.Option("--key", help="of a system disk: who may log in afterwards")] = "",
    password: Annotated[str, typer.Option(help="of a system disk: root's new password")] = "",
    start: Annotated[bool, typer.Option("--start", help="start the instance when it is done")] = False,
    wait: Wait = False,
    timeout: Timeout = 60,
) -> None:
    """Make a disk what it was when it was new: its image, its snapshot, or empty; its instance must be stopped."""
    api = Api()
    api.ecs("ReInitDisk", DiskId=disk_id, KeyPairName=key_pair, Password=password, AutoStartInstance=start)
    settle_restored(api, disk_id, wait, timeout)


def settle_restored(api: Api, disk_id: str, wait: bool, timeout_s: float) -> None:
    """Wait until a disk has its new contents."""
    if wait:
        wait_for(
            disk_id,
            lambda: "ready" if _disk_status(api, disk_id) in ("Available", "In_use") else "ReIniting",
            "ready",
            timeout_s,
        )


@disk.command("resize")
def disk_resize(disk_id: DiskId, size: Annotated[int, typer.Argument(help="new size in GiB", min=1)]) -> None:
    """Make a disk larger."""
    Api().ecs("ResizeDisk", DiskId=disk_id, NewSize=size, Type="online")


@volume.command("list")
def volume_list(output: Output = Format.table) -> None:
    """List volumes, those of disks and images too."""
    rows(
        Api().every(YUNTAI, "DescribeVolumes", "Volumes", "Volume"),
        {
            "ID": lambda v: v["VolumeId"],
            "STATE": lambda v: v["State"],
            "SIZE": lambda v: gib(v["SizeBytes"]),
            "HOST": lambda v: v["Host"],
            "GENERATION": lambda v: v["Generation"],
            "SNAPSHOTS": lambda v: v["SnapshotCount"],
            "SOURCE": lambda v: v["SourceVolume"],
            "STALE": lambda v: ", ".join(f"cs-{s['ChunkServer']}" for s in v["Stale"]),
        },
        output,
    )


@volume.command("show")
def volume_show(volume_id: VolumeId, output: Output = Format.table) -> None:
    """Show one volume."""
    found = list(Api().every(YUNTAI, "DescribeVolumes", "Volumes", "Volume", VolumeId=[volume_id]))
    if not found:
        raise CliError(f"there is no volume {volume_id!r}; `yuntai volume list` shows all")
    one(found[0], output)


@volume.command("create")
def volume_create(
    size: Annotated[float, typer.Argument(help="GiB", min=0.001)],
    client_token: Annotated[str, typer.Option(help="makes a repeated call create nothing more")] = "",
    output: Output = Format.table,
) -> None:
    """Create an empty volume."""
    size_bytes = int(size * GIB) // 4096 * 4096
    answer = Api().operator("CreateVolume", SizeBytes=size_bytes, ClientToken=client_token)
    made({"VolumeId": answer["VolumeId"]}, answer["VolumeId"], output)


@volume.command("resize")
def volume_resize(volume_id: VolumeId, size: Annotated[float, typer.Argument(help="new size in GiB")]) -> None:
    """Make a volume larger."""
    Api().operator("ResizeVolume", VolumeId=volume_id, SizeBytes=int(size * GIB) // 4096 * 4096)


@volume.command("delete")
def volume_delete(volume_id: VolumeId) -> None:
    """Delete a volume that nothing uses."""
    Api().operator("DeleteVolume", VolumeId=volume_id)


@volume.command("connect")
def volume_connect(
    volume_id: VolumeId,
    host: HostId = "h1",
    read_only: Annotated[bool, typer.Option("--read-only", help="refuse writes")] = False,
    output: Output = Format.table,
) -> None:
    """Open a volume on a host and print its NBD URI, for qemu-io, nbdcopy, fio."""
    answer = Api().operator("AttachVolume", VolumeId=volume_id, HostId=host, ReadOnly=read_only)
    uri = local_uri(host, answer["Uri"])
    made({"Uri": uri, "Generation": answer["Generation"], "Host": host}, uri, output)


@volume.command("disconnect")
def volume_disconnect(volume_id: VolumeId, host: HostId = "h1") -> None:
    """Close a volume on a host."""
    Api().operator("DetachVolume", VolumeId=volume_id, HostId=host)


@chunkserver.command("list")
def chunkserver_list(output: Output = Format.table) -> None:
    """List chunk servers with their space and state."""
    listed = (
        {
            "id": server["ChunkServerId"],
            "rack": server["Rack"],
            "address": server["Address"],
            "pid": local_pid(server["Host"], server["Pid"]),
            "state": server["State"],
            "used_bytes": server["UsedBytes"],
            "free_bytes": server["FreeBytes"],
            "replicas": server["Replicas"],
            "host": server["Host"],
            "seen": server["Seen"],
        }
        for server in Api().every(YUNTAI, "DescribeChunkServers", "ChunkServers", "ChunkServer")
    )
    rows(
        listed,
        {
            "ID": lambda s: s["id"],
            "RACK": lambda s: s["rack"],
            "ADDRESS": lambda s: s["address"],
            "PID": lambda s: s["pid"],
            "STATE": lambda s: s["state"],
            "USED": lambda s: gib(s["used_bytes"]),
            "FREE": lambda s: gib(s["free_bytes"]),
            "REPLICAS": lambda s: s["replicas"],
        },
        output,
    )
