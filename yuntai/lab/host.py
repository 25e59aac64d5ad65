"""Start, stop, enter and look at lab hosts: ``python -m yuntai.lab.host start|stop|status|exec``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from yuntai.lab import lifecycle
from yuntai.lab.enter import command_inside
from yuntai.lab.fabric import FabricError
from yuntai.lab.keeper import KeeperError
from yuntai.lab.layout import default_home, wanted_cluster
from yuntai.lab.record import running
from yuntai.lab.spec import ALL_ROLES, CENTRAL, ENGINES, ClusterSpec, HostSpec, SpecError, load_cluster, load_host
from yuntai.lab.status import HostStatus, report, wait_healthy

HEALTHY_S = 90.0


def build_spec(options: argparse.Namespace, root: Path) -> HostSpec:
    """Return the host that the options describe; what they leave out is as it was at its last start."""
    last = load_host(root, options.host)
    cluster = (last.cluster if last else load_cluster(root)) or ClusterSpec()
    name = options.cluster or wanted_cluster()
    if name and name != cluster.name:
        # Only the machine's default cluster takes the well-known port by itself.
        cluster = ClusterSpec(name=name, api_port=0)
    changes = {
        "management": options.management,
        "underlay": options.underlay,
        "external": options.external,
        "api_port": options.api_port,
        "images": str(Path(options.images).absolute()) if options.images else None,
    }
    cluster = msgspec.structs.replace(cluster, **{key: value for key, value in changes.items() if value is not None})
    roles = last.roles if last else ALL_ROLES
    if options.engines_only:
        roles = (CENTRAL, ENGINES)
    elif options.all_roles:
        roles = ALL_ROLES
    number = options.number or (last.number if last else 1)
    return HostSpec(cluster=cluster, name=options.host, number=number, roles=roles)


def render(status: HostStatus) -> str:
    """Return the status as the lines of a table."""
    lines = [f"host {status.name} {status.state}, {status.address}, image {status.image or '-'}"]
    if status.wrong:
        lines.append(f"  wrong: {status.wrong}")
    lines += [
        f"  {process.name:16} {process.state:9} pid {process.pid:<6} {process.rss_bytes / 1e6:7.1f} MB "
        f"{process.uptime_s:8.0f} s  restarts {process.restarts:<3} {process.version:24} {process.wrong}".rstrip()
        for process in status.processes
    ]
    return "\n".join(lines)


def _start(options: argparse.Namespace, root: Path) -> int:
    started_s = time.monotonic()
    record = lifecycle.start(build_spec(options, root), root)
    print(f"host {options.host} runs after {time.monotonic() - started_s:.1f} s, its PID 1 is {record.init.pid}")
    if options.no_wait:
        return 0
    status = wait_healthy(root, options.host, options.timeout)
    if status is None or not status.healthy:
        print(render(status) if status else "it has gone again", file=sys.stderr)
        return 1
    print(f"all {len(status.processes)} processes answer after {time.monotonic() - started_s:.1f} s")
    return 0


def _stop(options: argparse.Namespace, root: Path) -> int:
    started_s = time.monotonic()
    if options.all:
        names = lifecycle.stop_all(root, options.grace)
    else:
        names = [options.host] if lifecycle.stop(root, options.host, options.grace) else []
    print(f"stopped: {', '.join(names) or 'nothing ran'} ({time.monotonic() - started_s:.1f} s)")
    return 0


def _status(options: argparse.Namespace, root: Path) -> int:
    found = [report(root, name) for name in lifecycle.host_names(root)]
    statuses = [status for status in found if status is not None]
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(statuses)).decode())
    else:
        print("\n".join(render(status) for status in statuses) or f"no host was ever started from {root}")
    return 0 if statuses and all(status.healthy for status in statuses) else 1


def _exec(options: argparse.Namespace, root: Path) -> int:
    spec = load_host(root, options.host)
    record = running(spec.cluster.home(root), options.host) if spec else None
    if record is None:
        print(f"host {options.host} does not run; start it with `make up`", file=sys.stderr)
        return 1
    command = options.command or ["/bin/bash"]
    return subprocess.run(command_inside(record, *command, terminal=os.environ.get("TERM")), check=False).returncode


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m yuntai.lab.host", description="hosts of a cloud on this machine")
    top.add_argument(
        "--home", default=None, help="the data folder; default: $YUNTAI_HOME, or .yuntai in the repository"
    )
    commands = top.add_subparsers(dest="action", required=True)
    start = commands.add_parser("start", help="start a host and wait until all its processes answer")
    start.add_argument("--host", default="h1")
    start.add_argument("--number", type=int, help="the last digit of its addresses")
    start.add_argument("--cluster", help="name of the cluster; default: $YUNTAI_CLUSTER, or as before, or lab")
    start.add_argument("--images", help="another data folder, whose image, guests and programs are shared")
    start.add_argument("--management", help="network between hosts, such as 10.78.0.0/24")
    start.add_argument("--underlay", help="network of the overlay's tunnels, such as 172.16.0.0/24")
    start.add_argument("--external", help="network that guests call the outside, such as 100.64.0.0/24")
    start.add_argument("--api-port", type=int, help="port on 127.0.0.1 that leads to the API; 0 for none")
    start.add_argument("--engines-only", action="store_true", help="only etcd, OVN, OVS and libvirt")
    start.add_argument("--all-roles", action="store_true", help="everything, after a start with --engines-only")
    start.add_argument("--no-wait", action="store_true", help="return as soon as the supervisor runs")
    start.add_argument("--timeout", type=float, default=HEALTHY_S, help="seconds to wait for the processes")
    start.set_defaults(run=_start)
    stop = commands.add_parser("stop", help="stop a host; its data stays")
    stop.add_argument("--host", default="h1")
    stop.add_argument("--all", action="store_true", help="every host of this data folder")
    stop.add_argument("--grace", type=float, default=lifecycle.GUEST_GRACE_S, help="seconds for guests to shut down")
    stop.set_defaults(run=_stop)
    status = commands.add_parser("status", help="show every host and its processes")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)
    execute = commands.add_parser("exec", help="run a command inside a host; default: a shell")
    execute.add_argument("--host", default="h1")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    execute.set_defaults(run=_exec)
    return top


def main(arguments: list[str]) -> int:
    """Do what ``arguments`` say and return the exit status."""
    options = parser().parse_args(arguments)
    if options.action == "exec" and options.command[:1] == ["--"]:
        options.command = options.command[1:]
    root = Path(options.home).absolute() if options.home else default_home()
    try:
        return int(options.run(options, root))
    except (KeeperError, SpecError, FabricError, OSError) as error:
        print(f"yuntai lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
