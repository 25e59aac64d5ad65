"""The client among several members of etcd, one of which hangs as on a frozen host: it takes bytes and says nothing.

The two here are no cluster, so that a record tells which of them answered.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from tests.etcd_process import EtcdProcess
from yuntai.model.cluster import Gateway
from yuntai.state import EtcdStore
from yuntai.state.events import Reset

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EtcdProcess]]:
    made = [EtcdProcess(tmp_path_factory.mktemp(name)) for name in ("first", "second")]
    try:
        for member in made:
            member.start()
        yield made
    finally:
        for member in made:
            member.send(signal.SIGCONT)
            member.stop()


@pytest.fixture
async def store(members: list[EtcdProcess]) -> AsyncIterator[EtcdStore]:
    """Return a store that uses the first member, which hangs at the test's word."""
    for number, member in enumerate(members, start=1):
        async with EtcdStore([member.endpoint]) as one:
            await one.put(Gateway(id="g", address=f"of member {number}", nbd_dir=""))
    async with EtcdStore([member.endpoint for member in members], call_timeout_s=4.0) as made:
        assert await seen(made) == "of member 1"
        yield made
    members[0].send(signal.SIGCONT)


async def seen(store: EtcdStore) -> str:
    found = await store.get(Gateway, "g")
    assert found is not None
    return found.value.address


async def test_a_call_leaves_a_member_that_hangs(store: EtcdStore, members: list[EtcdProcess]) -> None:
    members[0].send(signal.SIGSTOP)
    assert await asyncio.wait_for(seen(store), PATIENCE_S) == "of member 2"
    members[0].send(signal.SIGCONT)
    assert await seen(store) == "of member 2", "it stays where it is served"


async def test_a_watch_goes_along_with_a_call_that_leaves(store: EtcdStore, members: list[EtcdProcess]) -> None:
    async with aclosing(store.watch(Gateway)) as events:
        assert isinstance(await anext(events), Reset)
        following = asyncio.ensure_future(anext(events))
        await seen(store)
        members[0].send(signal.SIGSTOP)
        await asyncio.wait_for(seen(store), PATIENCE_S)
        event = await asyncio.wait_for(following, PATIENCE_S)
        assert isinstance(event, Reset)
        assert [record.value.address for record in event.records] == ["of member 2"]


async def test_a_watch_alone_leaves_a_member_that_hangs(store: EtcdStore, members: list[EtcdProcess]) -> None:
    async with aclosing(store.watch(Gateway)) as events:
        assert isinstance(await anext(events), Reset)
        following = asyncio.ensure_future(anext(events))
        assert await seen(store) == "of member 1"
        members[0].send(signal.SIGSTOP)
        # No call goes out that would find out: what does is the channel's keepalive, after some 13 s.
        event = await asyncio.wait_for(following, PATIENCE_S)
        assert isinstance(event, Reset)
        assert [record.value.address for record in event.records] == ["of member 2"]


async def test_a_watch_that_is_cancelled_ends_as_cancelled(store: EtcdStore) -> None:
    async with aclosing(store.watch(Gateway)) as events:
        assert isinstance(await anext(events), Reset)
        following = asyncio.ensure_future(anext(events))
        await seen(store)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following


async def test_a_renewal_leaves_a_member_that_hangs(store: EtcdStore, members: list[EtcdProcess]) -> None:
    async with store.lease(6.0) as lease:
        members[0].send(signal.SIGSTOP)
        # The second member is none of the same cluster and does not know the lease: by this the lease ends.
        await asyncio.wait_for(lease.lost.wait(), PATIENCE_S)
        assert await seen(store) == "of member 2"
