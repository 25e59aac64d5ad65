"""Looking at this machine for :mod:`yuntai.join.findings`: every look is bounded, and none changes anything."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yuntai import __version__
from yuntai import config as configuration
from yuntai.compute import hostrecord, probe
from yuntai.compute.driver import HypervisorError
from yuntai.join import findings

if TYPE_CHECKING:
    from yuntai.compute.cpu import CpuFacts
    from yuntai.compute.driver import Accelerator
    from yuntai.join.client import Greeting
    from yuntai.model.joinwire import ChunkDisk, Peer

COMMAND_TIMEOUT_S = 15.0
PEERS_MAX = 64
PINGS_TOGETHER = 16
IP_ICMP_BYTES = 28
SMALL_BYTES = 548


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator wants this host to be."""

    name: str
    address: str
    disks: tuple[ChunkDisk, ...]
    mce_banks: int = 0
    certificate: bool = False


async def look(wish: Wish, greeting: Greeting) -> findings.Findings:
    """Look at everything at the same time."""
    there = _existing()
    mine = there is not None and (there.cluster, there.host) == (greeting.hello.cluster, wish.name)
    accelerator, kvm_runs = await _accelerator()
    ports = [] if mine else [greeting.hello.gateway_port, greeting.hello.agent_port, *(d.port for d in wish.disks)]
    paths = _paths(wish, greeting.hello.peers)  # they run meanwhile
    (cpu, cpu_problem, versions), addresses, openvswitch, kvm = await asyncio.gather(
        _hypervisor(accelerator), _addresses(), _openvswitch(), asyncio.to_thread(Path("/dev/kvm").exists)
    )
    return findings.Findings(
        root=os.geteuid() == 0,
        machine=platform.machine(),
        name=wish.name,
        address=wish.address,
        local_addresses=addresses,
        cpu_flags=_flags(),
        kvm_device=kvm,
        kvm_runs=kvm_runs,
        cpu=cpu,
        cpu_problem=cpu_problem,
        skew_s=greeting.skew_s,
        uncertain_s=greeting.uncertain_s,
        memory_mib=hostrecord.memory_mib(),
        paths=tuple(await asyncio.gather(*paths)),
        disks=tuple(await asyncio.to_thread(lambda: [_disk(disk.path, mine=mine) for disk in wish.disks])),
        ports_taken=tuple(_taken(wish.address, ports)),
        versions={
            "yuntai": __version__,
            "kernel": platform.release(),
            **versions,
            **openvswitch,
            **({"certificate": "given"} if wish.certificate else {}),
        },
        other_cluster=there.cluster if there is not None and there.cluster != greeting.hello.cluster else "",
        lower_banks=wish.mce_banks,
    )


def _existing() -> configuration.Config | None:
    try:
        return configuration.load()
    except configuration.ConfigError:
        return None  # there is none, or none that could be used


async def _accelerator() -> tuple[Accelerator, bool]:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg", False
    runs = await probe.runs("kvm")
    return ("kvm" if runs else "tcg"), runs


async def _hypervisor(accelerator: Accelerator) -> tuple[CpuFacts | None, str, dict[str, str]]:
    try:
        from yuntai.compute.libvirt_driver import LibvirtHypervisor  # needs libvirt, which only a host has
    except ImportError as error:
        return None, str(error), {}
    hypervisor = LibvirtHypervisor()
    try:
        return await hypervisor.cpu(accelerator), "", await hypervisor.versions()
    except HypervisorError as error:
        return None, str(error), {}
    finally:
        await hypervisor.close()


async def _openvswitch() -> dict[str, str]:
    found = re.search(r"\d+\.\d+\.\d+", await _run("ovs-vsctl", "--version"))
    return {"openvswitch": found.group()} if found else {}


async def _addresses() -> frozenset[str]:
    text = await _run("ip", "-json", "address", "show")
    devices = json.loads(text) if text else []
    return frozenset(one["local"] for device in devices for one in device.get("addr_info", ()))


def _paths(wish: Wish, peers: tuple[Peer, ...]) -> list[asyncio.Task[findings.Path]]:
    together = asyncio.Semaphore(PINGS_TOGETHER)

    async def path(peer: Peer) -> findings.Path:
        async with together:
            return await _path(peer)

    others = [peer for peer in peers if peer.id != wish.name][:PEERS_MAX]
    return [asyncio.create_task(path(peer)) for peer in others]


async def _path(peer: Peer) -> findings.Path:
    """Ping with packets as large as the device has them, and that nobody may cut into pieces."""
    text = await _run("ip", "-json", "route", "get", peer.address)
    route = json.loads(text)[0] if text else {}
    device = Path("/sys/class/net") / str(route.get("dev", "-")) / "mtu"
    mtu = int(device.read_text()) if device.exists() else findings.MTU_MIN
    small = await _ping(peer.address, SMALL_BYTES)
    whole = small and await _ping(peer.address, mtu - IP_ICMP_BYTES)
    return findings.Path(peer=peer.id, address=peer.address, mtu=mtu, whole=whole, small=small)


async def _ping(address: str, payload_bytes: int) -> bool:
    size = str(payload_bytes)
    return bool(await _run("ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "2", "-M", "do", "-s", size, address))


async def _run(*command: str) -> str:
    """Return what a command printed, "" if it failed or there is none."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        out, _ = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return out.decode(errors="replace") if process.returncode == 0 else ""


def _flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _disk(path: str, *, mine: bool) -> findings.Disk:
    folder = Path(path)
    try:
        there = folder
        while not there.exists():
            there = there.parent
        inside = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        if folder.exists() and not folder.is_dir():
            return findings.Disk(path=path, problem="it is not a folder")
        space = os.statvfs(there)
        foreign = [] if mine else [name for name in inside if name != "lost+found"]
        return findings.Disk(
            path=path,
            foreign=foreign[0] if foreign else "",
            free_bytes=space.f_bavail * space.f_frsize,
            device=there.stat().st_dev,
            kind=_kind(there),
        )
    except OSError as error:
        return findings.Disk(path=path, problem=str(error.strerror or error))


def _kind(path: Path) -> str:
    """Return the type of the file system that a path is on."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, what, *_ = line.split()
        if path.resolve().is_relative_to(where) and len(where) >= len(best):
            best, kind = where, what
    return kind


def _taken(address: str, ports: list[int]) -> list[tuple[int, str]]:
    taken = []
    for port in ports:
        try:
            socket.create_server((address, port)).close()
        except OSError as error:
            taken.append((port, str(error.strerror or error)))
    return taken
