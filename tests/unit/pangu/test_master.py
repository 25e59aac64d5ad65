"""The master's whole control, over its real HTTP API and the real wire, against fakes in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from tests.unit.pangu.conftest import Cluster
from yuntai.model.cluster import ChunkServer, Gateway, Placement, Volume, VolumeSource
from yuntai.pangu import wire
from yuntai.pangu.client import PanguClient
from yuntai.pangu.errors import Conflict, Denied, InUse, Invalid, NoPlacement, NotFound, Unavailable
from yuntai.pangu.units import volume_number

pytestmark = pytest.mark.timeout(240)

GIB = 1 << 30


async def eventually(check: Callable[[], Any], within_s: float = 60.0) -> Any:
    async with asyncio.timeout(within_s):
        while True:
            found = check()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


async def record(cluster: Cluster, volume: str) -> Volume:
    return (await cluster.store.need(Volume, volume)).value


async def test_create_is_idempotent_and_placed(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB + 4096)
    assert volume.state == "available"
    placed = (await cluster.store.need(Placement, f"{volume.id}.000000")).value.chunks
    assert len(placed) == 17
    assert all(sorted(replicas) == [1, 2, 3] for replicas in placed)
    named = await cluster.client.create_volume(GIB, volume_id="vol-00000000000000aa")
    assert await cluster.client.create_volume(GIB, volume_id="vol-00000000000000aa") == named
    by_token = await cluster.client.create_volume(GIB, client_token="t")
    assert await cluster.client.create_volume(GIB, client_token="t") == by_token
    with pytest.raises(Invalid, match="other parameters"):
        await cluster.client.create_volume(2 * GIB, client_token="t")
    with pytest.raises(Conflict, match="another size"):
        await cluster.client.create_volume(2 * GIB, volume_id=named.id)
    assert len(await cluster.client.volumes()) == 3
    shown = await cluster.client.show_volume(volume.id)
    assert (shown["chunks"], shown["hydrated"], len(shown["placement"])) == (17, True, 17)


async def test_wrong_requests_are_refused_by_name(cluster: Cluster) -> None:
    for size in (0, 4095, 4097, 5 << 40):
        with pytest.raises(Invalid, match="size_bytes"):
            await cluster.client.create_volume(size)
    with pytest.raises(Invalid, match="volume id 'vol-1' is wrong"):
        await cluster.client.volume("vol-1")
    with pytest.raises(NotFound, match="vol-00000000000000ff"):
        await cluster.client.volume("vol-00000000000000ff")
    with pytest.raises(Invalid, match="unknown field"):
        await cluster.client.request("POST", "/v1/volumes", {"size_bytes": GIB, "siez": 1})
    with pytest.raises(NotFound, match="in this API"):
        await cluster.client.request("GET", "/v2/nothing")
    volume = await cluster.client.create_volume(GIB)
    with pytest.raises(NotFound, match="host h9 has no registered gateway"):
        await cluster.client.attach(volume.id, "h9")


async def test_secret_is_required(cluster: Cluster) -> None:
    async with PanguClient(cluster.urls, b"x" * 32) as stranger:
        with pytest.raises(Denied, match="does not prove"):
            await stranger.volumes()
    async with aiohttp.ClientSession() as http, http.get(cluster.urls[0] + "/v1/volumes") as answer:
        assert answer.status == 401
    async with aiohttp.ClientSession() as http, http.get(cluster.urls[0] + "/v1/health") as answer:
        assert (await answer.json())["role"] in ("leader", "standby")


async def test_attach_again_answers_the_same(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    first = await cluster.client.attach(volume.id, "h1")
    assert first.generation == 1
    assert first.uri == f"nbd+unix:///{volume.id}?socket=/run/yuntai/nbd/{volume.id}.sock"
    assert await cluster.client.attach(volume.id, "h1") == first
    opened = cluster.gateways["h1"].open[volume_number(volume.id)]
    assert opened["servers"] == {str(s.number): s.address for s in cluster.servers}
    assert (opened["head"], opened["parents"], opened["sources"], opened["hydrated_chunks"]) == (1, [0, 0], [], 16)
    assert opened["prefer"] == [1, 2, 3]
    assert (await cluster.client.stats(volume.id))["writes"] == 5
    assert (await cluster.client.detach(volume.id, "h1")).state == "available"
    assert volume_number(volume.id) not in cluster.gateways["h1"].open
    assert (await cluster.client.detach(volume.id, "h1")).state == "available"
    assert (await cluster.client.attach(volume.id, "h1")).generation == 2


async def test_attach_elsewhere_fences(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    with pytest.raises(Conflict, match="not to h2"):
        await cluster.client.detach(volume.id, "h2")
    await cluster.gateways["h1"].stop()
    moved = await cluster.client.attach(volume.id, "h2")
    assert moved.generation == 2
    # The old host comes back, still believing: it may not degrade, and is told to close.
    await cluster.gateways["h1"].start()
    await eventually(lambda: cluster.gateways["h1"].open == {})
    assert (await record(cluster, volume.id)).host == "h2"
    answer = await cluster.gateways["h1"].raise_event(
        op="degrade", volume=volume_number(volume.id), generation=1, server=1, reason="x"
    )
    assert answer == {"answer": "fenced"}


async def test_degrade_and_readmit(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    gateway = cluster.gateways["h1"]
    event = {"op": "degrade", "volume": volume_number(volume.id), "generation": 1, "reason": "hung for 1 s"}
    assert await gateway.raise_event(**event, server=2) == {"answer": "stale", "stale": [2]}
    assert (await record(cluster, volume.id)).stale == {"2": "hung for 1 s"}
    assert await gateway.raise_event(**event, server=2) == {"answer": "stale", "stale": [2]}
    refused = await gateway.raise_event(**event, server=3)
    assert refused["answer"] == "refused"
    assert "cs-2 (hung for 1 s), cs-3" in refused["reason"] or "fewer than 2" in refused["reason"]
    back = await gateway.raise_event(op="readmit", volume=event["volume"], generation=1, server=2)
    assert back == {"answer": "stale", "stale": []}
    assert (await gateway.raise_event(op="nonsense", volume=1, generation=1))["answer"] == "refused"
    assert await gateway.raise_event(op="degrade", volume=999, generation=1, server=1) == {"answer": "fenced"}


async def test_open_may_degrade_before_it_answers(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    gateway = cluster.gateways["h1"]
    seen: list[Any] = []

    async def ask_first(request: dict[str, Any]) -> None:
        event = {"op": "degrade", "volume": request["volume"], "generation": request["generation"], "server": 3}
        seen.append(await gateway.raise_event(**event, reason="did not answer the claim"))

    gateway.before["open"] = ask_first
    async with asyncio.timeout(30):
        await cluster.client.attach(volume.id, "h1")
    assert seen == [{"answer": "stale", "stale": [3]}]


async def test_restarted_gateway_gets_its_volumes_back(cluster: Cluster) -> None:
    volumes = [await cluster.client.create_volume(GIB) for _ in range(5)]
    for volume in volumes:
        await cluster.client.attach(volume.id, "h1")
    await cluster.client.detach(volumes[4].id, "h1")
    await cluster.gateways["h1"].restart()
    await eventually(lambda: len(cluster.gateways["h1"].open) == 4)
    assert {opened["generation"] for opened in cluster.gateways["h1"].open.values()} == {2}
    again = await eventually(lambda: cluster.client.attach(volumes[0].id, "h1"))
    assert again.generation == 2, "opened again once, not twice"


async def test_gateway_that_says_fenced_gets_a_new_generation(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    gateway = cluster.gateways["h1"]
    del gateway.open[volume_number(volume.id)]
    answer = await gateway.raise_event(op="fenced", volume=volume_number(volume.id), generation=1)
    assert answer == {"answer": "ok"}
    await eventually(lambda: gateway.open.get(volume_number(volume.id), {}).get("generation") == 2)


async def test_detach_waits_for_its_gateway_unless_forced(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    gateway = cluster.gateways["h1"]
    await gateway.stop()
    async with PanguClient(cluster.urls, cluster.client._secret, retry_for_s=0.1) as impatient:
        await eventually(lambda: not cluster.masters[0].session.gateways.generation_open("h1", 1))  # type: ignore[union-attr]
        cluster.masters[0].session.gateways._gateways["h1"].ready.clear()  # type: ignore[union-attr]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("yuntai.pangu.serving.CLOSE_TIMEOUT_S", 0.3)
            with pytest.raises(Unavailable, match="gateway of h1"):
                await impatient.detach(volume.id, "h1")
            await impatient.detach(volume.id, "h1", force=True)
    with pytest.raises(Conflict, match="detached by force"):
        await cluster.client.snapshot(volume.id)
    await gateway.start()
    await eventually(lambda: gateway.open == {})
    await cluster.client.attach(volume.id, "h2")
    assert await cluster.client.snapshot(volume.id) == 1


async def test_what_could_not_be_made_durable_at_a_detach_is_not_frozen(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    cluster.gateways["h1"].flushed = False
    assert (await cluster.client.detach(volume.id, "h1")).state == "available"
    with pytest.raises(Conflict, match="attach it once"):
        await cluster.client.snapshot(volume.id)
    await cluster.client.attach(volume.id, "h2")
    assert await cluster.client.snapshot(volume.id) == 1


async def test_snapshot_switches_the_gateway(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    assert await cluster.client.snapshot(volume.id, "before") == 1
    await cluster.client.attach(volume.id, "h1")
    assert await cluster.client.snapshot(volume.id, "s") == 2
    opened = cluster.gateways["h1"].open[volume_number(volume.id)]
    assert (opened["head"], opened["parents"]) == (3, [0, 0, 1, 2])
    assert await cluster.client.snapshot(volume.id, "s") == 2, "the same name is the same snapshot"
    stored = await record(cluster, volume.id)
    assert stored.snapshots == {"1": "done", "2": "done"}


async def test_snapshot_interrupted_is_finished_on_the_next_connection(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    gateway = cluster.gateways["h1"]
    blocked = asyncio.Event()

    async def never(_: dict[str, Any]) -> None:
        blocked.set()
        await asyncio.Event().wait()

    gateway.before["snapshot"] = never
    asked = asyncio.create_task(cluster.client.snapshot(volume.id, "s"))
    await blocked.wait()
    assert (await record(cluster, volume.id)).snapshots == {"1": "pending"}
    with pytest.raises(Conflict, match="still being taken"):
        await cluster.client.create_volume(GIB, source=VolumeSource(volume=volume.id, node=1))
    gateway.before.clear()
    await gateway.restart()
    assert await asked == 1
    assert (await record(cluster, volume.id)).snapshots == {"1": "done"}


async def test_clone_chain_and_delete_order(cluster: Cluster) -> None:
    base = await cluster.client.create_volume(GIB)
    node = await cluster.client.snapshot(base.id)
    with pytest.raises(NotFound, match="no snapshot node 9"):
        await cluster.client.create_volume(GIB, source=VolumeSource(volume=base.id, node=9))
    with pytest.raises(Invalid, match="take at least that"):
        await cluster.client.create_volume(GIB // 2, source=VolumeSource(volume=base.id, node=node))
    clone = await cluster.client.create_volume(2 * GIB, source=VolumeSource(volume=base.id, node=node))
    second_node = await cluster.client.snapshot(clone.id)
    grandchild = await cluster.client.create_volume(2 * GIB, source=VolumeSource(volume=clone.id, node=second_node))
    await cluster.client.attach(grandchild.id, "h1")
    opened = cluster.gateways["h1"].open[volume_number(grandchild.id)]
    assert [(s["volume"], s["layer"], s["size_bytes"]) for s in opened["sources"]] == [
        (volume_number(clone.id), second_node, 2 * GIB),
        (volume_number(base.id), node, GIB),
    ]
    with pytest.raises(InUse, match=clone.id) as caught:
        await cluster.client.delete_volume(base.id)
    assert set(caught.value.details["users"]) == {clone.id, grandchild.id}
    with pytest.raises(Conflict, match="detach it first"):
        await cluster.client.delete_volume(grandchild.id)
    gateway = cluster.gateways["h1"]
    number = volume_number(grandchild.id)
    assert await gateway.raise_event(op="hydrated", volume=number, generation=1, chunks=10) == {"answer": "ok"}
    assert next(v for v in await cluster.client.volumes() if v["id"] == grandchild.id)["progress"] == 31
    await gateway.raise_event(op="hydrated", volume=number, generation=1, chunks=32)
    await cluster.client.delete_volume(clone.id)
    await cluster.client.delete_volume(base.id)
    await eventually(lambda: cluster.replicas.deleted == {volume_number(base.id), volume_number(clone.id)})
    await eventually(lambda: _gone(cluster, base.id))
    await cluster.client.delete_volume(base.id)
    assert await cluster.store.list(Placement, base.id) == []


async def _gone(cluster: Cluster, volume: str) -> bool:
    return await cluster.store.get(Volume, volume) is None


async def test_delete_waits_for_every_server(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.servers[1].stop()
    await cluster.client.delete_volume(volume.id)
    await eventually(lambda: _confirmed(cluster, volume.id, (1, 3)))
    assert (await cluster.client.volume(volume.id)).state == "deleting"
    with pytest.raises(Conflict, match="being deleted"):
        await cluster.client.attach(volume.id, "h1")
    await cluster.servers[1].start()
    cluster.masters[0].session.garbage.wake()  # type: ignore[union-attr]
    await eventually(lambda: _gone(cluster, volume.id))


async def _confirmed(cluster: Cluster, volume: str, by: tuple[int, ...]) -> bool:
    return (await record(cluster, volume)).deleted_on == by


async def test_resize_grows_placement_and_gateway(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    grown = await cluster.client.resize(volume.id, 80 * GIB)
    assert grown.size_bytes == 80 * GIB
    opened = cluster.gateways["h1"].open[volume_number(volume.id)]
    assert (opened["size_bytes"], len(opened["placement"])) == (80 * GIB, 1280)
    assert len(await cluster.store.list(Placement, volume.id)) == 2
    assert (await cluster.client.resize(volume.id, 80 * GIB)).size_bytes == 80 * GIB
    with pytest.raises(Invalid, match="only grows"):
        await cluster.client.resize(volume.id, GIB)


async def test_server_states_are_known_and_recorded_sparingly(cluster: Cluster) -> None:
    servers = await cluster.client.chunkservers()
    assert [(s.id, s.state, s.replicas, s.total_bytes) for s in servers] == [
        (f"cs-{n}", "up", 7, 1000 * GIB) for n in (1, 2, 3)
    ]
    await eventually(lambda: _recorded(cluster, "cs-1", 1000 * GIB))
    before = (await cluster.store.need(ChunkServer, "cs-1")).mod_revision
    await eventually(lambda: cluster.servers[0].asked.count("status") >= 3)
    assert (await cluster.store.need(ChunkServer, "cs-1")).mod_revision == before, "nothing that matters changed"
    await cluster.servers[2].stop()
    await eventually(lambda: _state(cluster, "cs-3", "down"))
    with pytest.raises(NoPlacement, match="cs-3: it is down") as caught:
        await cluster.client.create_volume(GIB)
    assert caught.value.details["servers"] == {"cs-3": "it is down"}
    await cluster.servers[2].start()
    await eventually(lambda: _state(cluster, "cs-3", "up"))
    await cluster.store.update(ChunkServer, "cs-3", lambda r: replace(r, state="draining"))
    await asyncio.sleep(2.5)
    assert (await cluster.store.need(ChunkServer, "cs-3")).value.state == "draining", "the operator's word stays"


async def _recorded(cluster: Cluster, server: str, total_bytes: int) -> bool:
    found = (await cluster.store.need(ChunkServer, server)).value
    return found.total_bytes == total_bytes and bool(found.store)


async def _state(cluster: Cluster, server: str, state: str) -> bool:
    return (await cluster.store.need(ChunkServer, server)).value.state == state


async def test_full_servers_get_no_new_chunks(cluster: Cluster) -> None:
    cluster.servers[0].free_bytes = 100 * GIB
    await eventually(lambda: _free(cluster, 100 * GIB))
    with pytest.raises(NoPlacement, match="90 % used"):
        await cluster.client.create_volume(GIB)


async def _free(cluster: Cluster, free_bytes: int) -> bool:
    return (await cluster.client.chunkservers())[0].free_bytes == free_bytes


async def test_standby_points_to_the_leader_and_takes_over(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    standby = await cluster.add_master("m2")
    async with PanguClient([standby._url], cluster.client._secret) as other:
        assert (await other.volume(volume.id)).host == "h1", "followed to the leader"
        await cluster.kill_master(cluster.masters[0])
        snapshot = await other.snapshot(volume.id, "s")
        assert snapshot == 1
        assert [g["state"] for g in await other.gateways()] == ["up", "up"]
    assert standby.session is not None
    assert (await record(cluster, volume.id)).generation == 1, "taking over disturbs no open volume"


@pytest.mark.parametrize("order", [1, -1])
async def test_a_client_finds_the_new_leader_whatever_it_asked_first(cluster: Cluster, order: int) -> None:
    """No leader for a while after the old one died without a word: then every master is asked again and again."""
    volume = await cluster.client.create_volume(GIB)
    standby = await cluster.add_master("m2")
    async with PanguClient(cluster.urls[::order], cluster.client._secret) as other:
        await other.volume(volume.id)
        stack, task = cluster.running.pop(id(cluster.masters[0]))
        await stack.aclose()  # nobody listens, but its leadership lasts …
        asked = asyncio.create_task(other.volume(volume.id))
        await asyncio.sleep(2.5)
        assert not asked.done()
        task.cancel()  # … until now
        await asyncio.gather(task, return_exceptions=True)
        assert (await asked).id == volume.id
    assert standby.session is not None


async def test_deposed_leader_writes_nothing(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    session = cluster.masters[0].session
    assert session is not None
    cluster.memory.expire(max(cluster.memory.leases))
    refused = await session.volumes._office.write([await session.office.volume(volume.id)], [])
    assert not refused
    await eventually(lambda: cluster.masters[0].session not in (None, session))
    assert (await cluster.client.volume(volume.id)).generation == 1


async def test_outage_of_the_store_is_told_and_ends(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    await cluster.client.attach(volume.id, "h1")
    cluster.memory.available = False
    async with PanguClient(cluster.urls, cluster.client._secret, retry_for_s=0.1) as impatient:
        with pytest.raises(Unavailable):
            await impatient.volume(volume.id)
    gateway = cluster.gateways["h1"]
    late = asyncio.create_task(_degraded(gateway, volume))
    await asyncio.sleep(0.5)
    cluster.memory.available = True
    async with asyncio.timeout(60):
        assert await late == {"answer": "stale", "stale": [2]}
    assert volume_number(volume.id) in gateway.open


async def _degraded(gateway: Any, volume: Volume) -> Any:
    """Ask as a real gateway does: again on a new connection while there is no answer."""
    while True:
        await eventually(lambda: gateway.masters)
        try:
            async with asyncio.timeout(1):
                return await gateway.raise_event(
                    op="degrade", volume=volume_number(volume.id), generation=1, server=2, reason="x"
                )
        except (TimeoutError, OSError, wire.WireError):
            await asyncio.sleep(0.1)


async def test_a_process_at_the_wrong_address_is_not_believed(cluster: Cluster) -> None:
    """Host h2 is registered at the address of h1's gateway, and cs-2 at that of cs-1."""
    volume = await cluster.client.create_volume(GIB)
    await cluster.store.put(Gateway(id="h2", address=cluster.gateways["h1"].address))
    await cluster.store.update(ChunkServer, "cs-2", lambda r: replace(r, address=cluster.servers[0].address))
    await cluster.client.attach(volume.id, "h1")
    await asyncio.sleep(0.5)
    event = {"op": "degrade", "volume": volume_number(volume.id), "generation": 1, "server": 1, "reason": "x"}
    assert await cluster.gateways["h1"].raise_event(**event) == {"answer": "stale", "stale": [1]}
    states = {g["id"]: g["state"] for g in await cluster.client.gateways()}
    assert states == {"h1": "up", "h2": "down"}
    await eventually(lambda: _state(cluster, "cs-2", "down"))


async def test_registration_changes_are_followed(cluster: Cluster) -> None:
    volume = await cluster.client.create_volume(GIB)
    gateway = cluster.gateways["h2"]
    await gateway.stop()
    gateway.port = 0
    await gateway.start()
    await cluster.store.put(Gateway(id="h2", address=gateway.address))
    assert (await cluster.client.attach(volume.id, "h2")).generation >= 1
    await cluster.store.delete(Gateway, "h2")
    await eventually(lambda: _hosts(cluster, ["h1"]))


async def _hosts(cluster: Cluster, hosts: list[str]) -> bool:
    return [g["id"] for g in await cluster.client.gateways()] == hosts
