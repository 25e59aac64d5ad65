"""The parts of the control process as they run: tasks, watches, leadership, housekeeping, bootstrap."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.unit.control.world import CALLER, World, small
from yuntai.config import ConfigError
from yuntai.control import bootstrap, housekeeping
from yuntai.control.jobs.bell import Bell
from yuntai.control.jobs.executor import Executor
from yuntai.control.jobs.runner import ATTEMPTS_MAX, BACKOFF_MAX_S, Runner, backoff_s
from yuntai.control.reconciler import HOST_DOWN_AFTER_S, Reconciler
from yuntai.control.requests import disks, instances
from yuntai.model.cluster import AccessKey, Account, ClientToken, Host, Job, Volume
from yuntai.model.compute import Disk, Instance
from yuntai.state import Absent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path


@pytest.fixture
async def world() -> World:
    made = World()
    await made.set_up()
    return made


@asynccontextmanager
async def running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def until(what: Callable[[], Coroutine[Any, Any, bool]], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await what():  # noqa: ASYNC110 — what is waited for is another part's state
            await asyncio.sleep(0.01)


async def act(world: World) -> None:
    """Be the agents, all the time."""
    while True:
        await world.agent.step()
        await asyncio.sleep(0.005)


async def test_executor_and_reconciler_carry_instances_through_their_lives(world: World) -> None:
    runner = Runner(world.store, world.volumes)

    async def statuses() -> set[str]:
        return {i.status for i in await world.all(Instance)}

    async def all_are(status: str) -> bool:
        return await statuses() == {status}

    async with running(Executor(world.store, runner).run(), Reconciler(world.store).run(), act(world)):
        ids = await instances.run_instances(world.store, CALLER, small(amount=3))
        await until(lambda: all_are("Running"))
        for one in ids:
            await instances.stop_instance(world.store, CALLER, one, force=True)
        await until(lambda: all_are("Stopped"))
        for one in ids:
            await instances.delete_instance(world.store, CALLER, one)

        async def gone() -> bool:
            return not await statuses() and not await world.unfinished()

        await until(gone)
    await world.check()


async def test_an_executor_takes_up_what_another_left(world: World) -> None:
    await instances.run_instances(world.store, CALLER, small())
    (job,) = await world.unfinished()
    await world.runner().advance(job.id)  # gets to where it waits for the guest
    runner = Runner(world.store, world.volumes)

    async def idle() -> bool:
        return not await world.unfinished()

    async with running(Executor(world.store, runner).run(), act(world)):
        await until(idle)
    await world.check()


async def test_a_runner_without_its_leadership_changes_nothing(world: World) -> None:
    await instances.run_instances(world.store, CALLER, small())
    (job,) = await world.unfinished()
    deposed = Runner(world.store, world.volumes, fences=[Absent(Account, CALLER.account)])
    await deposed.advance(job.id)
    assert (await world.store.need(Job, job.id)).value == job


async def test_a_bug_in_a_step_is_bounded_and_undone(world: World) -> None:
    disk = await disks.create_disk(world.store, CALLER, size_gib=1)

    class Faulty:
        def __init__(self, inner: Any) -> None:
            self.calls = 0
            self.delete_volume = inner.delete_volume

        async def create_volume(self, *_: Any) -> None:
            self.calls += 1
            raise ZeroDivisionError("a fault of ours")

    faulty: Any = Faulty(world.volumes)
    await world.drive(world.runner(volumes=faulty))
    assert faulty.calls == ATTEMPTS_MAX
    assert await world.store.get(Disk, disk) is None
    (job,) = await world.all(Job)
    assert (job.state, "ZeroDivisionError: a fault of ours" in job.error) == ("failed", True)


async def test_an_instance_that_does_not_start_ends_stopped_with_the_reason(world: World) -> None:
    (one,) = await instances.run_instances(world.store, CALLER, small())
    world.agent.refuses.add(one)
    await world.drive()
    instance = (await world.store.need(Instance, one)).value
    assert (instance.status, instance.desired) == ("Stopped", "stopped")
    assert "the guest was made not to start" in instance.reason
    await world.check()
    world.agent.refuses.clear()
    await instances.start_instance(world.store, CALLER, one)
    await world.drive()
    assert (await world.store.need(Instance, one)).value.reason == ""


async def test_an_instance_for_which_there_is_no_room_any_more_stays_stopped_with_the_reason(world: World) -> None:
    one = await instances.create_instance(world.store, CALLER, small())
    await world.drive()
    for host in await world.all(Host):
        await world.store.put(msgspec.structs.replace(host, memory_mib_max=128))
    await instances.start_instance(world.store, CALLER, one)
    await world.drive()
    instance = (await world.store.need(Instance, one)).value
    assert (instance.status, "h1 rejected: 128 MiB short" in instance.reason) == ("Stopped", True)


async def test_an_agent_that_does_not_answer_holds_a_deletion_but_loses_nothing(world: World) -> None:
    (one,) = await instances.run_instances(world.store, CALLER, small())
    await world.drive()
    world.agent.mute = True
    await instances.delete_instance(world.store, CALLER, one, force=True)
    (job,) = await world.unfinished()
    world.now += dt.timedelta(days=1)
    await world.runner().advance(job.id)
    assert (await world.store.need(Instance, one)).value.status == "Deleting"
    assert len(world.volumes.volumes) == 2
    world.agent.mute = False
    await world.drive()
    await world.check()


def test_back_off_grows_and_is_bounded() -> None:
    assert [backoff_s(n) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert backoff_s(10_000) == BACKOFF_MAX_S


async def test_a_bell_rung_between_looking_and_waiting_is_heard() -> None:
    bell = Bell()
    mark = bell.mark()
    bell.ring("a")
    async with asyncio.timeout(60):
        await bell.wait(["a", "b"], mark, 60)
    later = asyncio.create_task(bell.wait(["b"], bell.mark(), 60))
    await asyncio.sleep(0)
    bell.ring("a")
    await asyncio.sleep(0)
    assert not later.done()
    bell.ring("b")
    async with asyncio.timeout(60):
        await later
    await bell.wait(["c"], bell.mark(), 0.01)


async def test_hosts_that_fall_silent_are_down_and_come_back(world: World) -> None:
    moment = [0.0]
    reconciler = Reconciler(world.store, clock=lambda: moment[0])

    async def look() -> str:
        reconciler._hosts = {h.id: h for h in await world.all(Host)}
        await reconciler.judge_hosts()
        return (await world.store.need(Host, "h1")).value.status

    assert await look() == "up"
    moment[0] += HOST_DOWN_AFTER_S - 1
    assert await look() == "up"
    moment[0] += 2
    assert await look() == "down"
    await world.store.update(Host, "h1", lambda h: msgspec.structs.replace(h, seen="later"))
    assert await look() == "up"


async def test_housekeeping_forgets_the_old_and_deletes_what_came_late(world: World) -> None:
    disk = await disks.create_disk(world.store, CALLER, size_gib=1, client_token="t")
    await world.drive()
    volume = (await world.store.need(Disk, disk)).value.volume
    await disks.delete_disk(world.store, CALLER, disk)
    await world.drive()
    # A creation that was under way when its caller died arrives only now.
    await world.volumes.create_volume(volume, 1 << 30, None)
    await world.store.put(Volume(id=volume, size_bytes=1 << 30, created="2026-01-01T00:00:00Z"))
    await housekeeping.clean(world.store, world.volumes)
    assert volume not in world.volumes.volumes
    assert len(await world.all(Job)) == 2
    (token,) = await world.all(ClientToken)
    await world.store.put(msgspec.structs.replace(token, created="2020-01-01T00:00:00Z"))
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=8)
    await housekeeping.clean(world.store, world.volumes, now=later)
    assert [*await world.all(Job), *await world.all(ClientToken)] == []


async def test_bootstrap_writes_the_first_key_once(world: World, tmp_path: Path) -> None:
    path = tmp_path / bootstrap.FILE_NAME
    assert bootstrap.read(path) is None
    path.write_text('{"account": "77", "access_key_id": "LTAIx", "access_key_secret": "s"}')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        bootstrap.read(path)
    path.chmod(0o600)
    await bootstrap.run(world.store, path)
    key = (await world.store.need(AccessKey, "LTAIx")).value
    assert (key.account, key.secret, key.operator) == ("77", "s", True)
    await world.store.put(msgspec.structs.replace(key, status="Inactive"))
    await bootstrap.run(world.store, path)
    assert (await world.store.need(AccessKey, "LTAIx")).value.status == "Inactive"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="account"):
        bootstrap.read(path)
