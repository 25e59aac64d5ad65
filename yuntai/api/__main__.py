"""``python -m yuntai.api``: the API's process. It needs etcd and nothing else to start."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from yuntai import config, log, process
from yuntai.api import collector, joining, standing
from yuntai.api.cache import CachedStore
from yuntai.api.console import LocalConsoleReader
from yuntai.api.registry import Context
from yuntai.api.server import ApiServer
from yuntai.model.base import Record
from yuntai.model.cluster import AccessKey, Account, ChunkServer, Host, HostFailure, HostPool, Job, Volume, VolumeUsage
from yuntai.model.compute import (
    AutoSnapshotPolicy,
    Disk,
    Image,
    Instance,
    InstanceEvent,
    InstanceType,
    KeyPair,
    ObservedInstance,
    Snapshot,
    SnapshotGroup,
)
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.model.placement import DedicatedHost, DeploymentSet, SchedulerSettings
from yuntai.pangu.client import PanguClient
from yuntai.state import EtcdStore, Store

FOLLOWED: tuple[type[Record], ...] = (
    AccessKey,
    Account,
    AutoSnapshotPolicy,
    ChunkServer,
    Disk,
    DedicatedHost,
    DeploymentSet,
    Host,
    HostFailure,
    HostPool,
    Image,
    Instance,
    InstanceEvent,
    InstanceType,
    Job,
    KeyPair,
    ObservedInstance,
    Port,
    SchedulerSettings,
    SecurityGroup,
    Snapshot,
    SnapshotGroup,
    Volume,
    VolumeUsage,
    Vpc,
    VSwitch,
)
"""The types whose records this process keeps in memory."""
LOOPBACK = "127.0.0.1"

_log = log.get("api")


async def fill(store: Store) -> CachedStore:
    """Return the caches, filled. etcd that is not there yet is waited for, and a large cloud takes a while to read."""
    cached = CachedStore(store, FOLLOWED)
    standing.keep_fleet(cached)
    while True:
        try:
            await cached.start()
        except TimeoutError:
            missing = sorted(kind.KIND for kind, cache in cached.caches.items() if not cache.ready.is_set())
            _log.warning("not everything is read from etcd yet, waiting", missing=missing)
        except BaseException:
            await cached.stop()
            raise
        else:
            return cached


async def serve(settings: config.Config) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = process.told_to_stop()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(EtcdStore(settings.etcd))
        filling = asyncio.create_task(fill(store))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({filling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
            return
        cached = filling.result()
        collector.calm()
        stack.push_async_callback(cached.stop)
        volumes = await stack.enter_async_context(PanguClient.from_config(settings))
        context = Context(
            region=settings.region,
            zone=settings.zone,
            cluster=settings.cluster,
            reads=cached,
            writes=cached.writer(),
            console=LocalConsoleReader(settings.host, settings.log_dir),
            volumes=volumes,
            join_endpoints=joining.endpoints(settings),
            join_fingerprint=joining.fingerprint(settings),
        )
        server = ApiServer(context)
        stack.push_async_callback(server.close)
        for address in dict.fromkeys((settings.address, LOOPBACK)):
            await server.start(address, settings.api_port)
            _log.info("listening", address=address, port=settings.api_port)
        door = joining.Door(store, settings)
        stack.push_async_callback(door.close)
        try:
            await door.open(settings.address, settings.join_port)
        except OSError as error:
            # Tenants' calls matter more than new hosts.
            _log.error("no host can join here", port=settings.join_port, error=str(error))
        await stopping
        _log.info("stopping")


def main() -> int:
    """Run the process; return its exit code."""
    log.setup("api")
    try:
        settings = config.load()
    except config.ConfigError as error:
        _log.error("configuration", error=str(error))
        return 2
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
