"""The store repairs itself: moves, tending, new disks, garbage, settings; over the real wire, against fakes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.pangu.conftest import Cluster
from tests.unit.pangu.fakes import FakeGateway
from tests.unit.pangu.test_master import GIB, eventually, record
from yuntai.model.cluster import ChunkServer, PanguSettings, Placement, Volume, VolumeSource
from yuntai.pangu import wire
from yuntai.pangu.errors import Unavailable
from yuntai.pangu.servers import RECORD_EVERY_S
from yuntai.pangu.units import volume_number

pytestmark = pytest.mark.timeout(240)


async def chunks(cluster: Cluster, volume: str) -> list[tuple[int, ...]]:
    return list((await cluster.store.need(Placement, f"{volume}.000000")).value.chunks)


async def drain(cluster: Cluster, server: int, state: Any = "draining") -> None:
    await cluster.store.update(ChunkServer, f"cs-{server}", lambda r: replace(r, state=state))


async def moved(gateway: FakeGateway, volume: int, generation: int) -> Any:
    """Do what a gateway does when its joining replicas have everything."""
    return await gateway.raise_event(
        op="moved", volume=volume, generation=generation, moves=gateway.under_way.get(volume, [])
    )


async def keep_moving(gateway: FakeGateway) -> None:
    while True:
        await asyncio.sleep(0.02)
        for volume, moves in list(gateway.under_way.items()):
            if moves and volume in gateway.open and gateway.masters:
                answer = await moved(gateway, volume, gateway.open[volume]["generation"])
                gateway.under_way[volume] = [m for m in moves if m not in answer.get("moves", [])]


async def test_a_drained_server_is_emptied_by_the_gateway_that_has_the_volume(wide: Cluster) -> None:
    volume = await wide.client.create_volume(8 * GIB)
    await wide.client.attach(volume.id, "h1")
    gateway, number = wide.gateways["h1"], volume_number(volume.id)
    before = await chunks(wide, volume.id)
    assert any(1 in replicas for replicas in before)
    await drain(wide, 1)
    wanted = await eventually(lambda: gateway.under_way.get(number))
    assert all(move["from"] == 1 and move["to"] != 1 for move in wanted)
    request = next(r for r in gateway.requests if r["op"] == "moves")
    assert {str(move["to"]) for move in wanted} <= set(request["servers"])
    done = {"op": "moved", "volume": number, "generation": 1, "moves": wanted}
    answer = await gateway.raise_event(**done)
    assert (answer["answer"], answer["moves"]) == ("placed", wanted)
    assert await gateway.raise_event(**done) == answer, "the answer was lost: it is committed all the same"
    assert (await record(wide, volume.id)).placed == len(wanted)
    mover = asyncio.create_task(keep_moving(gateway))
    await eventually(lambda: _without(wide, volume.id, 1))
    mover.cancel()
    after = await chunks(wide, volume.id)
    assert all(len(set(replicas)) == 3 for replicas in after)
    assert sum(len(set(a) - set(b)) for a, b in zip(after, before, strict=True)) == sum(1 in r for r in before)


async def _without(cluster: Cluster, volume: str, server: int) -> bool:
    return not any(server in replicas for replicas in await chunks(cluster, volume))


async def test_a_volume_that_is_shown_read_only_is_moved_and_healed(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    await wide.client.attach(volume.id, "h1")
    await wide.client.detach(volume.id, "h1")
    node = await wide.client.snapshot(volume.id, "s")
    await wide.client.attach(volume.id, "h1", read_only=True, node=node)
    gateway, number = wide.gateways["h1"], volume_number(volume.id)
    opened = gateway.open[number]
    assert (opened["head"], opened["upkeep"]["head"], opened["upkeep"]["hydrate"]) == (node, node + 1, True)
    chunk, here = next((c, r[0]) for c, r in enumerate(await chunks(wide, volume.id)) if r[0] != 1)
    wide.servers[here - 1].damaged = [{"volume": number, "chunk": chunk, "blocks": 1}]
    await eventually(lambda: any(r["op"] == "heal" and r["server"] == here for r in gateway.requests))
    await drain(wide, 1)
    mover = asyncio.create_task(keep_moving(gateway))
    await eventually(lambda: _without(wide, volume.id, 1))
    mover.cancel()


async def test_what_was_never_written_is_shown_by_its_first_layer(wide: Cluster) -> None:
    gateway = wide.gateways["h1"]
    volume = await wide.client.create_volume(GIB, keep_s=60)
    number = volume_number(volume.id)
    await wide.client.attach(volume.id, "h1", read_only=True)
    assert (gateway.open[number]["head"], gateway.open[number]["upkeep"]["head"]) == (0, 1)
    assert not gateway.open[number]["upkeep"]["hydrate"], "it is read once"
    await wide.client.detach(volume.id, "h1")
    await wide.client.attach(volume.id, "h1")
    assert (gateway.open[number]["head"], gateway.open[number]["upkeep"]) == (1, None)
    await wide.client.detach(volume.id, "h1")
    await wide.client.attach(volume.id, "h1", read_only=True)
    assert (gateway.open[number]["head"], gateway.open[number]["upkeep"]["head"]) == (1, 1)


async def test_moved_is_answered_fenced_to_whoever_lost_the_volume(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    await wide.client.attach(volume.id, "h1")
    await drain(wide, 1)
    gateway, number = wide.gateways["h1"], volume_number(volume.id)
    wanted = await eventually(lambda: gateway.under_way.get(number))
    await wide.client.attach(volume.id, "h2")
    late = await gateway.raise_event(op="moved", volume=number, generation=1, moves=wanted)
    assert late == {"answer": "fenced"}
    assert any(1 in replicas for replicas in await chunks(wide, volume.id))


async def test_a_server_that_comes_back_in_time_is_not_left(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    await wide.client.attach(volume.id, "h1")
    gateway, number = wide.gateways["h1"], volume_number(volume.id)
    session = wide.masters[0].session
    assert session is not None
    known, grace_s = session.servers._servers["cs-1"], 8
    await wide.client.operate("settings", {"values": {"repair_after_s": grace_s}})
    await wide.servers[0].stop()

    def begun() -> Any:
        session.mover.wake()
        return gateway.under_way.get(number)

    wanted = await eventually(begun)
    # Its record says to the second since when it is away.
    assert asyncio.get_running_loop().time() - known.heard_at > grace_s - 1
    assert {move["from"] for move in wanted} == {1}
    await wide.servers[0].start()
    await eventually(lambda: gateway.under_way.get(number) == [])


async def test_an_unattached_volume_is_opened_moved_and_closed(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    number = volume_number(volume.id)
    await drain(wide, 2)
    host = await eventually(lambda: _tender(wide, volume.id))
    gateway = wide.gateways[host]
    await eventually(lambda: number in gateway.open)
    assert (gateway.open[number]["export"], gateway.open[number]["generation"]) == ("", 1)
    mover = asyncio.create_task(keep_moving(gateway))
    await eventually(lambda: _without(wide, volume.id, 2))
    await eventually(lambda: number not in gateway.open)
    mover.cancel()
    after = await record(wide, volume.id)
    assert (after.state, after.tended_by, after.generation) == ("available", "", 1)


async def _tender(cluster: Cluster, volume: str) -> str:
    return (await record(cluster, volume)).tended_by


async def test_attaching_takes_a_tended_volume_away(wide: Cluster) -> None:
    base = await wide.client.create_volume(GIB)
    node = await wide.client.snapshot(base.id)
    clone = await wide.client.create_volume(GIB, source=VolumeSource(volume=base.id, node=node))
    host = await eventually(lambda: _tender(wide, clone.id))
    number = volume_number(clone.id)
    await eventually(lambda: number in wide.gateways[host].open)
    assert wide.gateways[host].open[number]["sources"]
    hydrated = {"op": "hydrated", "volume": number, "generation": 1, "chunks": 3}
    assert await wide.gateways[host].raise_event(**hydrated) == {"answer": "ok"}
    other = "h1" if host == "h2" else "h2"
    assert (await wide.client.attach(clone.id, other)).generation == 2
    await eventually(lambda: number not in wide.gateways[host].open)
    assert await wide.gateways[host].raise_event(**hydrated) == {"answer": "fenced"}
    assert (await record(wide, clone.id)).tended_by == ""


async def test_a_replaced_disk_counts_no_more_before_it_is_let_in(wide: Cluster) -> None:
    volume = await wide.client.create_volume(8 * GIB)
    await wide.client.attach(volume.id, "h1")
    await eventually(lambda: _store(wide, 3, "store-3"))
    server, stale_when_admitted = wide.servers[2], []
    work = server.work

    def watched(request: dict[str, Any]) -> Any:
        if request["op"] == "admit":
            entries = wide.memory.entries.items()
            found = next(e.value for key, e in entries if key.endswith(volume.id.encode()) and b"/volume/" in key)
            stale_when_admitted.append(b"its disk was replaced" in found)
        return work(request)

    server.work = watched  # type: ignore[method-assign]
    server.swap_disk()
    await eventually(lambda: server.admitted)
    assert stale_when_admitted == [True]
    assert (await record(wide, volume.id)).stale == {"3": "its disk was replaced"}
    await eventually(lambda: _store(wide, 3, "new-store-3"))
    gateway = wide.gateways["h1"]
    back = await gateway.raise_event(op="readmit", volume=volume_number(volume.id), generation=1, server=3)
    assert back == {"answer": "stale", "stale": []}


async def test_what_was_watched_meanwhile_is_newer_than_what_was_written(
    wide: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wide.client.create_volume(GIB)
    await eventually(lambda: _store(wide, 3, "store-3"))
    session = wide.masters[0].session
    assert session is not None
    known, real = session.servers._servers["cs-3"], session.office.store.update

    async def answered_late(*args: Any, **more: Any) -> Any:
        written = await real(*args, **more)
        if args[1] == "cs-3":
            await drain(wide, 3)
            await eventually(lambda: known.record.state == "draining")
        return written

    monkeypatch.setattr(session.office.store, "update", answered_late)
    await session.servers._write(known, asyncio.get_running_loop().time() + RECORD_EVERY_S)
    assert known.record.state == "draining"


async def test_a_record_known_late_is_not_taken_for_another_disk(wide: Cluster) -> None:
    """A write of ours may be answered after a newer one was watched: what is in memory is the older one."""
    volume = await wide.client.create_volume(GIB)
    await eventually(lambda: _store(wide, 3, "store-3"))
    session = wide.masters[0].session
    assert session is not None
    known = session.servers._servers["cs-3"]
    known.record = replace(known.record, store="", admitted=True)
    session.servers._live_until = 0.0
    before = (await wide.store.need(ChunkServer, "cs-3")).mod_revision
    await session.admission.look(3, session.servers.statuses()[3])
    assert (await record(wide, volume.id)).stale == {}
    assert (await wide.store.need(ChunkServer, "cs-3")).mod_revision == before


async def test_a_disk_is_not_let_in_while_a_replica_of_the_old_one_may_be_about_to_count(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    await wide.client.attach(volume.id, "h1")
    gateway, number, placed = wide.gateways["h1"], volume_number(volume.id), (await chunks(wide, volume.id))[0]
    server = next(one for one in wide.servers if one.number not in placed)
    move = {"chunk": 0, "from": placed[0], "to": server.number}
    handle, raised = gateway.handle, [move]

    def joining(request: dict[str, Any]) -> Any:
        answer = handle(request)
        return answer | {"under_way": list(raised)} if request["op"] == "moves" else answer

    gateway.handle = joining  # type: ignore[method-assign]
    await eventually(lambda: _store(wide, server.number, server.store))
    server.swap_disk()
    await eventually(lambda: _waits(wide, server.number))
    late = await gateway.raise_event(op="moved", volume=number, generation=1, moves=[move])
    assert late == {"answer": "placed", "moves": []}
    await asyncio.sleep(1)
    assert not server.admitted
    raised.clear()
    await eventually(lambda: server.admitted)
    assert (await chunks(wide, volume.id))[0] == placed


async def _waits(cluster: Cluster, server: int) -> bool:
    return not (await cluster.store.need(ChunkServer, f"cs-{server}")).value.admitted


async def _store(cluster: Cluster, server: int, store: str) -> bool:
    found = (await cluster.store.need(ChunkServer, f"cs-{server}")).value
    return (found.store, found.admitted) == (store, True)


async def test_nothing_that_is_named_is_dropped(wide: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yuntai.pangu.holdings.QUIET_S", 0.5)
    volume = await wide.client.create_volume(8 * GIB)
    await wide.client.attach(volume.id, "h1")
    number, gateway = volume_number(volume.id), wide.gateways["h1"]
    placed = await chunks(wide, volume.id)
    for server in wide.servers:
        for chunk in range(len(placed)):
            server.hold(number, chunk)
    gateway.under_way[number] = []
    free = next((c, s) for c, replicas in enumerate(placed) for s in range(1, 6) if s not in replicas)
    handle = gateway.handle

    def joining(request: dict[str, Any]) -> Any:
        answer = handle(request)
        if request["op"] == "moves":
            answer["under_way"] = [{"chunk": free[0], "from": placed[free[0]][0], "to": free[1]}]
        return answer

    gateway.handle = joining  # type: ignore[method-assign]
    await eventually(lambda: sum(len(s.held[number]) for s in wide.servers) == 3 * len(placed) + 1)
    for server in wide.servers:
        named = {c for c, replicas in enumerate(placed) if server.number in replicas or free == (c, server.number)}
        assert set(server.held[number]) == named
    assert {server.term for server in wide.servers} == {wide.masters[0].session.office.term}  # type: ignore[union-attr]


async def test_what_destroys_is_signed_for_the_server_as_it_runs_now(wide: Cluster) -> None:
    first, second, old = wide.servers[:3]
    old.run = ""
    volume = await wide.client.create_volume(GIB)
    holders = {number for replicas in await chunks(wide, volume.id) for number in replicas}
    session = wide.masters[0].session
    assert session is not None
    await eventually(lambda: all(server.terms for server in wide.servers if server is not old))
    first.run = "it was started again"
    await session.servers.call(1, {"op": "sweep", "volume": 1, "term": session.office.term}, 5)
    assert first.sweeps == [{"op": "sweep", "volume": 1, "term": session.office.term}]
    second.answers["sweep"] = lambda _: (_ for _ in ()).throw(wire.Refused("not allowed: order: its clock"))
    with pytest.raises(Unavailable, match="cs-2 does not follow orders"):
        await session.servers.call(2, {"op": "sweep", "volume": 1, "term": 1}, 5)
    await session.servers.call(3, {"op": "sweep", "volume": 1, "term": 1}, 5)
    assert (old.sweeps, old.terms) == ([{"op": "sweep", "volume": 1, "term": 1}], [])
    await wide.client.delete_volume(volume.id)
    await eventually(
        lambda: all("delete_volume" in server.asked for server in wide.servers if server.number in holders)
    )


async def test_lost_blocks_are_named(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    number, replicas = volume_number(volume.id), (await chunks(wide, volume.id))[2]
    for server, blocks in zip(replicas, ([5, 9], [9], [9, 11]), strict=True):
        wide.servers[server - 1].damaged = [{"volume": number, "chunk": 2, "blocks": 2, "named": blocks}]
    session = wide.masters[0].session
    assert session is not None
    await eventually(lambda: session.healing.lost() == [(volume.id, 2, 9, ())])
    report = await wide.client.operate("health")
    (lost,) = [one for one in report["checks"] if one["name"] == "lost blocks"]
    assert "block 9 of chunk 2" in str(lost)
    assert "is an error" in str(lost)
    await wide.servers[replicas[0] - 1].stop()
    others = (replicas[0],)
    await eventually(lambda: session.healing.lost() == [(volume.id, 2, 9, others)], within_s=30)
    report = await wide.client.operate("health")
    (lost,) = [one for one in report["checks"] if one["name"] == "lost blocks"]
    assert f"cs-{replicas[0]} may have it" in str(lost)


async def test_a_volume_without_a_record_is_not_deleted_at_once(wide: Cluster) -> None:
    wide.servers[0].hold(77, 0)
    holdings = wide.masters[0].session.holdings  # type: ignore[union-attr]
    await eventually(lambda: "vol-000000000000004d" in holdings.unknown)
    assert 77 in wide.servers[0].held
    await wide.store.update(
        PanguSettings, "pangu", lambda s: replace(s, tunables={**s.tunables, "unknown_volume_after_s": 1})
    )
    await eventually(lambda: 77 not in wide.servers[0].held)


async def test_damage_is_healed_by_whoever_has_the_volume(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    await wide.client.attach(volume.id, "h1")
    number, placed = volume_number(volume.id), await chunks(wide, volume.id)
    server = wide.servers[placed[4][0] - 1]
    server.damaged = [{"volume": number, "chunk": 4, "blocks": 2}]
    healed = await eventually(lambda: [r for r in wide.gateways["h1"].requests if r["op"] == "heal"])
    assert (healed[0]["server"], healed[0]["chunks"], healed[0]["generation"]) == (server.number, [4], 1)


async def test_settings_reach_everybody_also_after_a_restart(wide: Cluster) -> None:
    tunables = {"scrub_bytes_per_s": 5, "rebuild_bytes_per_s": 7}
    await wide.store.update(PanguSettings, "pangu", lambda s: replace(s, tunables={**s.tunables, **tunables}))
    await eventually(lambda: all(s.tunables == {"scrub_bytes_per_s": 5} for s in wide.servers))
    await eventually(lambda: all(g.tunables == {"rebuild_bytes_per_s": 7} for g in wide.gateways.values()))


async def test_a_boot_set_is_kept_and_handed_out(wide: Cluster) -> None:
    base = await wide.client.create_volume(GIB)
    node = await wide.client.snapshot(base.id)
    source = VolumeSource(volume=base.id, node=node)
    clones = [await wide.client.create_volume(GIB, source=source) for _ in range(2)]
    await wide.client.attach(clones[0].id, "h1")
    opened = wide.gateways["h1"].open[volume_number(clones[0].id)]
    assert opened["boot_set"] == []
    ranges = [{"chunk": 3, "block": 5, "blocks": 9}, {"chunk": 0, "block": 0, "blocks": 1}]
    event = {"op": "boot_set", "volume": volume_number(clones[0].id), "generation": opened["generation"]}
    assert await wide.gateways["h1"].raise_event(**event, ranges=ranges) == {"answer": "ok"}
    assert await wide.gateways["h1"].raise_event(**event, ranges=ranges[:1]) == {"answer": "ok"}
    await wide.client.attach(clones[1].id, "h1")
    assert wide.gateways["h1"].open[volume_number(clones[1].id)]["boot_set"] == ranges, "the first one stays"


async def test_the_next_master_plans_again(wide: Cluster) -> None:
    volume = await wide.client.create_volume(GIB)
    await wide.client.attach(volume.id, "h1")
    gateway, number = wide.gateways["h1"], volume_number(volume.id)
    await drain(wide, 1)
    wanted = await eventually(lambda: gateway.under_way.get(number))
    await wide.add_master("m2")
    await wide.kill_master(wide.masters[0])
    await eventually(lambda: wide.masters[1].session is not None)
    await eventually(lambda: gateway.masters)
    answer = await eventually(lambda: moved(gateway, number, 1))
    assert answer["moves"] == wanted, "what was finished under the old master counts under the new one"
    assert isinstance((await wide.store.need(Volume, volume.id)).value.placed, int)
