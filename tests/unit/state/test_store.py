"""One suite, two stores: what every other package relies on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.etcd_process import EtcdProcess
from tests.unit.state.conftest import MemoryWorld, World
from yuntai.model.cluster import Account, Gateway
from yuntai.state import (
    Absent,
    Conflict,
    Corrupt,
    Deleted,
    EtcdStore,
    Exists,
    Invalid,
    LeaseLost,
    MemoryStore,
    NotFound,
    Present,
    Put,
    Reset,
    Store,
    Unavailable,
    Unchanged,
    UnsupportedVersion,
)

pytestmark = pytest.mark.timeout(240)


def account(name_id: str, name: str = "n") -> Account:
    return Account(id=name_id, name=name, created="2026-01-01T00:00:00Z")


async def test_get_and_list(store: Store) -> None:
    assert await store.get(Account, "a1") is None
    for name in ("b1", "a2", "a1"):
        await store.create(account(name))
    await store.put(Gateway(id="a1", address="x:1"))
    found = await store.get(Account, "a1")
    assert found is not None
    assert found.value == account("a1")
    assert [r.value.id for r in await store.list(Account)] == ["a1", "a2", "b1"]
    assert [r.value.id for r in await store.list(Account, "a")] == ["a1", "a2"]
    with pytest.raises(NotFound, match="account 'zz'"):
        await store.need(Account, "zz")


async def test_create_once(store: Store) -> None:
    await store.create(account("a"))
    with pytest.raises(Exists, match="account 'a'"):
        await store.create(account("a", "other"))
    assert (await store.need(Account, "a")).value.name == "n"


async def test_mod_revision_grows_and_unchanged_holds_it(store: Store) -> None:
    await store.create(account("a"))
    first = await store.need(Account, "a")
    assert await store.txn(compare=[Unchanged(first)], put=[account("a", "2")])
    second = await store.need(Account, "a")
    assert second.mod_revision > first.mod_revision
    assert not await store.txn(compare=[Unchanged(first)], put=[account("a", "3")])
    assert await store.delete(Account, "a")
    assert not await store.txn(compare=[Unchanged(second)], put=[account("a", "3")])
    assert not await store.delete(Account, "a")


async def test_txn_is_all_or_nothing(store: Store) -> None:
    await store.create(account("a"))
    refused = await store.txn(
        compare=[Present(Account, "a"), Absent(Account, "a")], put=[account("b")], delete=[(Account, "a")]
    )
    assert not refused
    assert [r.value.id for r in await store.list(Account)] == ["a"]
    assert await store.txn(
        compare=[Present(Account, "a"), Absent(Account, "c")],
        put=[account("b"), account("c")],
        delete=[(Account, "a"), (Account, "never")],
    )
    found = await store.list(Account)
    assert [r.value.id for r in found] == ["b", "c"]
    assert len({r.mod_revision for r in found}) == 1, "one transaction, one revision"


async def test_limits_are_named(store: Store) -> None:
    with pytest.raises(Invalid, match="twice"):
        await store.txn(put=[account("a")], delete=[(Account, "a")])
    with pytest.raises(Invalid, match="128"):
        await store.txn(put=[account(str(n)) for n in range(129)])
    with pytest.raises(Invalid, match="cannot be a key"):
        await store.get(Account, "")
    with pytest.raises(Invalid, match="cannot be a key"):
        await store.create(account("a\nb"))
    assert await store.txn(put=[account(f"{n:03}") for n in range(128)])


async def test_list_takes_several_pages(store: Store) -> None:
    for start in range(0, 1200, 100):
        await store.txn(put=[account(f"{n:05}") for n in range(start, start + 100)])
    assert [r.value.id for r in await store.list(Account)] == [f"{n:05}" for n in range(1200)]


async def test_update_loses_no_increment(world: World, store: Store) -> None:
    await store.create(account("a", "0"))
    others = [world.connect() for _ in range(4)]

    async def add(one: Store) -> None:
        for _ in range(10):
            await one.update(Account, "a", lambda r: replace(r, name=str(int(r.name) + 1)), attempts=200)

    await asyncio.gather(*(add(one) for one in others))
    assert (await store.need(Account, "a")).value.name == "40"


async def test_update_ends(store: Store) -> None:
    await store.create(account("a", "0"))
    turns = 0

    def disturb(record: Account) -> Account:
        nonlocal turns
        turns += 1
        return replace(record, name=f"mine {turns}")

    class Disturbed(type(store)):  # type: ignore[misc]
        async def need(self, kind: Any, id: str) -> Any:  # noqa: A002
            found = await super().need(kind, id)
            await store.put(account("a", f"theirs {turns}"))
            return found

    store_now = store
    store_now.__class__, original = Disturbed, store_now.__class__
    try:
        with pytest.raises(Conflict, match="5 times"):
            await store_now.update(Account, "a", disturb, attempts=5)
    finally:
        store_now.__class__ = original
    assert turns == 5
    assert await store.update(Account, "a", lambda _: None) == account("a", "theirs 4")
    with pytest.raises(NotFound):
        await store.update(Account, "gone", lambda r: r)


async def test_newer_record_is_refused(world: World, store: Store) -> None:
    body = msgspec.json.encode({"v": 2, "id": "a", "name": "n", "created": "", "new_field": 1})
    await world.write_raw("/yuntai/v1/account/a", body)
    with pytest.raises(UnsupportedVersion, match=r"version 2.*upgrade"):
        await store.get(Account, "a")
    with pytest.raises(UnsupportedVersion):
        await store.list(Account)
    await world.write_raw("/yuntai/v1/account/a", b"{]")
    with pytest.raises(Corrupt, match="/yuntai/v1/account/a"):
        await store.get(Account, "a")


async def next_of(events: AsyncIterator[object], within_s: float = 60.0) -> object:
    async with asyncio.timeout(within_s):
        return await anext(events)


async def test_watch_tells_everything_in_order(world: World, store: Store) -> None:
    await store.create(account("a"))
    writer = world.connect()
    async with aclosing(store.watch(Account)) as events:
        first = await next_of(events)
        assert isinstance(first, Reset)
        assert [r.value.id for r in first.records] == ["a"]
        await writer.put(Gateway(id="x", address="y:1"))
        for n in range(20):
            await writer.put(account("b", str(n)))
        await writer.delete(Account, "a")
        seen = [await next_of(events) for _ in range(21)]
        assert [e.record.value.name for e in seen if isinstance(e, Put)] == [str(n) for n in range(20)]
        assert seen[-1] == Deleted("a")
        revisions = [e.record.mod_revision for e in seen if isinstance(e, Put)]
        assert revisions == sorted(set(revisions))
        stored = await store.need(Account, "b")
        assert stored == next(e.record for e in reversed(seen) if isinstance(e, Put))


async def test_watch_of_a_prefix(world: World, store: Store) -> None:
    async with aclosing(store.watch(Account, "b")) as events:
        assert await next_of(events) == Reset(())
        await store.put(account("a1"))
        await store.put(account("c1"))
        await store.put(account("b1"))
        event = await next_of(events)
        assert isinstance(event, Put)
        assert event.record.value.id == "b1"


async def test_watch_survives_a_restart(world: World, store: Store) -> None:
    await store.create(account("a"))
    async with aclosing(store.watch(Account)) as events:
        assert isinstance(await next_of(events), Reset)
        await store.create(account("b"))
        assert isinstance(await next_of(events), Put)
        await world.restart()
        again = await next_of(events)
        assert isinstance(again, Reset)
        assert [r.value.id for r in again.records] == ["a", "b"]
        await world.connect().put(account("c"))
        event = await next_of(events)
        assert isinstance(event, Put)
        assert event.record.value.id == "c"


async def test_watch_survives_a_compaction(world: World, store: Store) -> None:
    await store.create(account("a"))
    async with aclosing(store.watch(Account)) as events:
        assert isinstance(await next_of(events), Reset)
        # While the consumer is busy with its first event, what it would read next is compacted away.
        for name in "123":
            await world.connect().put(account("a", name))
        await world.connect().delete(Account, "a")
        await world.connect().put(account("b"))
        await world.compact()
        seen = await next_of(events)
        assert isinstance(seen, Reset)
        assert [r.value.id for r in seen.records] == ["b"]
        await world.connect().put(account("c"))
        assert isinstance(await next_of(events), Put)


async def test_calls_fail_in_time_during_an_outage(world: World, store: Store) -> None:
    await store.create(account("a"))
    out = asyncio.create_task(world.outage(13.0))
    await asyncio.sleep(0.3)
    with pytest.raises(Unavailable):
        async with asyncio.timeout(6):
            await store.get(Account, "a")
    with pytest.raises(Unavailable):
        async with asyncio.timeout(6):
            await store.put(account("b"))
    await out
    async with asyncio.timeout(5):
        assert (await store.need(Account, "a")).value == account("a")


async def test_lease_ends_with_its_holder(world: World, store: Store) -> None:
    watcher = world.connect()
    async with store.lease(2) as lease:
        await store.put(account("leased"), lease=lease)
        await store.put(account("kept"))
        await asyncio.sleep(3)  # longer than the lease: it is renewed
        assert not lease.lost.is_set()
        assert await watcher.get(Account, "leased") is not None
    assert await watcher.get(Account, "leased") is None
    assert await watcher.get(Account, "kept") is not None
    assert lease.lost.is_set()
    with pytest.raises(LeaseLost):
        await store.put(account("late"), lease=lease)


async def test_lost_lease_is_told(world: World, store: Store) -> None:
    async with store.lease(2) as lease:
        await store.put(account("leased"), lease=lease)
        await world.lose_lease(lease.id)
        async with asyncio.timeout(5):
            await lease.lost.wait()
        assert await store.get(Account, "leased") is None
        with pytest.raises(LeaseLost):
            await store.put(account("late"), lease=lease)


async def test_one_leader_at_a_time_and_succession(world: World) -> None:
    order: list[str] = []
    leading = 0

    async def stand(name: str) -> None:
        nonlocal leading
        store = world.connect()
        async with store.election("e", name, ttl_s=2) as leadership:
            leading += 1
            assert leading == 1
            order.append(name)
            assert await store.leader("e") == name
            assert await store.txn(compare=[leadership.guard], put=[account("led", name)])
            await asyncio.sleep(0.2)
            leading -= 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(stand(n) for n in ("x", "y", "z")))
    assert sorted(order) == ["x", "y", "z"]
    assert await world.connect().leader("e") is None


async def test_deposed_leader_is_told_and_fenced(world: World) -> None:
    one, two = world.connect(), world.connect()
    async with one.election("e", "one", ttl_s=2) as first:
        guard = first.guard
        await world.lose_lease(first.record.value.lease)
        async with asyncio.timeout(10):
            await first.lost.wait()
        async with asyncio.timeout(10), two.election("e", "two", ttl_s=2) as second:
            assert not await one.txn(compare=[guard], put=[account("stale")])
            assert await two.txn(compare=[second.guard], put=[account("fresh")])
            assert not second.lost.is_set()


async def test_leader_that_cannot_renew_steps_down(world: World) -> None:
    store = world.connect()
    async with store.election("e", "one", ttl_s=2) as leadership:
        out = asyncio.create_task(world.outage(6.0))
        async with asyncio.timeout(5.5):
            await leadership.lost.wait()
        await out


class Step(msgspec.Struct, frozen=True):
    verb: str
    id: str
    stale: bool


steps = st.lists(
    st.builds(
        Step, verb=st.sampled_from(["put", "create", "cas", "delete"]), id=st.sampled_from("ab"), stale=st.booleans()
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps)
def test_twins_agree(etcd: EtcdProcess, plan: list[Step]) -> None:
    """The same random calls give the same answers and leave the same records in both."""

    async def both() -> None:
        real: Store = EtcdStore([etcd.endpoint])
        twin: Store = MemoryStore()
        for name in "ab":
            await real.delete(Account, name)
        assert await run(real, plan) == await run(twin, plan)
        await real.close()

    asyncio.run(both())


async def run(store: Store, plan: list[Step]) -> list[object]:
    answers: list[object] = []
    old: dict[str, object] = {}
    for number, step in enumerate(plan):
        record = account(step.id, str(number))
        now = await store.get(Account, step.id)
        match step.verb:
            case "put":
                await store.put(record)
            case "create":
                answers.append(await store.txn(compare=[Absent(Account, step.id)], put=[record]))
            case "delete":
                answers.append(await store.delete(Account, step.id))
            case _:
                base = old.get(step.id) if step.stale else now
                if base is not None:
                    answers.append(await store.txn(compare=[Unchanged(base)], put=[record]))  # type: ignore[type-var]
        old.setdefault(step.id, now)
    answers.append([r.value for r in await store.list(Account)])
    return answers


async def test_a_watcher_far_behind_starts_again() -> None:
    world = MemoryWorld()
    store = world.connect()
    async with aclosing(store.watch(Account)) as events:
        assert await next_of(events) == Reset(())
        for n in range(10_002):
            await store.put(account("a", str(n)))
        event = await next_of(events)
        assert isinstance(event, Reset)
        assert event.records[0].value.name == "10001"
