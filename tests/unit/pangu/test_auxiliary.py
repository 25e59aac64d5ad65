"""Volumes that are kept for a time only: deleted when nobody asks for them any more, and never before."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.pangu.conftest import Cluster
from tests.unit.pangu.test_master import eventually
from yuntai.model.base import ago_utc
from yuntai.model.cluster import Volume, VolumeSource
from yuntai.pangu import auxiliary, rules
from yuntai.pangu.errors import Conflict, NotFound, Unavailable

pytestmark = pytest.mark.timeout(240)

GIB = 1 << 30


async def gone(cluster: Cluster, volume: str) -> bool:
    found = await cluster.store.get(Volume, volume)
    return found is None or found.value.state == "deleting"


async def test_what_nobody_keeps_is_deleted_and_its_source_is_free(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auxiliary, "FIRST_S", 0.0)
    monkeypatch.setattr(auxiliary, "EVERY_S", 0.2)
    client = cluster.client
    disk = await client.create_volume(GIB)
    source = VolumeSource(volume=disk.id, node=await client.snapshot(disk.id, "s"))
    left, kept = [await client.create_volume(GIB, source=source, keep_s=3) for _ in range(2)]
    disk_like = await client.create_volume(GIB)
    await client.attach(left.id, "h1", read_only=True)
    await client.attach(kept.id, "h2", read_only=True)
    for _ in range(6):
        await client.keep(kept.id, 3)
        await client.keep(disk_like.id, 1)
        await asyncio.sleep(1)
    assert await gone(cluster, left.id)
    assert not await gone(cluster, kept.id)
    assert (await client.volume(disk_like.id)).kept_until == "", "what is no auxiliary volume never becomes one"
    with pytest.raises((Conflict, NotFound)):
        await client.keep(left.id, 3)
    await eventually(lambda: gone(cluster, kept.id))
    await client.delete_volume(disk.id)


async def test_what_was_made_for_good_stays(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "FIRST_S", 0.0)
    monkeypatch.setattr(auxiliary, "EVERY_S", 0.1)
    volume, other = [await cluster.client.create_volume(GIB, keep_s=2) for _ in range(2)]
    await cluster.client.keep(volume.id, 0)
    assert (await cluster.client.volume(volume.id)).kept_until == ""
    await eventually(lambda: gone(cluster, other.id))
    assert not await gone(cluster, volume.id)
    # A master from before this goes on keeping it for a time only, and must not be believed.
    monkeypatch.setattr(rules, "keep", lambda record, until: record)
    again = await cluster.client.create_volume(GIB, keep_s=60)
    with pytest.raises(Unavailable, match="too old to keep"):
        await cluster.client.keep(again.id, 0)


async def test_a_new_leader_gives_everybody_time_to_ask(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "FIRST_S", 3.0)
    volume = await cluster.client.create_volume(GIB, keep_s=1)
    await cluster.kill_master(cluster.masters[0])
    await asyncio.sleep(2)  # it is over, while nobody could be asked
    await cluster.add_master("m2")
    cluster.client._urls.append(cluster.urls[-1])
    await cluster.client.keep(volume.id, 60)
    await asyncio.sleep(4)
    assert not await gone(cluster, volume.id)


def test_keeping_never_shortens() -> None:
    volume = Volume(id="vol-1", size_bytes=GIB, kept_until=ago_utc(-60), created="")
    assert rules.keep(volume, ago_utc(-10)) == volume
    assert rules.keep(volume, later := ago_utc(-100)).kept_until == later
