"""``yuntai snapshot export|import|archive …``: the bytes go from the volume's socket here to the object store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from yuntai import archive
from yuntai.archive.errors import ArchiveError, Damage, NoBaseError
from yuntai.archive.export import About, Change
from yuntai.archive.frozen import Frozen, parse_changes
from yuntai.archive.nbd import NbdClient
from yuntai.archive.repository import Repository
from yuntai.archive.restore import find
from yuntai.cli.client import Api, ApiRefusedError, CliError
from yuntai.cli.keeping import kept
from yuntai.cli.local import local_path
from yuntai.cli.output import Format, Output, err, gib, made, rows

app = typer.Typer(no_args_is_help=True, help="snapshots in an object store or a folder")

GIB = 1 << 30
REGION_CHUNKS = 64
CONFLICT = 409
Url = Annotated[str, typer.Argument(metavar="URL", help="file:///folder, or s3://bucket/prefix with AWS_… set")]
SnapshotId = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="the snapshot's id, s-…")]
Host = Annotated[str, typer.Option("--host", help="the host whose gateway does the work")]

T = TypeVar("T")


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except ArchiveError as error:
        raise CliError(str(error)) from error


@contextmanager
def _progress(what: str, *, is_bytes: bool = True) -> Iterator[Callable[[int, int], None]]:
    counted = DownloadColumn(binary_units=True) if is_bytes else TaskProgressColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, whole: shown.update(task, completed=done, total=whole)


def export(
    snapshot: SnapshotId,
    url: Url,
    again: Annotated[
        bool, typer.Option("--again", help="trust nothing that is there; heals a damaged archive")
    ] = False,
    host: Host = "h1",
    output: Output = Format.table,
) -> None:
    """Write a snapshot to an archive: only what has changed since one of the same disk that is there."""
    api, repository = Api(), Repository.open(url)
    opened = api.operator("OpenSnapshot", SnapshotId=snapshot, HostId=host)
    try:
        with _progress("export") as progress:
            manifest = _run(_export(api, repository, opened, host, again, progress))
    finally:
        _discard(api, opened["CloneId"], host)
    base = f" since {manifest.parent}" if manifest.parent else ""
    text = f"{snapshot}: {manifest.written_bytes >> 20} MiB changed{base}, {manifest.stored_bytes >> 20} MiB stored"
    made({"Snapshot": snapshot, **_row(manifest)}, text, output)


async def _export(
    api: Api,
    repository: Repository,
    opened: dict[str, Any],
    host: str,
    again: bool,
    progress: Callable[[int, int], None],
) -> archive.Manifest:
    about = About(
        snapshot=opened["SnapshotId"],
        volume=opened["VolumeId"],
        node=opened["Node"],
        size_bytes=opened["SizeBytes"],
        name=opened["SnapshotName"],
        disk=opened["DiskId"],
        kind=opened["DiskKind"],
        taken=opened["CreationTime"],
    )

    async def ask(since: int | None, region: int) -> Sequence[Change]:
        asked = {"Since": -1 if since is None else since, "FirstChunk": region * REGION_CHUNKS, "Chunks": REGION_CHUNKS}
        try:
            answer = await asyncio.to_thread(
                lambda: api.operator("DescribeSnapshotChanges", SnapshotId=about.snapshot, **asked)
            )
        except ApiRefusedError as error:
            if since is not None and error.status == CONFLICT:
                raise NoBaseError from error
            raise
        return parse_changes(answer["Changes"])

    with kept(api, opened["CloneId"]):
        async with await NbdClient.connect(local_path(host, opened["Socket"]), opened["Export"]) as nbd:
            return await archive.export(repository, Frozen(nbd, ask), about, again=again, progress=progress)


def import_(
    url: Url,
    snapshot: Annotated[str, typer.Option(help="its id or name in the archive (default: the newest)")] = "",
    name: Annotated[str, typer.Option(help="the new disk's name")] = "",
    image: Annotated[str, typer.Option(help="make an image with this name instead of a disk")] = "",
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="zeros for what is damaged, not failure")
    ] = False,
    host: Host = "h1",
    output: Output = Format.table,
) -> None:
    """Make a disk of a snapshot in an archive, every object of it checked."""
    api, repository = Api(), Repository.open(url)
    manifest = _run(find(repository, snapshot))
    size_gib = -(-manifest.size_bytes // GIB)
    volume_id = str(api.operator("CreateVolume", SizeBytes=size_gib * GIB, Auxiliary=True)["VolumeId"])
    try:
        with kept(api, volume_id):
            opened = api.operator("AttachVolume", VolumeId=volume_id, HostId=host)
            with _progress("import") as progress:
                socket = local_path(host, opened["Socket"])
                damages = _run(_restore(repository, manifest, socket, volume_id, skip_damaged, progress))
            api.operator("DetachVolume", VolumeId=volume_id, HostId=host)
            if image:
                answer = api.operator("RegisterImage", VolumeId=volume_id, ImageName=image, SizeGib=size_gib)
            else:
                description = f"snapshot {manifest.snapshot} of {manifest.disk or manifest.volume}, {manifest.taken}"
                answer = api.operator(
                    "RegisterDisk", VolumeId=volume_id, DiskName=name or manifest.name, Description=description
                )
    except BaseException:
        _discard(api, volume_id, host)
        raise
    _tell(damages)
    made_id = answer["ImageId"] if image else answer["DiskId"]
    made({"Snapshot": manifest.snapshot, **answer, "Damaged": [str(one) for one in damages]}, made_id, output)


async def _restore(
    repository: Repository,
    manifest: archive.Manifest,
    socket: str,
    volume_id: str,
    skip_damaged: bool,
    progress: Callable[[int, int], None],
) -> list[Damage]:
    async with await NbdClient.connect(socket, volume_id) as nbd:
        return await archive.restore(repository, manifest, nbd, skip_damaged=skip_damaged, progress=progress)


def _discard(api: Api, volume_id: str, host: str) -> None:
    """Remove a volume of ours; what cannot be removed is named, as nobody else will remove it."""
    try:
        api.operator("DetachVolume", VolumeId=volume_id, HostId=host)
        api.operator("DeleteVolume", VolumeId=volume_id)
    except CliError as error:
        err.print(f"volume {volume_id} is left: {error}; remove it with `yuntai volume disconnect` and `delete`")


def _tell(damages: Sequence[Damage]) -> None:
    for damage in damages:
        err.print(f"damaged: {damage}", style="red")


def _row(manifest: archive.Manifest) -> dict[str, Any]:
    return {
        "Name": manifest.name,
        "Disk": manifest.disk,
        "SizeBytes": manifest.size_bytes,
        "Taken": manifest.taken,
        "Exported": manifest.exported,
        "Parent": manifest.parent,
        "WrittenBytes": manifest.written_bytes,
        "StoredBytes": manifest.stored_bytes,
        "State": "ok",
    }


@app.command("list")
def list_(url: Url, output: Output = Format.table) -> None:
    """List the snapshots in an archive."""
    there, bad = _run(Repository.open(url).manifests())
    listed = [{"Snapshot": one.snapshot, **_row(one)} for one in there]
    listed += [{"Snapshot": one.snapshot, "State": one.reason} for one in bad]
    rows(
        listed,
        {
            "ID": lambda s: s["Snapshot"],
            "NAME": lambda s: s.get("Name", ""),
            "DISK": lambda s: s.get("Disk", ""),
            "SIZE": lambda s: gib(s.get("SizeBytes", 0)),
            "TAKEN": lambda s: s.get("Taken", ""),
            "SINCE": lambda s: s.get("Parent", ""),
            "CHANGED": lambda s: gib(s.get("WrittenBytes", 0)),
            "STORED": lambda s: gib(s.get("StoredBytes", 0)),
            "STATE": lambda s: s["State"],
        },
        output,
    )


@app.command()
def verify(
    url: Url,
    snapshot: Annotated[str, typer.Option(help="only this one")] = "",
    output: Output = Format.table,
) -> None:
    """Read every object that the snapshots stand on, and name what is missing or damaged."""
    repository = Repository.open(url)
    there, bad = _run(repository.manifests())
    chosen = [_run(find(repository, snapshot))] if snapshot else there
    with _progress("verify", is_bytes=False) as progress:
        damages = _run(archive.verify(repository, chosen, progress=progress))
    _tell(damages)
    wrong = [one for one in bad if snapshot in ("", one.snapshot)]
    for broken in wrong:
        err.print(f"damaged: snapshot {broken.snapshot}: {broken.reason}", style="red")
    named = [str(one) for one in damages] + [one.reason for one in wrong]
    made({"Snapshots": len(chosen), "Damaged": named}, f"{len(chosen)} snapshots, {len(named)} damages", output)
    if named:
        raise typer.Exit(1)


@app.command()
def prune(
    url: Url,
    remove: Annotated[list[str] | None, typer.Option(help="forget this snapshot first; may be repeated")] = None,
    keep_hours: Annotated[float, typer.Option(help="leave objects that are younger: an export may need them")] = 24.0,
    output: Output = Format.table,
) -> None:
    """Delete the objects that no snapshot needs."""
    repository = Repository.open(url)
    with _progress("look", is_bytes=False) as progress:
        done = _run(
            archive.prune(repository, remove=remove or [], keep_for=timedelta(hours=keep_hours), progress=progress)
        )
    text = f"{done.objects} objects deleted, {done.stored_bytes >> 20} MiB; {done.kept_young} are too young to be"
    made(done._asdict(), text, output)
