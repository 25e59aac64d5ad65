"""A whole block store's control in one process: store in memory, master with HTTP, three servers, two gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.unit.pangu.fakes import SECRET, TOKEN_SECRET, FakeGateway, FakeServer, Replicas
from yuntai.model.cluster import ChunkServer, Gateway, PanguSettings
from yuntai.pangu.client import PanguClient
from yuntai.pangu.master import Master
from yuntai.state import MemoryStore
from yuntai.state.memory import Memory

IMPATIENT = {"repair_after_s": 6, "tend_after_s": 0, "hydrate_after_s": 0, "garbage_every_s": 1}


class Cluster:
    """Everything, and the client that the tests use."""

    def __init__(self, servers: int = 3) -> None:
        self.memory = Memory()
        self.store = MemoryStore(self.memory)
        self.replicas = Replicas()
        self.servers = [FakeServer(n, f"rack-{n}", self.replicas) for n in range(1, servers + 1)]
        self.gateways = {host: FakeGateway(host, self.replicas) for host in ("h1", "h2")}
        self.masters: list[Master] = []
        self.running: dict[int, tuple[AsyncExitStack, asyncio.Task[None]]] = {}
        self.client: PanguClient
        self.urls: list[str] = []

    async def start(self) -> None:
        for server in self.servers:
            await self.add_server(server)
        for host, gateway in self.gateways.items():
            await gateway.start()
            await self.store.put(Gateway(id=host, address=gateway.address))
        await self.add_master("m1")
        self.client = PanguClient(self.urls, SECRET)

    async def add_server(self, server: FakeServer) -> None:
        await server.start()
        record = ChunkServer(
            id=f"cs-{server.number}", number=server.number, rack=server.rack, host="h1", address=server.address
        )
        await self.store.put(record)
        if server not in self.servers:
            self.servers.append(server)

    async def add_master(self, name: str) -> Master:
        master = Master(MemoryStore(self.memory), host=name, url="", cluster_secret=SECRET, token_secret=TOKEN_SECRET)
        stack = AsyncExitStack()
        port = await stack.enter_async_context(master.listening("127.0.0.1", 0))
        master._url = f"http://127.0.0.1:{port}"
        self.urls.append(master._url)
        self.masters.append(master)
        self.running[id(master)] = (stack, asyncio.create_task(master.run()))
        return master

    async def kill_master(self, master: Master) -> None:
        stack, task = self.running.pop(id(master))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stack.aclose()

    async def stop(self) -> None:
        await self.client.close()
        for master in self.masters:
            if id(master) in self.running:
                await self.kill_master(master)
        for fake in [*self.servers, *self.gateways.values()]:
            await fake.stop()
            fake.release()
        await self.store.close()


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    made = Cluster()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture
async def wide() -> AsyncIterator[Cluster]:
    """Five servers in five racks, and a master that waits for nothing."""
    made = Cluster(servers=5)
    await made.store.put(PanguSettings(id="pangu", tunables=IMPATIENT))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
