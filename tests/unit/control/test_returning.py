"""All off, all on: who is late is awaited, who fails alone is not, and nobody is awaited for ever."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.unit.compute.test_compute_agent import eventually
from tests.unit.control.test_failover import LIMIT_S, World, _a_host
from yuntai.control.failover.returning import awaited, later, most_started
from yuntai.model.cluster import Host
from yuntai.model.placement import SETTINGS_ID, SchedulerSettings

OLD, SEEN, NEW, NOW = (f"2026-11-23T10:0{minute}:00Z" for minute in range(4))


@pytest.mark.parametrize(
    ("booted", "decided", "answer"),
    [
        ([OLD, OLD, OLD], {}, "no"),  # it failed alone
        ([NEW, NEW, NEW], {}, "anew"),  # all were off
        ([OLD, NEW, NEW], {}, "anew"),  # nearly all
        ([OLD, OLD, NEW], {}, "no"),  # another one was started anew lately, that is all
        ([OLD, NEW], {}, "no"),  # half of them is not more than half
        ([NEW], {}, "anew"),
        ([], {}, "no"),
        (["", "", NEW], {}, "no"),  # guards of an older release do not say
        ([SEEN, SEEN], {}, "no"),  # a cloud that has just been made: as old as what it said
        ([NEW, NEW], {"awaited_since": NEW, "awaited_until": later(NOW, 1)}, "decided"),
        ([OLD, OLD], {"awaited_since": NEW, "awaited_until": later(NOW, 1)}, "decided"),  # whoever leads now
        ([NEW, NEW], {"awaited_since": NEW, "awaited_until": NOW}, "no"),  # that is over
        ([later(NEW, 60)] * 2, {"awaited_since": NEW, "awaited_until": NOW}, "no"),  # others were late, too
        ([later(NEW, 61)] * 2, {"awaited_since": NEW, "awaited_until": NOW}, "anew"),  # all were off once more
    ],
)
def test_who_is_awaited(booted: list[str], decided: dict[str, str], answer: str) -> None:
    late = replace(_a_host(), seen=SEEN, **decided)
    assert awaited(late, most_started(booted), NOW) == answer


def test_the_time_is_counted_over_midnight() -> None:
    assert later("2026-12-31T23:59:00Z", 300) == "2027-01-01T00:04:00Z"


@pytest.fixture
async def dark() -> World:
    """Return a cloud of which all hosts were off; h2 and h3 are back, h1 with an instance is not."""
    made = World()
    made.wall = NOW
    for name in ("h1", "h2", "h3"):
        await made.host(name, alive=False)
        await made.store.update(Host, name, lambda old: replace(old, seen=SEEN))
    await made.live("h2", booted=NEW)
    await made.live("h3", booted=NEW)
    await made.instance("i-1")
    return made


async def _record(world: World, name: str) -> Host:
    return (await world.store.need(Host, name)).value


async def _awaited(world: World) -> str:
    return (await _record(world, "h1")).awaited_until


async def test_a_late_host_is_awaited_by_every_leader_and_finds_all_as_it_was(dark: World) -> None:
    async with dark.leader():
        assert await eventually(lambda: _awaited(dark), LIMIT_S) == later(NOW, 300)
        assert await dark.status("h1") == "down", "nothing new is placed on it meanwhile"
    dark.wall = later(NOW, 299)
    await dark.store.update(Host, "h2", lambda old: replace(old, seen=dark.wall))
    async with dark.leader() as service:
        for _ in range(5):
            dark.clock.now += 10
            await service.turn()
        assert await dark.where() == {"i-1": "h1"}
        await dark.live("h1", booted=dark.wall)

        async def back() -> bool:
            host = await _record(dark, "h1")
            return (host.status, host.awaited_since, host.awaited_until) == ("up", "", "")

        await eventually(back, LIMIT_S)
    assert await dark.where() == {"i-1": "h1"}
    assert await dark.failure("h1") is None
    assert (await _record(dark, "h1")).downs == ()


async def test_a_host_that_does_not_come_is_failed_in_the_end(dark: World) -> None:
    async with dark.leader():
        until = await eventually(lambda: _awaited(dark), LIMIT_S)
        assert isinstance(until, str)
        assert await dark.where() == {"i-1": "h1"}
        dark.wall = until
        await eventually(lambda: _moved(dark), LIMIT_S)
    failure = await dark.failure("h1")
    assert failure is not None
    assert "cannot reach it" in failure.why


async def _moved(world: World) -> bool:
    return (await world.where())["i-1"] != "h1"


async def test_nobody_is_awaited_where_that_is_not_wished(dark: World) -> None:
    await dark.store.put(SchedulerSettings(id=SETTINGS_ID, await_hosts_s=0))
    async with dark.leader():
        await eventually(lambda: _moved(dark), LIMIT_S)


async def test_who_had_failed_before_all_were_off_is_not_awaited(dark: World) -> None:
    """Its instance found no room then; that all were off since is no reason to wait for longer."""
    for name in ("h2", "h3"):
        await dark.host(name, alive=False, memory_mib=0)
        await dark.live(name, booted=OLD)
    async with dark.leader():
        await eventually(lambda: dark.failure("h1"), LIMIT_S)
    for name in ("h2", "h3"):
        await dark.host(name, alive=False)
        await dark.live(name, booted=NEW)
    async with dark.leader():
        await eventually(lambda: _moved(dark), LIMIT_S)
