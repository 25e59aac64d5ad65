"""``yuntai status|job|pipe``: the cloud itself."""

from __future__ import annotations

import json
import subprocess
from typing import Annotated

import msgspec
import typer

from yuntai.cli import ssh
from yuntai.cli.client import YUNTAI, Api, CliError
from yuntai.cli.output import Format, Output, out, rows
from yuntai.lab.layout import Home, default_home
from yuntai.lab.status import HostStatus, report

job = typer.Typer(no_args_is_help=True, help="what the control plane does and did (operator)")


def _uptime(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def status(output: Output = Format.table) -> None:
    """Show every process of the cloud on this machine, and what is wrong."""
    home = Home(default_home())
    names = sorted(folder.name for folder in home.hosts.glob("*")) if home.hosts.exists() else []
    found = [one for one in (report(home.root, name) for name in names) if one is not None]
    if not found:
        raise CliError(f"there is no cloud in {home.root}; `make up` makes one")
    if output is Format.json:
        out.print_json(msgspec.json.encode(found).decode())
    else:
        for one in found:
            _print_host(one)
    if not all(one.healthy for one in found):
        raise typer.Exit(1)


def _print_host(one: HostStatus) -> None:
    memory = sum(process.rss_bytes for process in one.processes)
    out.print(f"[bold]{one.name}[/]  {one.state}  {one.address}  up {_uptime(one.uptime_s)}  {memory >> 20} MiB")
    if one.wrong:
        out.print(f"  [red]{one.wrong}[/]")
    rows(
        [msgspec.to_builtins(process) for process in one.processes],
        {
            "PROCESS": lambda p: p["name"],
            "STATE": lambda p: p["state"],
            "PID": lambda p: p["pid"] or "",
            "UP": lambda p: _uptime(p["uptime_s"]),
            "MEMORY": lambda p: f"{p['rss_bytes'] >> 20} MiB",
            "RESTARTS": lambda p: p["restarts"],
            "VERSION": lambda p: p["version"],
            "WRONG": lambda p: p["wrong"],
        },
        Format.table,
    )


@job.command("list")
def job_list(
    state: Annotated[str, typer.Option(help="only those that are queued, running, undoing, done or failed")] = "",
    output: Output = Format.table,
) -> None:
    """List jobs, the newest first."""
    rows(
        Api().every(YUNTAI, "DescribeJobs", "Jobs", "Job", State=state),
        {
            "ID": lambda j: j["JobId"],
            "ACTION": lambda j: j["Action"],
            "RESOURCE": lambda j: j["Resource"],
            "STATE": lambda j: j["State"],
            "STEPS": lambda j: f"{sum(step['Done'] for step in j['Steps'])}/{len(j['Steps'])}",
            "CREATED": lambda j: j["Created"],
            "ERROR": lambda j: j["Error"],
        },
        output,
    )


def health(output: Output = Format.table) -> None:
    """Say what is wrong with the cloud, as the control plane sees it."""
    answer = Api().operator("DescribeHealth")
    if output is Format.json:
        out.print_json(json.dumps(answer))
    else:
        for check in answer["Checks"]:
            out.print(f"{check['Name']}: {'well' if check['Healthy'] else check['Detail']}")
    if not answer["Healthy"]:
        raise typer.Exit(1)


def pipe(instance: str, vswitch: str, address: str, port: str) -> None:
    """Join standard input and output with a guest's port (for ssh's ProxyCommand)."""
    raise typer.Exit(
        subprocess.run(ssh.pipe_command(ssh.host_of(instance), vswitch, address, port), check=False).returncode
    )
