"""What the host does with the cluster's answer: its files, its place in the virtual network, its services."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from yuntai import config as configuration
from yuntai.join.client import JoinError
from yuntai.model.cluster import Host
from yuntai.state import EtcdStore, StateError

if TYPE_CHECKING:
    from yuntai.config import Config
    from yuntai.model.joinwire import Joined

COMMAND_TIMEOUT_S = 60.0
POLL_S = 0.5
SYSTEMD = Path("/run/systemd/system")
UNITS = ("yuntai-gateway.service", "yuntai-agent.service", "yuntai-metadata.service", "yuntai.target")


def write(joined: Joined, *, mce_banks: int = 0) -> Config:
    """Write the secrets, then the configuration; each file appears whole or not at all."""
    where = configuration.config_path()
    try:
        config = msgspec.json.decode(joined.config, type=configuration.Config)
    except msgspec.DecodeError as error:
        raise JoinError(f"the cluster gave a configuration that this version cannot use: {error}") from error
    if mce_banks:
        config = msgspec.structs.replace(config, mce_banks=mce_banks)
    folder = Path(config.secrets_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name, text in joined.secrets.items():
        if Path(name).name != name:
            raise JoinError(f"the cluster gave a secret named {name!r}, which is no file name")
        _write(folder / name, text.encode() + b"\n", 0o600)
    for server in config.chunkservers:
        Path(server.path).mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(where, configuration.encode(config), 0o644)
    return config


def connect_network(config: Config) -> None:
    """Tell Open vSwitch who this host is and where OVN is. The tunnel's own address stays if it has one."""
    known = _run("ovs-vsctl", "--timeout=20", "--if-exists", "get", "open_vswitch", ".", "external_ids:ovn-encap-ip")
    settings = {
        "system-id": config.host,
        "ovn-remote": config.ovn_sb,
        "ovn-encap-type": "geneve",
        "ovn-encap-ip": known.strip().strip('"') or config.address,
    }
    words = [f'external_ids:{key}="{value}"' for key, value in settings.items()]
    _run("ovs-vsctl", "--timeout=20", "set", "open_vswitch", ".", *words)


def start_services(config: Config) -> bool:
    """Start the host's services where systemd runs; return whether it does. Elsewhere something else waits for them."""
    if not SYSTEMD.exists():
        return False
    chunkservers = [f"yuntai-chunkserver@{server.id}.service" for server in config.chunkservers]
    _run("systemctl", "enable", "--now", *chunkservers, *UNITS)
    return True


async def wait_seen(config: Config, timeout_s: float) -> Host:
    """Wait until the cluster has heard of this host's agent; return the record."""
    last = "nothing was heard of it"
    try:
        async with asyncio.timeout(timeout_s), EtcdStore(config.etcd) as store:
            while True:
                try:
                    found = await store.get(Host, config.host)
                except StateError as error:
                    last = str(error)
                else:
                    if found is not None and found.value.memory_mib_max:
                        return found.value
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise JoinError(
            f"{config.host} joined, but its agent has not reported within {timeout_s:.0f} s ({last}); "
            "see `systemctl status yuntai-agent`, and run this again"
        ) from error


def machine_id() -> str:
    """Return what tells this machine from others; a host of a lab has its own kernel name for it."""
    try:
        text = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        text = ""
    return text or f"host-{os.uname().nodename}"


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JoinError(f"`{' '.join(command)}` failed: {error}; then run this again") from error
    if done.returncode != 0:
        raise JoinError(f"`{' '.join(command)}` failed: {done.stderr.strip()}; mend that, then run this again")
    return done.stdout
