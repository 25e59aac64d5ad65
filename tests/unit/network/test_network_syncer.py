"""The loops, with the twins of store, OVN and host."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.unit.network.records import group, host, port, vpc, vswitch
from yuntai.config import Config
from yuntai.model.network import Port
from yuntai.network import local
from yuntai.network.hostlinks import HostLinksError
from yuntai.network.local import ServiceNet, wanted_nets
from yuntai.network.northbound import MemoryNorthbound
from yuntai.network.rows import Key, diff
from yuntai.network.syncer import Syncer, drift
from yuntai.state.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

GUEST = Key("Logical_Switch_Port", "port-1")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # a condition of the twins: nothing to wait on


@contextlib.asynccontextmanager
async def syncing(store: MemoryStore, northbound: MemoryNorthbound) -> AsyncIterator[Syncer]:
    syncer = Syncer(northbound)
    task = asyncio.create_task(syncer.run(store))
    try:
        yield syncer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def filled() -> MemoryStore:
    store = MemoryStore()
    for record in (vpc(), vswitch(), group(), port(host="h1"), host()):
        await store.put(record)
    return store


async def test_records_become_rows_and_changes_follow() -> None:
    store, northbound = await filled(), MemoryNorthbound()
    async with syncing(store, northbound):
        await until(lambda: GUEST in northbound.content)
        await store.put(port(host="h2"))
        await until(lambda: northbound.content[GUEST].columns["options"] == {"requested-chassis": "h2"})
        await store.delete(Port, "port-1")
        await until(lambda: GUEST not in northbound.content)


async def test_nothing_is_written_before_all_records_are_known() -> None:
    store, northbound = await filled(), MemoryNorthbound()
    async with syncing(store, northbound):
        await until(lambda: northbound.applied)
    assert GUEST in northbound.applied[0].create, "the first write already has everything"


async def test_drift_is_repaired_at_once_and_told_apart_from_what_was_asked() -> None:
    store, northbound = await filled(), MemoryNorthbound()
    async with syncing(store, northbound) as syncer:
        await until(lambda: GUEST in northbound.content)
        await asyncio.sleep(0.1)
        northbound.tamper({})
        await until(lambda: GUEST in northbound.content)
        syncs = syncer.syncs
        await store.put(host(seen="2026-02-02T00:00:00Z"))
        await asyncio.sleep(0.1)
        assert syncer.syncs == syncs, "a heartbeat wakes nobody"


async def test_an_unreachable_ovn_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yuntai.network.syncer.BACKOFF_FIRST_S", 0.02)
    store, northbound = await filled(), MemoryNorthbound()
    northbound.unreachable = True
    async with syncing(store, northbound):
        await asyncio.sleep(0.1)
        northbound.unreachable = False
        await until(lambda: GUEST in northbound.content)


async def test_drift_is_what_the_records_did_not_ask_for() -> None:
    northbound = MemoryNorthbound()
    store = await filled()
    async with syncing(store, northbound):
        await until(lambda: GUEST in northbound.content)
        before = dict(northbound.content)
    changed = {key: row for key, row in before.items() if key != GUEST}
    assert drift(None, before, diff(before, {})) == set()
    assert drift(before, before, diff(before, changed)) == {GUEST}
    assert drift(changed, before, diff(before, changed)) == set()


def test_which_namespaces_a_host_has() -> None:
    switches = [vswitch(f"vsw-{n}", cidr=f"10.1.{n}.0/24") for n in (3, 2, 1)]
    ports = [
        port("port-1", vswitch="vsw-1", host="h1"),
        port("port-2", vswitch="vsw-2", host="h2", destination="h1"),
        port("port-3", vswitch="vsw-3", host="h2"),
        port("port-4", vswitch="vsw-9", host="h1"),
    ]
    first, second = wanted_nets("h1", switches, ports)
    assert (first.vswitch, second.vswitch) == ("vsw-1", "vsw-2")
    assert first.addresses == ("10.1.1.252/24", "100.100.100.200/32", "169.254.169.254/32")
    assert first.netns == "vsw-vsw-1"
    assert first.logical_port == "vsw-1-service"


class MemorySystem:
    def __init__(self) -> None:
        self.nets: list[ServiceNet] = []
        self.failures = 0

    def sync(self, wanted: Iterable[ServiceNet]) -> list[str]:
        if self.failures:
            self.failures -= 1
            raise HostLinksError("told to fail")
        self.nets = list(wanted)
        return []


async def test_the_hosts_part_follows_ports_and_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yuntai.network.local.RETRY_S", 0.02)
    store, system = await filled(), MemorySystem()
    system.failures = 2
    config = Config(cluster="c", host="h1", address="10.0.0.1", etcd=["10.0.0.1:2379"])
    task = asyncio.create_task(local.run(store, config, system))
    try:
        await until(lambda: [net.vswitch for net in system.nets] == ["vsw-1"])
        await store.put(msgspec.structs.replace(port(), host="h2"))
        await until(lambda: system.nets == [])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
