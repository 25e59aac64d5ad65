"""``yuntai lab …``: a cloud of several hosts on this machine, and what may befall them. One host is a cloud, too."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from yuntai.cli.client import YUNTAI, Api, ApiRefusedError, CliError, UnreachableError, load_credentials
from yuntai.cli.output import Format, Output, out, rows
from yuntai.lab import cloud, faults, lifecycle
from yuntai.lab.enter import command_inside
from yuntai.lab.fabric import FabricError
from yuntai.lab.keeper import KeeperError
from yuntai.lab.layout import DEFAULT_CLUSTER, REPOSITORY, default_home, wanted_cluster
from yuntai.lab.spec import CONTROL, ClusterSpec, SpecError, load_cluster
from yuntai.lab.status import HostStatus, report, wait_healthy

app = typer.Typer(no_args_is_help=True, help="a cloud of several hosts on this machine (operator)")
host = typer.Typer(no_args_is_help=True, help="what may befall a host: power cut, freeze, cut cables, reset")
app.add_typer(host, name="host")

API_S = 120.0
RESTART_S = 90.0
POLL_S = 0.3
PORTS = 100
Name = Annotated[str, typer.Argument(metavar="HOST", help="h1, h2, …")]


@contextmanager
def _words() -> Iterator[None]:
    """Turn what the lab refuses into what the command line says."""
    try:
        yield
    except (
        cloud.CloudError, faults.FaultError, KeeperError, SpecError, FabricError, TimeoutError, OSError,
    ) as error:  # fmt: skip
        raise CliError(str(error)) from error


def _clock() -> Callable[[str], None]:
    began_s = time.monotonic()
    return lambda text: out.print(f"[{time.monotonic() - began_s:5.1f} s] {text}", markup=False, highlight=False)


@app.command()
def up(
    hosts: Annotated[int | None, typer.Option(help="how many hosts; as before if left out, or 1")] = None,
    racks: Annotated[int | None, typer.Option(help="how many racks they stand in (3)")] = None,
    api_port: Annotated[int | None, typer.Option(help="port on 127.0.0.1 that leads to the API; 0 for none")] = None,
    images: Annotated[Path | None, typer.Option(help="another data folder, whose images and programs are used")] = None,
    timeout: Annotated[float, typer.Option(help="seconds until every process must answer")] = cloud.HEALTHY_S,
) -> None:
    """Start the cloud's hosts, or bring running ones to the present code; from three hosts on any one may die."""
    root, say = default_home(), _clock()
    name = wanted_cluster()
    changes: dict[str, object] = {"racks": racks, "api_port": api_port, "images": _images(root, images)}
    if name:
        changes["name"] = name
    known = load_cluster(root)
    if api_port is None and name not in ("", known.name if known else DEFAULT_CLUSTER):
        changes["api_port"] = _free_port()  # only the machine's default cluster takes the well-known port by itself
    with _words():
        specs = cloud.plan(root, hosts, changes)
        cloud.up(specs, root, say, timeout)
    if specs[0].cluster.api_port:
        _await_hosts(len(specs), say)
        _say_what_next(specs[0].cluster.home(root).guest / "tiny.qcow2", specs[-1].name)


def _free_port() -> int:
    """Return the first port after the well-known one that nothing listens on."""
    for port in range(ClusterSpec().api_port + 1, ClusterSpec().api_port + PORTS):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise CliError(f"none of {PORTS} ports after {ClusterSpec().api_port} is free; give one with --api-port")


def _say_what_next(tiny: Path, last: str) -> None:
    yuntai, home = "bin/yuntai", default_home()
    if home != REPOSITORY / ".yuntai":
        yuntai = f"YUNTAI_HOME={home} {yuntai}"
    out.print(
        f"""
AccessKey        {home / "credentials.json"}

Try next
    {yuntai} lab status ; {yuntai} host list
    {yuntai} image import {tiny}
    {yuntai} instance create --image tiny --type ecs.yt1.nano --name web --wait
    {yuntai} lab host kill {last} ; {yuntai} lab host restart {last} ; {yuntai} lab down""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _images(root: Path, given: Path | None) -> str | None:
    """Return the data folder to take images and programs from: as given, or the checkout's own if ``root`` has none."""
    own = REPOSITORY / ".yuntai"
    if given is None and root != own and not (root / "image").is_dir() and (own / "image").is_dir():
        given = own
    return str(given.absolute()) if given else None


def _await_hosts(count: int, say: Callable[[str], None]) -> None:
    """Wait until the control plane answers and knows every host to be up."""
    api, deadline, why = Api(load_credentials(), timeout_s=10), time.monotonic() + API_S, ""
    while True:
        try:
            found = {one["HostId"]: one["Status"] for one in api.every(YUNTAI, "DescribeHosts", "Hosts", "Host")}
            ready = sorted(name for name, status in found.items() if status == "up")
            if len(ready) >= count:
                say(f"API at {api.credentials.endpoint}: {', '.join(ready)} are up")
                return
            why = f"it knows {', '.join(f'{name} {status}' for name, status in found.items()) or 'no host'}"
        except (UnreachableError, ApiRefusedError) as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise CliError(f"the API does not show {count} hosts up within {API_S:.0f} s: {why}")
        time.sleep(POLL_S)


@app.command()
def down(
    grace: Annotated[float, typer.Option(help="seconds for guests to shut down")] = lifecycle.GUEST_GRACE_S,
) -> None:
    """Stop every host and leave nothing running, whatever crashed before; the data stays."""
    say = _clock()
    with _words():
        names = cloud.down(default_home(), grace)
    say(f"stopped: {', '.join(names) or 'nothing ran'}")


@app.command()
def status(output: Output = Format.table) -> None:
    """Show each host in one line; `yuntai status` shows every process."""
    root = default_home()
    with _words():
        names = [spec.name for spec in lifecycle.host_specs(root)]
        found = [one for one in cloud.at_once(lambda name: report(root, name), names) if one is not None]
        shown = [_line(root, one) for one in found]
    if not shown:
        raise CliError(f"there is no cloud in {root}; `yuntai lab up --hosts 4` makes one")
    rows(
        shown,
        {
            "HOST": lambda h: h["host"],
            "STATE": lambda h: h["state"],
            "ADDRESS": lambda h: h["address"],
            "RACK": lambda h: h["rack"],
            "MEMBER": lambda h: "yes" if h["member"] else "",
            "PROCESSES": lambda h: f"{h['well']}/{h['processes']}",
            "MEMORY": lambda h: f"{h['memory_mib']} MiB",
            "WRONG": lambda h: h["wrong"],
        },
        output,
    )
    if not all(one.healthy for one in found):
        raise typer.Exit(1)


def _line(root: Path, one: HostStatus) -> dict[str, Any]:
    spec = faults.find(root, one.name)
    done = faults.afflictions(root, one.name) if one.pid else []
    servers = spec.chunkservers()
    wrong = [one.wrong] if one.wrong else [process.name for process in one.processes if process.wrong]
    return {
        "host": one.name,
        "state": ", ".join(done) or one.state,
        "address": one.address,
        "rack": ", ".join(server.rack for server in servers),
        "member": CONTROL in spec.roles,
        "well": sum(not process.wrong for process in one.processes),
        "processes": len(one.processes),
        "memory_mib": sum(process.rss_bytes for process in one.processes) >> 20,
        "wrong": ", ".join(wrong),
    }


@app.command()
def shell(
    name: Name,
    command: Annotated[list[str] | None, typer.Argument(help="a command instead of a shell")] = None,
) -> None:
    """Enter a host, or run one command in it."""
    with _words():
        _, record = faults.find_running(default_home(), name)
    words = command_inside(record, *(command or ["/bin/bash"]), terminal=os.environ.get("TERM"))
    raise typer.Exit(subprocess.run(words, check=False).returncode)


def _befall(name: str, what: Callable[[Path, str], None], said: str) -> None:
    say = _clock()
    with _words():
        what(default_home(), name)
    say(f"{name} {said}")


@host.command()
def kill(name: Name) -> None:
    """Cut a host's power: everything in it ends at once."""
    _befall(name, faults.kill, "is off")


@host.command()
def freeze(name: Name) -> None:
    """Stop everything in a host where it stands, as a hung host: it answers pings and nothing else."""
    _befall(name, faults.freeze, "is frozen")


@host.command()
def thaw(name: Name) -> None:
    """Let a frozen host go on."""
    _befall(name, faults.thaw, "goes on")


@host.command()
def isolate(name: Name) -> None:
    """Pull a host's cables to the other hosts; what runs in it runs on."""
    _befall(name, faults.isolate, "is cut off")


@host.command("cut-storage")
def cut_storage(name: Name) -> None:
    """Cut a host off from the block store alone; it still answers, and holds its lease."""
    _befall(name, faults.cut_storage, "does not reach the block store")


@host.command()
def heal(name: Name) -> None:
    """Plug a host's cables in again, and mend its path to the block store."""
    _befall(name, faults.heal, "is connected")


@host.command()
def restart(name: Name) -> None:
    """Start a host that is off, or press the reset button of one that runs; wait until its processes answer."""
    _befall(name, faults.restart, "runs")
    found = wait_healthy(default_home(), name, RESTART_S)
    if found is None or not found.healthy:
        raise CliError(f"not every process of {name} answers after {RESTART_S:.0f} s; `yuntai lab status` shows which")
