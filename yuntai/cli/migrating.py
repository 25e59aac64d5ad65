"""``yuntai instance migrate`` and ``cancel-migration`` (operator)."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from yuntai.cli.client import Api, CliError
from yuntai.cli.output import Format, Output, Timeout, Wait, err, made

POLL_S = 0.5
Instance = Annotated[str, typer.Argument(metavar="INSTANCE", help="the instance's id, i-…, of any account")]


def migrate(
    instance: Instance,
    to: Annotated[str, typer.Option(help="the host it is to go to; the best one if none is named")] = "",
    post_copy: Annotated[
        bool,
        typer.Option(
            "--post-copy",
            help="if its memory changes too fast for everything else: let it run at the destination before all of its "
            "memory is there. If either host is lost meanwhile, the guest is started anew",
        ),
    ] = False,
    wait: Wait = False,
    timeout: Timeout = 1000,
    output: Output = Format.table,
) -> None:
    """Move a running instance to another host without stopping it."""
    api = Api()
    asked: dict[str, Any] = {"InstanceId": instance}
    if to:
        asked["HostId"] = to
    if post_copy:
        asked["PostCopy"] = True
    job = str(api.operator("MigrateInstance", **asked)["JobId"])
    if not wait:
        made({"InstanceId": instance, "JobId": job}, job, output)
        return
    ended = _follow(api, instance, job, timeout)
    made(ended, f"{instance} runs on {ended['Host']}", output)


def cancel(instance: Instance) -> None:
    """End the migration of an instance; it goes on where it is."""
    Api().operator("CancelMigration", InstanceId=instance)


def _follow(api: Api, instance: str, job: str, timeout_s: float) -> dict[str, Any]:
    """Show a bar until the job has ended; raise :class:`CliError` if it failed."""
    deadline = time.monotonic() + timeout_s
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[more]}"), console=err, transient=True) as progress:
        bar = progress.add_task(instance, total=None, more="")
        while True:
            found = dict(api.operator("DescribeMigration", InstanceId=instance, JobId=job))
            if found["JobState"] == "done":
                return found
            if found["JobState"] == "failed":
                raise CliError(f"{instance} was not migrated and runs on {found['Host']}: {found['Error']}")
            if time.monotonic() > deadline:
                raise CliError(f"{instance} is still being migrated after {timeout_s:g} s; it goes on: look again")
            now = found["Migration"]
            if now["JobId"]:
                sent, left = int(now["TransferredBytes"]), int(now["RemainingBytes"])
                progress.update(
                    bar, completed=sent, total=(sent + left) or None, description=_where(now), more=_more(now)
                )
            time.sleep(POLL_S)


def _where(now: dict[str, Any]) -> str:
    return f"{now['Source']} → {now['Destination']} {now['State']}"


def _more(now: dict[str, Any]) -> str:
    eta = f"{now['EtaSeconds']:.0f} s left" if now["EtaSeconds"] >= 0 else ""
    dirty = f"dirties {int(now['DirtyBytesPerSecond']) / 1e6:.0f} MB/s" if now["DirtyBytesPerSecond"] else ""
    stage = f"{now['Stage']} {now['ThrottlePercent']} %" if now["ThrottlePercent"] else now["Stage"]
    return " ".join(part for part in (eta, dirty, stage, now["WaitsFor"]) if part)
