"""A volume whose guest moves goes to the destination or stays, and nobody can have it both ways."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from tests.functional.pangu_cluster import eventually
from tests.unit.pangu.conftest import Cluster
from yuntai.model.cluster import Volume
from yuntai.pangu import handing, rules, takeover_rules
from yuntai.pangu.errors import Conflict
from yuntai.pangu.units import volume_number

GIB = 1 << 30
HERE = Volume(id="vol-1", size_bytes=GIB, state="attached", host="h1", generation=3, created="")
ANNOUNCED = takeover_rules.announce(HERE, "h2", "j-1")


def test_the_destination_takes_what_was_announced_to_it_once() -> None:
    taken = takeover_rules.take(ANNOUNCED, "h2", "j-1")
    assert (taken.host, taken.generation, taken.handover_to, taken.handover_ticket) == ("h2", 4, "", "")
    assert takeover_rules.take(taken, "h2", "j-1") == taken


@pytest.mark.parametrize(
    ("volume", "host", "ticket"),
    [
        (HERE, "h2", "j-1"),  # nothing was announced, or it was called off
        (ANNOUNCED, "h3", "j-1"),
        (ANNOUNCED, "h2", "j-0"),  # an older migration's guest
        (rules.attach(ANNOUNCED, rules.Want("h3"), 0), "h2", "j-1"),  # failed over meanwhile
        (rules.detach(ANNOUNCED, "h1", forced=True), "h2", "j-1"),
    ],
)
def test_nobody_else_takes_it(volume: Volume, host: str, ticket: str) -> None:
    with pytest.raises(Conflict, match="called off"):
        takeover_rules.take(volume, host, ticket)


@pytest.mark.parametrize(
    "volume", [replace(HERE, state="available"), replace(HERE, read_only=True), replace(HERE, host="h2")]
)
def test_what_cannot_be_handed_over_is_not_announced(volume: Volume) -> None:
    with pytest.raises(Conflict):
        takeover_rules.announce(volume, "h2", "j-1")


def test_a_source_that_opens_its_volume_again_keeps_the_announcement() -> None:
    again = rules.attach(ANNOUNCED, rules.Want("h1"), 0)
    assert takeover_rules.take(again, "h2", "j-1").generation == again.generation + 1


def test_all_volumes_are_called_off_or_none() -> None:
    other = replace(ANNOUNCED, id="vol-2")
    assert takeover_rules.call_off([ANNOUNCED, other], "h2", "j-1") == [HERE, replace(HERE, id="vol-2")]
    assert takeover_rules.call_off([takeover_rules.take(ANNOUNCED, "h2", "j-1"), other], "h2", "j-1") is None
    newer = takeover_rules.announce(HERE, "h2", "j-2")
    assert takeover_rules.call_off([newer], "h2", "j-1") == [newer], "another migration's announcement stays"


async def announced(cluster: Cluster) -> tuple[str, int]:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.connect(volume.id, "h1")
    await handing.announce(cluster.client, volume.id, "h2", "j-1")
    number = volume_number(volume.id)
    assert cluster.gateways["h2"].places == {number: "j-1"}
    return volume.id, number


async def test_a_gateway_whose_client_reads_gets_the_volume_and_the_source_is_told(cluster: Cluster) -> None:
    volume, number = await announced(cluster)
    assert await cluster.gateways["h2"].raise_event(op="wanted", volume=number, ticket="j-1") == {"answer": "ok"}
    record = await cluster.client.volume(volume)
    assert (record.host, cluster.gateways["h2"].open[number]["generation"]) == ("h2", record.generation)
    await eventually(lambda: _closed(cluster, number), "the source's gateway was told")
    assert await handing.call_off(cluster.client, [volume], "h2", "j-1")


async def _closed(cluster: Cluster, number: int) -> bool:
    return number not in cluster.gateways["h1"].open


async def test_after_calling_off_a_late_guest_is_fenced(cluster: Cluster) -> None:
    volume, number = await announced(cluster)
    assert not await handing.call_off(cluster.client, [volume], "h2", "j-1")
    assert cluster.gateways["h2"].places == {}
    assert await cluster.gateways["h2"].raise_event(op="wanted", volume=number, ticket="j-1") == {"answer": "fenced"}
    assert (await cluster.client.volume(volume)).host == "h1"


async def test_taking_and_calling_off_at_once_has_one_winner(cluster: Cluster) -> None:
    for round_ in range(8):
        volume, _ = await announced(cluster)
        taking = asyncio.create_task(handing.take(cluster.client, volume, "h2", "j-1"))
        for _ in range(round_):
            await asyncio.sleep(0)
        taken = await handing.call_off(cluster.client, [volume], "h2", "j-1")
        (outcome,) = await asyncio.gather(taking, return_exceptions=True)
        assert isinstance(outcome, Conflict) != taken, outcome
        assert (await cluster.client.volume(volume)).host == ("h2" if taken else "h1")
        cluster.gateways["h2"].places.clear()


async def test_a_gateway_that_starts_anew_keeps_the_place_again(cluster: Cluster) -> None:
    _, number = await announced(cluster)
    await cluster.gateways["h2"].restart()
    await eventually(lambda: _kept(cluster, number), "the place is kept again")


async def test_a_gateway_that_did_not_hear_of_the_end_is_told_later(cluster: Cluster) -> None:
    volume, number = await announced(cluster)
    gateway = cluster.gateways["h2"]
    await gateway.stop()
    calling = asyncio.create_task(handing.call_off(cluster.client, [volume], "h2", "j-1"))
    await eventually(lambda: _called_off(cluster, volume), "the record says so")
    await gateway.start()
    await eventually(lambda: _not_kept(cluster, number), "it was told")
    assert not await calling


async def _kept(cluster: Cluster, number: int) -> bool:
    return number in cluster.gateways["h2"].places


async def _not_kept(cluster: Cluster, number: int) -> bool:
    return number not in cluster.gateways["h2"].places


async def _called_off(cluster: Cluster, volume: str) -> bool:
    found = await cluster.store.get(Volume, volume)
    return found is not None and not found.value.handover_to
