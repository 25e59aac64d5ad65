"""``yuntai image …``: import works on the file here and on a volume's socket; everything else is the API."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

import yuntai.image as files
from yuntai.cli.client import ECS, Api, CliError
from yuntai.cli.keeping import kept
from yuntai.cli.local import local_path
from yuntai.cli.output import Format, Output, err, made, one, rows

app = typer.Typer(no_args_is_help=True, help="bootable images")

GIB = 1 << 30
Host = Annotated[str, typer.Option("--host", help="the host whose gateway does the work")]


def _find(api: Api, identifier: str) -> dict[str, object]:
    for found in api.every(ECS, "DescribeImages", "Images", "Image", Status="Creating,Available"):
        if identifier in (found["ImageId"], found["ImageName"]):
            return found
    raise CliError(f"there is no image {identifier!r}; `yuntai image list` shows all")


@app.command("list")
def list_(output: Output = Format.table) -> None:
    """List images."""
    rows(
        Api().every(ECS, "DescribeImages", "Images", "Image", Status="Creating,Available"),
        {
            "ID": lambda i: i["ImageId"],
            "NAME": lambda i: i["ImageName"],
            "STATUS": lambda i: i["Status"],
            "SIZE": lambda i: f"{i['Size']} GiB",
            "OS": lambda i: i["OSName"],
            "OWNER": lambda i: i["ImageOwnerAlias"],
            "CREATED": lambda i: i["CreationTime"],
        },
        output,
    )


@app.command()
def show(image: Annotated[str, typer.Argument(help="image id or name")], output: Output = Format.table) -> None:
    """Show one image."""
    one(_find(Api(), image), output)


@app.command()
def delete(image: Annotated[str, typer.Argument(help="image id or name")]) -> None:
    """Delete an image of one's own; disks made from it that still need it refuse."""
    api = Api()
    api.ecs("DeleteImage", ImageId=_find(api, image)["ImageId"])


@app.command()
def create(
    name: str,
    snapshot: Annotated[str, typer.Option(help="of this snapshot of a system disk")] = "",
    instance: Annotated[str, typer.Option(help="of this instance's system disk, as it is now")] = "",
    output: Output = Format.table,
) -> None:
    """Make an image of a snapshot or of an instance; nothing is copied."""
    answer = Api().ecs("CreateImage", ImageName=name, SnapshotId=snapshot, InstanceId=instance)
    made({"ImageId": answer["ImageId"]}, answer["ImageId"], output)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a raw or qcow2 image")],
    name: Annotated[str, typer.Option(help="the image's name (default: the file's)")] = "",
    os_name: Annotated[str, typer.Option("--os", help="what it holds, for people")] = "",
    host: Host = "h1",
    output: Output = Format.table,
) -> None:
    """Import an image file: checked, replicated three times, and then the source of disks that copy nothing."""
    image_id = import_file(Api(), file, name or file.stem, os_name, host)
    made({"ImageId": image_id}, image_id, output)


def import_file(api: Api, file: Path, name: str, os_name: str, host: str) -> str:
    """Import ``file`` through the gateway of ``host`` and return the image's id; nothing is left of a failed one."""
    try:
        with _progress() as progress:
            return _import(api, progress, file, name, os_name, host)
    except files.ImageError as error:
        raise CliError(str(error)) from error


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True)


def _import(api: Api, progress: Progress, file: Path, name: str, os_name: str, host: str) -> str:
    image = files.inspect(file)
    reading = progress.add_task("checksum", total=image.file_bytes)
    checksum = files.checksum(file, lambda done, whole: progress.update(reading, completed=done, total=whole))
    size_gib = -(-image.size_bytes // GIB)
    volume_id = str(api.operator("CreateVolume", SizeBytes=size_gib * GIB, Auxiliary=True)["VolumeId"])
    try:
        with kept(api, volume_id):
            opened = api.operator("AttachVolume", VolumeId=volume_id, HostId=host)
            writing = progress.add_task("import", total=image.size_bytes)
            socket = local_path(host, opened["Socket"])

            def written(done: int, whole: int) -> None:
                progress.update(writing, completed=done, total=whole)

            files.write(file, image, socket, volume_id, written)
            answer = api.operator(
                "RegisterImage", VolumeId=volume_id, ImageName=name, OsName=os_name, Checksum=checksum, SizeGib=size_gib
            )
    except BaseException:
        _give_up(api, volume_id, host)
        raise
    api.operator("DetachVolume", VolumeId=volume_id, HostId=host)
    return str(answer["ImageId"])


def _give_up(api: Api, volume_id: str, host: str) -> None:
    """Remove the volume of a failed import; what cannot be removed is named, as nobody else will remove it."""
    try:
        api.operator("DetachVolume", VolumeId=volume_id, HostId=host)
        api.operator("DeleteVolume", VolumeId=volume_id)
    except CliError as error:
        err.print(f"volume {volume_id} of the failed import is left: {error}; remove it with `yuntai volume delete`")


@app.command()
def export(
    image: Annotated[str, typer.Argument(help="image id or name")],
    file: Annotated[Path, typer.Argument(help="the qcow2 file to write")],
    host: Host = "h1",
) -> None:
    """Write an image to a qcow2 file."""
    api = Api()
    found = _find(api, image)
    answer = api.operator("OpenImage", ImageId=found["ImageId"], HostId=host)
    began = time.monotonic()
    try:
        with _progress() as progress:
            task = progress.add_task("export", total=None)
            socket = local_path(host, answer["Socket"])
            files.export(
                socket,
                answer["Export"],
                file,
                lambda done, whole: progress.update(task, completed=done, total=whole),
            )
    except files.ImageError as error:
        raise CliError(str(error)) from error
    finally:
        api.operator("CloseImage", ImageId=found["ImageId"], HostId=host)
    err.print(f"{file}: {file.stat().st_size >> 20} MiB in {time.monotonic() - began:.0f} s")
