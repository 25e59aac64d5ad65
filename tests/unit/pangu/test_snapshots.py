"""Snapshots at the master, over its real HTTP API and the real wire, against fakes in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.pangu.conftest import Cluster
from tests.unit.pangu.test_master import GIB, eventually, record
from yuntai.model.cluster import Volume, VolumeSource, VolumeUsage
from yuntai.pangu import sweeper, wire
from yuntai.pangu.errors import Conflict, InUse, NotFound, Unavailable
from yuntai.pangu.units import volume_number

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper, "EVERY_S", 0.05)
    monkeypatch.setattr(sweeper, "AGAIN_S", 0.05)


async def _hurried(cluster: Cluster) -> None:
    session = await eventually(lambda: cluster.masters[-1].session)
    session.sweeper._quiet_s = 0.1


async def test_delete_leaves_the_list_and_is_swept_everywhere(cluster: Cluster) -> None:
    await _hurried(cluster)
    client = cluster.client
    volume = await client.create_volume(GIB)
    await client.attach(volume.id, "h1")
    nodes = [await client.snapshot(volume.id, f"s-{number}") for number in range(4)]
    assert nodes == [1, 2, 3, 4]
    await client.delete_snapshot(volume.id, "s-1")
    await client.delete_snapshot(volume.id, 3)
    await client.delete_snapshot(volume.id, 3)
    shown = await record(cluster, volume.id)
    assert shown.snapshots == {"1": "done", "4": "done"}
    assert shown.parents == (0, 0, 1, 2, 3, 4)

    async def swept() -> bool:
        return (await record(cluster, volume.id)).swept == {"1": 2, "2": 2, "3": 2}

    await eventually(swept)
    for server in cluster.servers:
        last = server.sweeps[-1]
        assert (last["parents"], last["live"]) == ([0, 0, 1, 2, 3, 4], [1, 4, 5])
        assert last["term"] > 0
    asked = [len(server.sweeps) for server in cluster.servers]
    await asyncio.sleep(0.3)
    assert [len(server.sweeps) for server in cluster.servers] == asked, "swept again without a reason"
    with pytest.raises(NotFound, match="no snapshot 's-1'"):
        await client.rollback(volume.id, "s-1")


async def test_a_dead_layer_waits_a_while_and_for_every_server(cluster: Cluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    await client.snapshot(volume.id, "a")
    await cluster.servers[2].stop()
    await client.delete_snapshot(volume.id, "a")
    await asyncio.sleep(0.5)
    assert not any(server.sweeps for server in cluster.servers), "a read that began before may still be on its way"
    await _hurried(cluster)

    async def two() -> bool:
        return (await record(cluster, volume.id)).swept == {"1": 1, "2": 1}

    await eventually(two)
    session = cluster.masters[0].session
    assert session is not None

    def waiting() -> list[dict[str, Any]]:
        # While the server that is gone is asked once more, it is running.
        return [one for one in session.sweeper.workers() if one["state"] == "waiting"]

    (worker,) = await eventually(waiting)
    assert worker["total"] == 3
    # The next master knows who is left.
    await cluster.add_master("m2")
    await cluster.kill_master(cluster.masters[0])
    before = [len(server.sweeps) for server in cluster.servers]
    await cluster.servers[2].start()
    await _hurried(cluster)

    async def three() -> bool:
        return (await record(cluster, volume.id)).swept == {"1": 1, "2": 1, "3": 1}

    await eventually(three)
    assert [len(server.sweeps) for server in cluster.servers][:2] == before[:2]


async def test_a_sweep_under_way_is_not_begun_anew(cluster: Cluster) -> None:
    await _hurried(cluster)
    client = cluster.client
    volume = await client.create_volume(GIB)
    asked: list[dict[str, Any]] = []
    ready = False

    def sweep(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"done": ready, "freed_bytes": 0}

    for server in cluster.servers:
        server.answers["sweep"] = sweep
    for name in ("a", "b"):
        await client.snapshot(volume.id, name)
    await client.delete_snapshot(volume.id, "a")
    await eventually(lambda: asked)
    await client.snapshot(volume.id, "c")
    await client.delete_snapshot(volume.id, "b")
    before = len(asked)
    await eventually(lambda: len(asked) > before + 6)
    assert {tuple(request["parents"]) for request in asked} == {(0, 0, 1, 2)}
    ready = True

    async def swept() -> bool:
        return (await record(cluster, volume.id)).swept == {"1": 2, "2": 2, "3": 2}

    await eventually(swept)
    assert (asked[-1]["parents"], asked[-1]["live"]) == ([0, 0, 1, 2, 3], [3, 4])


async def test_deleting_succeeds_under_a_lazy_clone_and_the_layer_stays(cluster: Cluster) -> None:
    await _hurried(cluster)
    client = cluster.client
    volume = await client.create_volume(GIB)
    node = await client.snapshot(volume.id, "a")
    clone = await client.create_volume(GIB, source=VolumeSource(volume=volume.id, node=node))
    await client.attach(clone.id, "h1")
    await client.delete_snapshot(volume.id, "a")
    with pytest.raises(NotFound, match="no snapshot node 1"):
        await client.create_volume(GIB, source=VolumeSource(volume=volume.id, node=node))
    with pytest.raises(InUse, match="source of"):
        await client.delete_volume(volume.id)
    await asyncio.sleep(0.4)
    assert not any(server.sweeps for server in cluster.servers)
    tree = await client.tree(volume.id)
    assert [(one.node, one.kind, one.clones) for one in tree.nodes] == [(1, "clone", (clone.id,)), (2, "head", ())]
    event = {"op": "hydrated", "volume": volume_number(clone.id), "generation": 1, "chunks": 16}
    assert await cluster.gateways["h1"].raise_event(**event) == {"answer": "ok"}

    async def swept() -> bool:
        return len((await record(cluster, volume.id)).swept) == 3

    await eventually(swept)
    assert cluster.servers[0].sweeps[-1]["live"] == [2]
    assert (await record(cluster, volume.id)).snapshot_bytes == {}


async def test_what_is_mounted_is_not_deleted(cluster: Cluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    await client.snapshot(volume.id, "a")
    await client.attach(volume.id, "h1", read_only=True, node=1)
    with pytest.raises(InUse, match="attached read-only to h1"):
        await client.delete_snapshot(volume.id, "a")
    with pytest.raises(Conflict, match="attached to h1"):
        await client.rollback(volume.id, "a")
    await client.detach(volume.id, "h1")
    await client.delete_snapshot(volume.id, "a")


async def test_rollback_and_back_to_a_branch_left_earlier(cluster: Cluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    await client.attach(volume.id, "h1")
    one, two = await client.snapshot(volume.id, "one"), await client.snapshot(volume.id, "two")
    with pytest.raises(Conflict, match="attached to h1; detach it"):
        await client.rollback(volume.id, one)
    await client.detach(volume.id, "h1")
    assert (await client.rollback(volume.id, "one", "t1")).head == 4
    assert (await client.rollback(volume.id, "one", "t1")).head == 4
    await client.attach(volume.id, "h1")
    opened = cluster.gateways["h1"].open[volume_number(volume.id)]
    assert (opened["head"], opened["parents"]) == (4, [0, 0, 1, 2, 1])
    three = await client.snapshot(volume.id, "three")
    await client.detach(volume.id, "h1")
    back = await client.rollback(volume.id, two)
    assert (back.parents, back.head) == ((0, 0, 1, 2, 1, 4, 2), 6)
    assert (await client.rollback(volume.id, three)).parents[-1] == 4
    tree = await client.tree(volume.id)
    assert [(n.node, n.parent, n.kind) for n in tree.nodes] == [
        (1, -1, "snapshot"), (2, 1, "snapshot"), (4, 1, "snapshot"), (7, 4, "head"),
    ]  # fmt: skip


async def test_a_group_is_one_transaction_and_one_word(cluster: Cluster) -> None:
    client = cluster.client
    volumes = [(await client.create_volume(GIB)).id for _ in range(3)]
    for volume in volumes[:2]:
        await client.attach(volume, "h1")
    names = {volume: f"s-{index}" for index, volume in enumerate(volumes)}
    nodes = await client.snapshot_group(names)
    assert nodes == dict.fromkeys(volumes, 1)
    told = [r for r in cluster.gateways["h1"].requests if r["op"].startswith("snapshot")]
    assert [sorted(one["volume"] for one in request["volumes"]) for request in told] == [
        sorted(volume_number(volume) for volume in volumes[:2])
    ]
    for volume in volumes:
        shown = await record(cluster, volume)
        assert (shown.snapshots, shown.group, shown.head) == ({"1": "done"}, (), 2)
    assert await client.snapshot_group(names) == nodes
    with pytest.raises(Conflict, match="names of its own"):
        await client.snapshot_group(names | {volumes[2]: "other"})
    await client.attach(volumes[2], "h2")
    with pytest.raises(Conflict, match="h1, h2"):
        await client.snapshot_group({volume: f"t-{volume}" for volume in volumes})
    assert (await record(cluster, volumes[0])).head == 2


async def test_a_group_cut_off_is_finished_together(cluster: Cluster) -> None:
    """The master dies between the transaction and the gateway: the next one switches all at one moment."""
    client, gateway = cluster.client, cluster.gateways["h1"]
    volumes = [(await client.create_volume(GIB)).id for _ in range(2)]
    for volume in volumes:
        await client.attach(volume, "h1")
    hold = asyncio.Event()

    async def never(_: Any) -> None:
        await hold.wait()

    gateway.before["snapshot_group"] = never
    names = {volume: f"s-{volume}" for volume in volumes}
    asking = asyncio.create_task(client.snapshot_group(names))

    async def written() -> bool:
        return all([bool((await record(cluster, volume)).group) for volume in volumes])

    await eventually(written)
    await cluster.add_master("m2")
    await cluster.kill_master(cluster.masters[0])
    del gateway.before["snapshot_group"]

    async def done() -> bool:
        return all([(await record(cluster, volume)).snapshots == {"1": "done"} for volume in volumes])

    await eventually(done)
    hold.set()
    told = [request for request in gateway.requests if request["op"].startswith("snapshot")]
    assert {request["op"] for request in told} == {"snapshot_group"}
    assert all(len(request["volumes"]) == 2 for request in told[:1])
    cluster.client._urls[:] = cluster.urls
    cluster.client._leader = cluster.urls[-1]
    assert await asking == dict.fromkeys(volumes, 1)


async def test_a_gateway_that_refuses_a_group_is_asked_again(cluster: Cluster) -> None:
    client, gateway = cluster.client, cluster.gateways["h1"]
    volumes = [(await client.create_volume(GIB)).id for _ in range(2)]
    for volume in volumes:
        await client.attach(volume, "h1")
    gone = gateway.open.pop(volume_number(volumes[1]))
    cluster.client._retry_for_s = 0.5
    with pytest.raises(Unavailable, match="could not take the snapshot now"):
        await client.snapshot_group(dict.fromkeys(volumes, "g"))
    assert (await record(cluster, volumes[0])).snapshots == {"1": "pending"}
    gateway.open[volume_number(volumes[1])] = gone
    assert await client.snapshot_group(dict.fromkeys(volumes, "g")) == dict.fromkeys(volumes, 1)
    assert (await record(cluster, volumes[0])).snapshots == {"1": "done"}


async def test_no_volume_comes_to_a_guest_while_a_gateway_that_serves_a_group_refuses_to_switch_it(
    cluster: Cluster,
) -> None:
    """It may be of the same group: what the guest writes to it from then on is not in it, what it writes beside is."""
    client, gateway = cluster.client, cluster.gateways["h1"]
    volumes = [(await client.create_volume(GIB)).id for _ in range(3)]
    for volume in volumes[:2]:
        await client.attach(volume, "h1")

    async def refuse(_: Any) -> None:
        raise wire.Refused("not now")

    gateway.before["snapshot_group"] = refuse
    client._retry_for_s = 0.5
    with pytest.raises(Unavailable, match="could not take the snapshot now"):
        await client.snapshot_group(dict.fromkeys(volumes[:2], "g"))
    with pytest.raises(Unavailable, match="could not take the snapshot now"):
        await client.attach(volumes[2], "h1")
    assert (await record(cluster, volumes[2])).state == "available"
    del gateway.before["snapshot_group"]
    assert (await client.attach(volumes[2], "h1")).volume == volumes[2]
    assert (await record(cluster, volumes[0])).snapshots == {"1": "done"}


async def test_clients_are_renewed_where_the_volume_is(cluster: Cluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB)
    await client.renew(volume.id)
    await client.attach(volume.id, "h1")
    await client.renew(volume.id)
    asked = [request for request in cluster.gateways["h1"].requests if request["op"] == "renew"]
    assert [(one["volume"], one["generation"]) for one in asked] == [(volume_number(volume.id), 1)]


async def test_each_chunk_is_counted_once(cluster: Cluster) -> None:
    client = cluster.client
    volume = await client.create_volume(GIB + 4096)
    await client.snapshot(volume.id, "a")
    assert (await client.tree(volume.id)).counted == ""
    tree = await client.tree(volume.id, fresh=True)
    assert tree.current
    assert tree.used_bytes == 2 * 17 * 4096
    assert [(n.node, n.name, n.used_bytes, n.exclusive_bytes, n.shared_bytes) for n in tree.nodes] == [
        (1, "a", 17 * 4096, 17 * 4096, 0),
        (2, "", 17 * 4096, 17 * 4096, 17 * 4096),
    ]
    asked = [
        chunk for server in cluster.servers for chunk in (server.accounts[-1]["chunks"] if server.accounts else [])
    ]
    assert sorted(asked) == list(range(17))
    assert max(len(server.accounts[-1]["chunks"]) for server in cluster.servers if server.accounts) <= 12
    # A stale server is not asked, and a cached count needs nobody.
    await cluster.store.update(Volume, volume.id, lambda one: replace(one, stale={"1": "x"}))
    before = len(cluster.servers[0].accounts)
    await client.tree(volume.id, fresh=True)
    assert len(cluster.servers[0].accounts) == before
    for server in cluster.servers:
        await server.stop()
    assert (await client.tree(volume.id)).used_bytes == tree.used_bytes
    assert (await cluster.store.need(VolumeUsage, volume.id)).value.layers == 3
