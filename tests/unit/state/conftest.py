"""Both stores under one suite: ``world`` gives stores that share one contents, and the faults to put them through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.etcd_process import EtcdProcess
from yuntai.state import EtcdStore, MemoryStore, Store
from yuntai.state.memory import Memory


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path_factory.mktemp("etcd"))
    process.start()
    try:
        yield process
    finally:
        process.stop()


class World:
    """One contents, and stores on it."""

    def __init__(self) -> None:
        self.opened: list[Store] = []

    def connect(self) -> Store:
        store = self.make()
        self.opened.append(store)
        return store

    def make(self) -> Store:
        raise NotImplementedError

    async def restart(self) -> None:
        raise NotImplementedError

    async def compact(self) -> None:
        raise NotImplementedError

    async def outage(self, lasting_s: float) -> None:
        raise NotImplementedError

    async def lose_lease(self, lease_id: int) -> None:
        raise NotImplementedError

    async def write_raw(self, key: str, value: bytes) -> None:
        raise NotImplementedError


class MemoryWorld(World):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()

    def make(self) -> Store:
        return MemoryStore(self.memory)

    async def restart(self) -> None:
        self.memory.break_watches()

    async def compact(self) -> None:
        self.memory.break_watches()

    async def outage(self, lasting_s: float) -> None:
        self.memory.available = False
        await asyncio.sleep(lasting_s)
        self.memory.available = True

    async def lose_lease(self, lease_id: int) -> None:
        self.memory.expire(lease_id)

    async def write_raw(self, key: str, value: bytes) -> None:
        self.memory.revision += 1
        self.memory.write(key.encode(), value, 0)


class EtcdWorld(World):
    def __init__(self, etcd: EtcdProcess) -> None:
        super().__init__()
        self.etcd = etcd

    def make(self) -> Store:
        return EtcdStore([self.etcd.endpoint], call_timeout_s=2.0)

    async def restart(self) -> None:
        await asyncio.to_thread(self.etcd.stop)
        await asyncio.to_thread(self.etcd.start)

    async def compact(self) -> None:
        store = EtcdStore([self.etcd.endpoint])
        await store.compact()
        await store.close()

    async def outage(self, lasting_s: float) -> None:
        await asyncio.to_thread(self.etcd.stop)
        await asyncio.sleep(lasting_s)
        await asyncio.to_thread(self.etcd.start)

    async def lose_lease(self, lease_id: int) -> None:
        from aetcd import rpc

        store = EtcdStore([self.etcd.endpoint])
        store._connection.open()
        await store._connection.leases.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease_id), timeout=5)
        await store.close()

    async def write_raw(self, key: str, value: bytes) -> None:
        from aetcd import rpc

        store = EtcdStore([self.etcd.endpoint])
        store._connection.open()
        await store._connection.kv.Put(rpc.PutRequest(key=key.encode(), value=value), timeout=5)
        await store.close()

    async def wipe(self) -> None:
        from aetcd import rpc

        store = EtcdStore([self.etcd.endpoint])
        store._connection.open()
        everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
        await store._connection.kv.DeleteRange(everything, timeout=5, wait_for_ready=True)
        await store.close()


@pytest.fixture(params=["memory", "etcd"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made: World
    if request.param == "memory":
        made = MemoryWorld()
    else:
        made = EtcdWorld(request.getfixturevalue("etcd"))
        await made.wipe()
    try:
        yield made
    finally:
        for store in made.opened:
            await store.close()


@pytest.fixture
def store(world: World) -> Store:
    return world.connect()
