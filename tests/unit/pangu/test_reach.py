"""A leader whose host has lost its way to the block store leaves the office to one whose host has not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from tests.unit.pangu.conftest import Cluster
from yuntai.model.cluster import ChunkServer
from yuntai.pangu import reach, wire
from yuntai.pangu.master import Master

pytestmark = pytest.mark.timeout(120)

MIB = 1 << 20


async def spread(cluster: Cluster) -> None:
    """Let each chunk server be on a host of its own, as the masters are."""
    for number in (1, 2, 3):
        await cluster.store.update(ChunkServer, f"cs-{number}", lambda old: replace(old, host=f"m{old.number}"))


async def until(seen: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def leads(master: Master) -> None:
    await until(lambda: master.session)


@pytest.fixture
async def two(cluster: Cluster) -> Cluster:
    """A cluster with a leader m1, and m2 waiting."""
    await spread(cluster)
    await leads(cluster.masters[0])
    await cluster.add_master("m2")
    return cluster


async def cut_off(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, master: Master) -> asyncio.Event:
    """Let ``master`` reach nobody on another host until the event is set."""
    session = master.session
    assert session is not None
    healed = asyncio.Event()
    connect, greets = wire.connect, wire.greets
    name, local = session.office.name, cluster.servers[0].address

    async def connecting(address: str, secret: bytes, who: str, *rest: object, **more: object) -> wire.Channel:
        if who == name and address != local and not healed.is_set():
            raise wire.WireError(f"{address} did not answer")
        return await connect(address, secret, who, *rest, **more)  # type: ignore[arg-type]

    async def greeting(address: str, timeout_s: float, **more: object) -> bool:
        return healed.is_set() and await greets(address, timeout_s, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(wire, "connect", connecting)
    monkeypatch.setattr(wire, "greets", greeting)
    for known in session.servers._servers.values():
        if known.channel is not None and known.record.address != local:
            await known.channel.close()
    return healed


async def test_another_master_leads_when_the_leader_reaches_no_other_host(
    two: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two.masters
    volume = await two.client.create_volume(MIB)
    healed = await cut_off(two, monkeypatch, first)
    await leads(second)
    assert first.session is None
    assert (await two.client.attach(volume.id, "h2")).uri

    # It stands again only when it hears others, and then leads as well as before.
    healed.set()
    await two.kill_master(second)
    await leads(first)
    assert (await two.client.volume(volume.id)).host == "h2"


async def test_a_master_that_is_alone_with_nothing_stands_again(two: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two.masters
    await two.kill_master(second)
    monkeypatch.setattr(reach, "STAND_AGAIN_S", 0.5)
    session = first.session
    await cut_off(two, monkeypatch, first)
    await until(lambda: first.session not in (None, session))


async def test_a_leader_that_hears_one_other_host_leads_on(two: Cluster) -> None:
    first, second = two.masters
    session = first.session
    for server in two.servers[1:]:
        await server.stop()
    assert session is not None
    # No chunk server of others answers; their gateways do, and are asked now.
    await until(lambda: session.reach._known)
    assert await session.reach._any_greets()
    assert (first.session, second.session) == (session, None)
