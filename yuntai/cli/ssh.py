"""The way into a guest: ssh through the service namespace of its vSwitch on the host that runs it.

Tenants' addresses may repeat between networks, so no route on the machine could lead to them. The host keeps one
network namespace per vSwitch (for the metadata service); ``yuntai.lab.netpipe`` connects from there.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from yuntai.cli.client import CliError
from yuntai.lab import faults
from yuntai.lab.layout import REPOSITORY, Home, default_home
from yuntai.lab.record import running


class Guest(NamedTuple):
    """What must be known of an instance to reach it."""

    instance_id: str
    name: str
    address: str
    vswitch: str

    @classmethod
    def of(cls, instance: dict[str, Any]) -> Guest:
        """Take it from an item of DescribeInstances."""
        attributes = instance["VpcAttributes"]
        addresses = attributes["PrivateIpAddress"]["IpAddress"]
        if not addresses:
            raise CliError(f"{instance['InstanceId']} has no address yet; it is {instance['Status']}")
        return cls(instance["InstanceId"], instance["InstanceName"], addresses[0], attributes["VSwitchId"])


def key_path() -> Path:
    """Return the private key of the machine's own key pair, made by the first ``make up``."""
    return default_home() / "ssh" / "id_ed25519"


def config_path() -> Path:
    """Return the ssh configuration that names every instance."""
    return default_home() / "ssh_config"


def pipe_command(host: str, vswitch: str, address: str, port: str) -> list[str]:
    """Return the command that joins its standard input and output with ``address:port`` in a vSwitch on ``host``."""
    record = running(Home(default_home()), host)
    if record is None:
        raise CliError(f"host {host} does not run here; `make up` starts it")
    namespace = f"vsw-{vswitch}"
    pipe = ["-m", "yuntai.lab.netpipe", "--pid", str(record.init.pid), "--netns", namespace, address, port]
    return ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, *pipe]


def host_of(instance_id: str) -> str:
    """Return the host of this machine on which a guest runs.

    The guest answers through its own host's end of the service namespace, so from another host it would not be heard.
    """
    home = Home(default_home())
    for folder in sorted(home.hosts.glob("*")):
        record = running(home, folder.name)
        if record is None or faults.afflictions(home.root, folder.name):
            continue  # a host that is frozen or cut off leads nowhere
        if Path(f"/proc/{record.init.pid}/root/run/libvirt/qemu/{instance_id}.pid").exists():
            return folder.name
    raise CliError(f"{instance_id} runs on no host of this machine now; `yuntai instance show` says where it is")


def options() -> list[str]:
    """Return ssh options for guests: their keys are new with each instance, and addresses repeat."""
    chosen = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=10"]
    return [word for option in chosen for word in ("-o", option)]


def command(guest: Guest, user: str, arguments: list[str]) -> list[str]:
    """Return the whole ssh command."""
    pipe = shlex.join(pipe_command(host_of(guest.instance_id), guest.vswitch, guest.address, "22"))
    key = ["-i", str(key_path())] if key_path().exists() else []
    return ["ssh", *options(), "-o", f"ProxyCommand={pipe}", *key, f"{user}@{guest.instance_id}", *arguments]


def run(guest: Guest, user: str, arguments: list[str]) -> int:
    """Log in and return ssh's exit code."""
    return subprocess.run(command(guest, user, arguments), check=False).returncode


def write_config(guests: list[Guest]) -> Path:
    """Write an ssh configuration with one entry for each guest, so that ``ssh -F FILE i-…`` works; return its path."""
    launcher = REPOSITORY / "bin" / "yuntai"
    lines = ["# Written by yuntai. Use: ssh -F this-file INSTANCE", ""]
    for guest in guests:
        names = " ".join(dict.fromkeys(name for name in (guest.instance_id, guest.name) if name and " " not in name))
        lines += [
            f"Host {names}",
            "    User root",
            f"    IdentityFile {key_path()}",
            f"    ProxyCommand {launcher} pipe {guest.instance_id} {guest.vswitch} {guest.address} %p",
            *(f"    {option.replace('=', ' ')}" for option in options() if option != "-o"),
            "",
        ]
    path = config_path()
    path.write_text("\n".join(lines))
    return path
