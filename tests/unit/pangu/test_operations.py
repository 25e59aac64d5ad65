"""What the operator asks of the whole store, over the master's HTTP API, against fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.pangu.conftest import Cluster
from tests.unit.pangu.test_master import GIB, eventually, record
from tests.unit.pangu.test_repair import chunks, keep_moving
from yuntai.model.cluster import ChunkServer, Volume
from yuntai.pangu import health
from yuntai.pangu.errors import Conflict, InUse, Invalid, NotFound
from yuntai.pangu.servers import DOWN_AFTER_S
from yuntai.pangu.units import volume_number

pytestmark = pytest.mark.timeout(240)


async def checks(cluster: Cluster) -> dict[str, Any]:
    report = await cluster.client.operate("health")
    return {check["name"]: check["detail"] for check in report["checks"] if check["level"] != "well"}


async def test_a_server_is_drained_and_removed(wide: Cluster) -> None:
    client, volume = wide.client, await wide.client.create_volume(8 * GIB)
    await client.attach(volume.id, "h1")
    with pytest.raises(Conflict, match="drain it first"):
        await client.remove_server("cs-1")
    assert await client.operate("drain", {"servers": ["cs-1"]}) == {"servers": ["cs-1"]}
    with pytest.raises(InUse, match="has its place in"):
        await client.remove_server("cs-1")
    found = await eventually(lambda: _busy(wide, "drain"))
    assert found["total"] > 0
    assert "replicas have yet to leave" in (await checks(wide))["drain"]
    mover = asyncio.create_task(keep_moving(wide.gateways["h1"]))
    await eventually(lambda: _removed(wide, "cs-1"))
    mover.cancel()
    assert await wide.store.get(ChunkServer, "cs-1") is None
    assert await eventually(lambda: _idle(wide, "drain"))
    assert await checks(wide) == {}
    await client.remove_server("cs-1")


async def _removed(cluster: Cluster, server: str) -> bool:
    try:
        await cluster.client.remove_server(server)
    except InUse:
        return False
    return True


async def _worker(cluster: Cluster, name: str) -> Any:
    return next(one for one in (await cluster.client.operate("work"))["workers"] if one["name"] == name)


async def _busy(cluster: Cluster, name: str) -> Any:
    worker = await _worker(cluster, name)
    return worker if worker["state"] == "running" else None


async def _idle(cluster: Cluster, name: str) -> bool:
    return bool((await _worker(cluster, name))["state"] == "idle")


async def test_undrained_servers_are_left_alone(wide: Cluster) -> None:
    await wide.client.operate("drain", {"rack": "rack-4"})
    assert (await wide.store.need(ChunkServer, "cs-4")).value.state == "draining"
    await wide.client.operate("drain", {"servers": ["cs-4"], "undo": True})
    assert (await wide.store.need(ChunkServer, "cs-4")).value.state == "up"
    with pytest.raises(Invalid, match="there are rack-1, rack-2"):
        await wide.client.operate("drain", {"rack": "nowhere"})
    with pytest.raises(NotFound, match="cs-9"):
        await wide.client.operate("drain", {"servers": ["cs-9"]})
    with pytest.raises(Invalid, match="`cs-` and a number"):
        await wide.client.operate("drain", {"servers": ["9"]})


async def test_settings_are_checked(wide: Cluster) -> None:
    async def shown() -> dict[str, Any]:
        return {one["name"]: one["value"] for one in (await wide.client.operate("settings"))["settings"]}

    await wide.client.operate("settings", {"values": {"scrub_period_s": 7, "repair_after_s": None}})
    assert (await shown())["scrub_period_s"] == 7
    assert (await shown())["repair_after_s"] is None
    with pytest.raises(Invalid, match="there is no tunable 'x'"):
        await wide.client.operate("settings", {"values": {"x": 1}})
    with pytest.raises(Invalid, match="give a number from 1"):
        await wide.client.operate("settings", {"values": {"repair_after_s": 0}})


async def test_health_says_what_it_means_for_the_data(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    await wide.client.attach(volume.id, "h1")
    assert (await wide.client.operate("health"))["healthy"]
    assert await checks(wide) == {}
    await wide.servers[0].stop()
    await wide.gateways["h2"].stop()
    wide.servers[1].free_bytes = 150 * GIB
    found = await eventually(lambda: _checks_with(wide, "chunk servers", "gateways", "space"), 20)
    assert "cs-1 does not answer since" in found["chunk servers"]
    assert "repair begins in" in found["chunk servers"] or "lost since" in found["chunk servers"]
    assert "one more lost server stops writes" in found["data"]
    assert "gateway of h2" in found["gateways"]
    assert "cs-2 is 85 % full" in found["space"]
    report = await wide.client.operate("health")
    assert report["level"] == "warning"
    assert sum(report["chunks_by_live_replicas"].values()) == report["chunks"] == 16


async def test_health_does_not_contradict_itself_when_a_server_falls_silent_meanwhile(
    wide: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wide.client.create_volume(GIB)
    session = wide.masters[0].session
    assert session is not None
    count = health.count

    async def while_one_falls_silent(*args: Any) -> health.Data:
        data = await count(*args)
        session.servers._servers["cs-1"].heard_at -= DOWN_AFTER_S
        return data

    monkeypatch.setattr(health, "count", while_one_falls_silent)
    assert await checks(wide) == {}


async def _checks_with(cluster: Cluster, *names: str) -> Any:
    found = await checks(cluster)
    return found if set(names) <= set(found) else None


async def test_scrub_and_salvage_are_handed_on(wide: Cluster) -> None:
    answer = await wide.client.operate("scrub", {})
    assert answer["begun"] == [f"cs-{number}" for number in range(1, 6)]
    assert all("scrub" in server.asked for server in wide.servers)
    volume = await wide.client.create_volume(GIB)
    with pytest.raises(Conflict, match="attach it first"):
        await wide.client.operate("salvage", {"volume": volume.id, "chunk": 3})
    await wide.client.attach(volume.id, "h1")
    await wide.client.operate("salvage", {"volume": volume.id, "chunk": 3})
    (sent,) = [request for request in wide.gateways["h1"].requests if request["op"] == "salvage"]
    assert (sent["volume"], sent["chunk"], sent["generation"]) == (volume_number(volume.id), 3, 1)


async def test_a_server_is_given_up_only_where_that_is_meant_and_loses_no_whole_chunk(wide: Cluster) -> None:
    client, volume = wide.client, await wide.client.create_volume(64 << 20)
    (replicas,) = await chunks(wide, volume.id)
    lost = f"cs-{replicas[0]}"
    with pytest.raises(Invalid, match="`data_is_lost`"):
        await client.operate("give_up", {"server": lost})
    with pytest.raises(NotFound, match="cs-9"):
        await client.operate("give_up", {"server": "cs-9", "data_is_lost": True})
    with pytest.raises(Conflict, match="drain"):
        await client.operate("give_up", {"server": lost, "data_is_lost": True})
    await wide.servers[replicas[0] - 1].stop()
    stale = {str(number): "missed a write" for number in replicas[1:]}
    await wide.store.update(Volume, volume.id, lambda record: replace(record, stale=stale))
    await eventually(lambda: _refused(wide, lost, f"the only replica that counts of chunks of {volume.id}"))
    assert not (await wide.store.need(ChunkServer, lost)).value.given_up


async def _refused(cluster: Cluster, server: str, why: str) -> bool:
    try:
        await cluster.client.operate("give_up", {"server": server, "data_is_lost": True})
    except Conflict as error:
        return why in str(error)
    raise AssertionError(f"{server} was given up")


async def test_nothing_waits_for_a_server_that_was_given_up_and_it_returns_as_an_empty_one(wide: Cluster) -> None:
    await wide.client.operate("settings", {"values": {"repair_after_s": 600}})
    volume = await wide.client.create_volume(64 << 20)
    await wide.client.attach(volume.id, "h1")
    gateway, number = wide.gateways["h1"], volume_number(volume.id)
    (replicas,) = await chunks(wide, volume.id)
    server = wide.servers[replicas[0] - 1]
    await eventually(lambda: _is(wide, server.number, lambda record: record.store == server.store))
    for other in replicas[1:]:
        wide.servers[other - 1].damaged = [{"volume": number, "chunk": 0, "blocks": 1, "named": [9]}]
    await server.stop()
    found = await eventually(lambda: _checks_with(wide, "lost blocks"))
    assert f"`yuntai pangu server give-up cs-{server.number}`" in found["lost blocks"]
    order = {"server": f"cs-{server.number}", "data_is_lost": True}
    assert await wide.client.operate("give_up", order) == {"volumes": [volume.id]}
    assert await wide.client.operate("give_up", order) == {"volumes": [volume.id]}, "asked again"
    assert (await record(wide, volume.id)).stale == {str(server.number): "it was given up"}
    assert await _is(wide, server.number, lambda record: bool(record.given_up) and not record.admitted)
    opened = await eventually(lambda: gateway.open[number] if gateway.open[number]["given_up"] else None)
    assert (opened["given_up"], opened["stale"], opened["generation"]) == ([server.number], [server.number], 1)
    await eventually(lambda: [m["from"] for m in gateway.under_way.get(number, [])] == [server.number])
    found = await checks(wide)
    assert "was given up at" in found["given up"]
    assert "is damaged on every replica: reading it is an error" in found["lost blocks"]
    # With its old disk it comes back like one with a new disk.
    await server.start()
    await eventually(lambda: _is(wide, server.number, lambda record: record.admitted and not record.given_up))
    assert (await record(wide, volume.id)).stale == {str(server.number): "its disk was replaced"}
    assert server.asked.count("admit") == 1
    await eventually(lambda: gateway.open[number]["given_up"] == [])


async def test_a_server_that_was_given_up_is_removed_when_nothing_has_its_place_there(wide: Cluster) -> None:
    volume = await wide.client.create_volume(64 << 20)
    await wide.client.attach(volume.id, "h1")
    (replicas,) = await chunks(wide, volume.id)
    lost = f"cs-{replicas[0]}"
    await wide.servers[replicas[0] - 1].stop()
    await eventually(lambda: _given_up(wide, lost))
    with pytest.raises(InUse, match="has its place in"):
        await wide.client.remove_server(lost)
    mover = asyncio.create_task(keep_moving(wide.gateways["h1"]))
    await eventually(lambda: _removed(wide, lost))
    mover.cancel()
    assert replicas[0] not in (await chunks(wide, volume.id))[0]


async def _given_up(cluster: Cluster, server: str) -> bool:
    try:
        return bool(await cluster.client.operate("give_up", {"server": server, "data_is_lost": True}))
    except Conflict:
        return False


async def _is(cluster: Cluster, server: int, true: Callable[[ChunkServer], bool]) -> bool:
    return true((await cluster.store.need(ChunkServer, f"cs-{server}")).value)


async def test_balance_ends_by_itself(wide: Cluster) -> None:
    assert await wide.client.operate("balance", {}) == {"balancing": False, "from": []}
    await eventually(lambda: _balanced(wide))


async def _balanced(cluster: Cluster) -> bool:
    return not (await cluster.client.operate("settings"))["balancing"]
