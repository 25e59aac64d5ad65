"""The cache of records: one's own writes at once, others' by watch, and nothing wrong after a broken watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from yuntai.api import cache as cache_module
from yuntai.api.cache import CachedStore
from yuntai.model.base import now_utc
from yuntai.model.cluster import Account, Job
from yuntai.model.compute import KeyPair
from yuntai.state import Absent, Deleted, MemoryStore, Put, Reset, Unchanged, Versioned
from yuntai.state.memory import Memory


def account(name: str, text: str = "") -> Account:
    return Account(id=name, name=text or name, created=now_utc())


@pytest.fixture
async def pair() -> AsyncIterator[tuple[CachedStore, MemoryStore]]:
    memory = Memory()
    other = MemoryStore(memory)
    await other.put(account("old"))
    cached = CachedStore(MemoryStore(memory), [Account, KeyPair])
    await cached.start()
    yield cached, other
    await cached.close()
    await other.close()


async def wait_for(look: object, seconds: float = 20.0) -> None:
    assert callable(look)
    async with asyncio.timeout(seconds):
        while not look():  # noqa: ASYNC110 — the cache tells nobody but its writers
            await asyncio.sleep(0.005)


async def test_it_begins_with_everything(pair: tuple[CachedStore, MemoryStore]) -> None:
    cached, _ = pair
    found = await cached.get(Account, "old")
    assert found is not None
    assert cached.peek(Account, "old") == found.value


async def test_own_writes_are_there_at_once(pair: tuple[CachedStore, MemoryStore]) -> None:
    cached, _ = pair
    writes = cached.writer()
    for turn in range(50):
        assert await writes.txn(compare=[Absent(Account, f"a{turn}")], put=[account(f"a{turn}")])
        assert cached.peek(Account, f"a{turn}") is not None
        await writes.update(Account, f"a{turn}", lambda one, turn=turn: replace(one, name=f"x{turn}"))  # type: ignore[misc]
        shown = cached.peek(Account, f"a{turn}")
        assert shown is not None
        assert shown.name == f"x{turn}"
        await writes.txn(delete=[(Account, f"a{turn}")])
        assert cached.peek(Account, f"a{turn}") is None


async def test_a_write_that_another_changes_at_once_is_not_waited_for_in_vain(
    pair: tuple[CachedStore, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached, other = pair
    monkeypatch.setattr(cache_module, "CATCH_UP_S", 0.0)  # a wait for what never comes would be seen as a warning
    real = cached.inner.txn

    async def overtaken(**arguments: object) -> bool:
        done = await real(**arguments)  # type: ignore[arg-type]
        await other.update(Account, "new", lambda one: replace(one, name="theirs"))
        await asyncio.sleep(0.02)
        return done

    monkeypatch.setattr(cached.inner, "txn", overtaken)
    assert await cached.writer().txn(compare=[Absent(Account, "new")], put=[account("new", "ours")])
    shown = cached.peek(Account, "new")
    assert shown is not None
    assert shown.name == "theirs"


async def test_a_transaction_that_fails_changes_nothing(pair: tuple[CachedStore, MemoryStore]) -> None:
    cached, other = pair
    before = await cached.need(Account, "old")
    await other.put(account("old", "newer"))
    assert not await cached.writer().txn(compare=[Unchanged(before)], put=[account("old", "mine")])


async def test_others_writes_arrive(pair: tuple[CachedStore, MemoryStore]) -> None:
    cached, other = pair
    await other.put(account("theirs"))
    await wait_for(lambda: cached.peek(Account, "theirs"))
    await other.delete(Account, "theirs")
    await wait_for(lambda: cached.peek(Account, "theirs") is None)


async def test_a_broken_watch_leaves_nothing_wrong(pair: tuple[CachedStore, MemoryStore]) -> None:
    cached, other = pair
    other.memory.available = False
    other.memory.available = True
    await other.put(account("after"))
    await other.delete(Account, "old")
    await wait_for(lambda: cached.peek(Account, "after") and cached.peek(Account, "old") is None)


async def test_a_lost_event_is_made_good_by_reading(
    pair: tuple[CachedStore, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached, _ = pair
    monkeypatch.setattr(cache_module, "CATCH_UP_S", 0.05)
    await cached.stop()  # nothing feeds the caches now
    assert await cached.writer().txn(put=[account("alone")])
    assert cached.peek(Account, "alone") is not None


async def test_prefixes_and_order(pair: tuple[CachedStore, MemoryStore]) -> None:
    cached, _ = pair
    writes = cached.writer()
    for name in ("b:2", "a:1", "b:1", "c:1"):
        await writes.put(account(name))
    assert [one.value.id for one in await cached.list(Account, "b:")] == ["b:1", "b:2"]
    assert [one.value.id for one in await cached.list(Account)] == ["a:1", "b:1", "b:2", "c:1", "old"]


async def test_what_is_not_followed_is_read_from_below(pair: tuple[CachedStore, MemoryStore]) -> None:
    cached, other = pair
    job = Job(id="job-1", action="x", account="1", resource="r", created="", updated="")
    await other.put(job)
    assert (await cached.need(Job, "job-1")).value == job
    assert [one.value.id for one in await cached.list(Job)] == ["job-1"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(["put", "delete", "reset"]), st.integers(0, 30)), max_size=40), max_size=6
    )
)
def test_whatever_happens_records_are_listed_in_order_and_a_list_stays_as_it_was(
    rounds: list[list[tuple[str, int]]],
) -> None:
    cache = cache_module.Cache(MemoryStore(), Account)
    revision, handed_out = 0, []
    for events in rounds:
        for what, number in events:
            revision += 1
            record = Versioned(account(f"a{number}", f"of {revision}"), revision)
            match what:
                case "put":
                    cache.apply(Put(record))
                case "delete":
                    cache.apply(Deleted(record.value.id))
                case _:
                    cache.apply(Reset((record,)))
        listed = cache.ordered()
        assert listed == sorted(cache.records.values(), key=lambda one: one.value.id)
        assert [one.value.id for one in cache.with_prefix("a1")] == [
            one.value.id for one in listed if one.value.id.startswith("a1")
        ]
        handed_out.append((listed, listed.copy()))
    assert all(now == then for now, then in handed_out)


def test_many_changes_at_once_are_sorted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SORT_ANEW_FROM", 3)
    cache = cache_module.Cache(MemoryStore(), Account)
    for turn in range(5):
        for number in (5, 1, 4, 2, 3)[: turn + 1]:
            cache.apply(Put(Versioned(account(f"a{number}"), turn + 1)))
        assert [one.value.id for one in cache.ordered()] == sorted(cache.records)
        assert not cache._changed
