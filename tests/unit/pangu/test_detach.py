"""What a detach may say of the data: that it is durable on all replicas, only where somebody has seen to it."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.pangu.conftest import Cluster
from tests.unit.pangu.test_master import GIB, eventually, record
from yuntai.model.cluster import VolumeSource
from yuntai.pangu import wire
from yuntai.pangu.errors import Conflict, Unavailable
from yuntai.pangu.units import volume_number

pytestmark = pytest.mark.timeout(240)


async def _refuse(_: dict[str, object]) -> None:
    raise wire.Refused("not now")


async def _not_level(cluster: Cluster, volume: str) -> None:
    """What was detached so is not frozen before it was open once more."""
    assert (await record(cluster, volume)).unfenced
    with pytest.raises(Conflict, match="attach it once"):
        await cluster.client.snapshot(volume)
    await cluster.client.attach(volume, "h1")
    assert (await cluster.client.detach(volume, "h1")).state == "available"
    assert await cluster.client.snapshot(volume) == 1


async def _detached_from_a_killed_gateway(cluster: Cluster, volume: str) -> None:
    gateway = cluster.gateways["h1"]
    gateway.before["open"] = _refuse  # the detach comes first
    await gateway.restart()
    await cluster.client.detach(volume, "h1")
    del gateway.before["open"]


async def test_a_gateway_that_was_killed_says_nothing_of_what_it_served(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    await _detached_from_a_killed_gateway(cluster, volume.id)
    await _not_level(cluster, volume.id)


async def test_a_tender_says_nothing_of_what_the_last_writer_left(wide: Cluster) -> None:
    base = await wide.client.create_volume(GIB)
    node = await wide.client.snapshot(base.id)
    volume = (await wide.client.create_volume(GIB, source=VolumeSource(volume=base.id, node=node))).id
    await wide.client.attach(volume, "h1")
    wide.gateways["h1"].before["snapshot"] = _refuse
    asked = asyncio.create_task(wide.client.snapshot(volume))

    async def frozen() -> bool:
        return (await record(wide, volume)).snapshots == {"1": "pending"}

    await eventually(frozen)
    asked.cancel()
    await _detached_from_a_killed_gateway(wide, volume)
    del wide.gateways["h1"].before["snapshot"]

    async def tended() -> bool:
        host, number = (await record(wide, volume)).tended_by, volume_number(volume)
        return bool(host) and number in wide.gateways[host].open

    await eventually(tended)
    with pytest.raises(Conflict, match="attach it once"):
        await wide.client.snapshot(volume)
    assert await frozen()
    await wide.client.attach(volume, "h1")
    assert (await record(wide, volume)).snapshots == {"1": "done"}
    assert await wide.client.snapshot(volume) == 2


async def test_an_attachment_that_was_never_served_leaves_the_former_writer_as_it_is(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    cluster.gateways["h2"].before["open"] = _refuse
    with pytest.raises((Conflict, Unavailable)):
        await cluster.client.attach(volume.id, "h2")
    await cluster.client.detach(volume.id, "h2")
    await _not_level(cluster, volume.id)


async def test_an_older_gateway_is_not_believed_of_what_it_has_not_open(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    cluster.gateways["h1"].names_closed = False
    await cluster.client.attach(volume.id, "h1")
    await cluster.client.detach(volume.id, "h1")
    assert not (await record(cluster, volume.id)).unfenced, "it was open"
    await cluster.client.attach(volume.id, "h1")
    await _detached_from_a_killed_gateway(cluster, volume.id)
    await _not_level(cluster, volume.id)


async def test_a_new_leader_looks_what_an_older_gateway_has_open(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    gateway = cluster.gateways["h1"]
    gateway.names_closed = False
    await cluster.client.attach(volume.id, "h1")
    session = cluster.masters[0].session
    assert session is not None
    # As a leader that was just elected, or a gateway that was just connected again.
    session.gateways._gateways["h1"].opened = {}
    await cluster.client.detach(volume.id, "h1")
    assert not (await record(cluster, volume.id)).unfenced
    assert await cluster.client.snapshot(volume.id) == 1


async def test_a_detach_whose_answer_was_lost_is_clean_when_it_is_asked_again(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    number, gateway = volume_number(volume.id), cluster.gateways["h1"]
    # It was closed for a master that died before it had recorded it.
    gateway.close({"volume": number, "generation": gateway.open[number]["generation"]})
    await cluster.client.detach(volume.id, "h1")
    assert not (await record(cluster, volume.id)).unfenced
    for _ in range(2):
        assert (await cluster.client.detach(volume.id, "h1")).state == "available"
    assert await cluster.client.snapshot(volume.id) == 1
    assert not (await record(cluster, volume.id)).unfenced
    await eventually(lambda: number not in gateway.open)
