"""What this host says of itself: its Host record with a heartbeat, its chunk servers and gateway from the config."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from yuntai import __version__, log
from yuntai.model.base import ago_utc, now_utc
from yuntai.model.cluster import ChunkServer, Gateway, Host
from yuntai.model.joining import RemovedHost
from yuntai.state import Absent, Exists, StateError

if TYPE_CHECKING:
    from yuntai.compute.cpu import CpuFacts
    from yuntai.compute.driver import Accelerator
    from yuntai.config import Config
    from yuntai.state import Store

HEARTBEAT_S = 10.0
# Virtual CPUs are shared: most guests of a small cloud wait. Memory is not: a guest's memory is its own.
VCPUS_PER_CPU = 8
RESERVED_MIB = 1024
RESERVED_SHARE = 0.15  # of all memory: chunk servers, gateway, control plane, page cache
_LOG = log.get("compute.host")


def memory_mib(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the host's memory."""
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise OSError(f"{meminfo} has no MemTotal")


def booted_utc(first_process: Path = Path("/proc/1/stat")) -> str:
    """Return when this host started: its first process, which a lab host has for itself."""
    started_ticks = int(first_process.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19])
    return ago_utc(time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK"))


def describe(config: Config, accelerator: Accelerator, versions: dict[str, str], cpu: CpuFacts) -> Host:
    """Return this host's record as measured now. ``cpu`` is empty while it is not known."""
    cpus, total_mib = os.cpu_count() or 1, memory_mib()
    return Host(
        id=config.host,
        address=config.address,
        rack=config.chunkservers[0].rack if config.chunkservers else "",
        cpus=cpus,
        memory_mib=total_mib,
        accelerator=accelerator,
        cpu_model=cpu.model,
        cpu_vendor=cpu.vendor,
        cpu_features=cpu.features,
        mce_banks=config.mce_banks or cpu.mce_banks,
        mce_banks_hardware=cpu.mce_banks_hardware,
        versions={"yuntai": __version__, "kernel": platform.release(), **versions},
        seen=now_utc(),
        guarded=True,
        vcpus_max=cpus * VCPUS_PER_CPU,
        memory_mib_max=max(0, int(total_mib * (1 - RESERVED_SHARE)) - RESERVED_MIB),
    )


async def beat(store: Store, fresh: Host) -> Host:
    """Write what the host reports of itself, and return the record.

    What control judges, the operator wants and the guard reports stays.
    """

    def change(old: Host) -> Host:
        # An agent that has just started does not know its CPU before libvirt answers: what it knew before stays.
        known = old if not fresh.cpu_features else fresh
        return replace(
            fresh,
            cpu_model=known.cpu_model,
            cpu_vendor=known.cpu_vendor,
            cpu_features=known.cpu_features,
            mce_banks=known.mce_banks,
            mce_banks_hardware=known.mce_banks_hardware,
            seen=now_utc(),
            storage_dead_since=old.storage_dead_since,
            status=old.status,
            downs=old.downs,
            jailed_until=old.jailed_until,
            awaited_since=old.awaited_since,
            awaited_until=old.awaited_until,
            maintenance=old.maintenance,
            waiting=old.waiting,
            labels=old.labels,
            pool=old.pool,
            dedicated=old.dedicated,
        )

    if await store.get(Host, fresh.id) is None:
        made = replace(fresh, seen=now_utc())
        # A host that the operator removed stays out, although its agent may still run.
        if await store.txn(compare=[Absent(Host, fresh.id), Absent(RemovedHost, fresh.id)], put=[made]):
            return made
        if await store.get(RemovedHost, fresh.id) is not None:
            raise StateError(
                f"host {fresh.id} was removed from the cluster; stop its services, or let it in again: "
                "`yuntai host token`, then `yuntai host join` on it"
            )
    return await store.update(Host, fresh.id, change)


async def register_storage(store: Store, config: Config) -> None:
    """Make the records of this host's chunk servers and gateway agree with the config; what others measured stays."""
    for server in config.chunkservers:
        address = f"{config.address}:{server.port}"
        fresh = ChunkServer(id=f"cs-{server.id}", number=server.id, rack=server.rack, host=config.host, address=address)

        def place(old: ChunkServer, fresh: ChunkServer = fresh) -> ChunkServer:
            if old.host != fresh.host:
                raise StateError(
                    f"chunk server {fresh.id} is registered by host {old.host}; "
                    f"give host {fresh.host} other ids in `chunkservers` of its config"
                )
            return replace(old, number=fresh.number, rack=fresh.rack, address=fresh.address)

        try:
            await store.create(fresh)
        except Exists:
            await store.update(ChunkServer, fresh.id, place)
    if config.chunkservers or config.gateway_port:
        await store.put(
            Gateway(
                id=config.host,
                address=f"{config.address}:{config.gateway_port}",
                nbd_dir=f"{config.run_dir}/nbd",
            )
        )
    _LOG.info("storage registered", chunkservers=[server.id for server in config.chunkservers])
