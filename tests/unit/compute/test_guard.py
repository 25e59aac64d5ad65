"""The guard: when guests are paused, and what becomes of them; with processes, a store in memory and real sockets."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from msgspec.structs import replace

from tests.ports import free_port
from tests.unit.compute.test_compute_agent import eventually, instance
from yuntai.compute import guard as guard_module
from yuntai.compute import storage_probe
from yuntai.compute.guard import Guard
from yuntai.compute.guests import GuestProcesses
from yuntai.compute.hostrecord import booted_utc
from yuntai.compute.standing import GAP_S, Standing, Watchman
from yuntai.compute.storage_probe import DEAD_AFTER_S, StorageProbe, Verdict
from yuntai.compute.witness import Prober, answering, witnesses_of
from yuntai.config import Config
from yuntai.model.base import ago_utc
from yuntai.model.cluster import ChunkServer, Host, HostAlive
from yuntai.model.compute import Instance
from yuntai.state import MemoryStore

MINE, MOVED, COMING, GONE = "i-0001", "i-0002", "i-0003", "i-0004"


class FakeGuests:
    """Guests without processes: id → whether it is stopped."""

    def __init__(self, *ids: str) -> None:
        self.stopped = dict.fromkeys(ids, False)
        self.lock = threading.Lock()

    def running(self) -> dict[str, bool]:
        with self.lock:
            return dict(self.stopped)

    def pause(self, guests: Iterable[str]) -> None:
        self._set(guests, stopped=True)

    def resume(self, guests: Iterable[str]) -> None:
        self._set(guests, stopped=False)

    def kill(self, guests: Iterable[str]) -> None:
        with self.lock:
            for guest in guests:
                self.stopped.pop(guest, None)

    def _set(self, guests: Iterable[str], *, stopped: bool) -> None:
        with self.lock:
            self.stopped.update(dict.fromkeys(guests, stopped))


@pytest.mark.parametrize(
    ("alone", "lease", "vouched", "gap", "expected"),
    [
        (False, 10, 0, 0.2, ""),  # the lease is held
        (False, -1, 0, 0.2, "no witness reaches it"),  # cut off
        (False, -1, 1, 0.2, ""),  # etcd is away, but others reach this host: nobody calls it failed
        (False, 10, 0, GAP_S + 1, "stood still"),  # whatever it believes of its lease
        (False, -1, 1, GAP_S + 1, "stood still"),
        (True, -1, 0, GAP_S + 9, ""),  # nobody could take a guest over
    ],
)
def test_when_guests_must_not_run(*, alone: bool, lease: float, vouched: float, gap: float, expected: str) -> None:
    standing = Standing()
    standing.alone, standing.lease_until, standing.vouched_until = alone, lambda: 100.0 + lease, 100.0 + vouched
    why = standing.why_pause(100.0 - gap, 100.0)
    assert expected in why
    assert bool(why) == bool(expected)


def test_the_watchman_pauses_before_it_tells() -> None:
    guests, standing = FakeGuests(MINE, MOVED), Standing()
    standing.alone, standing.lease_until = False, lambda: 1000.0
    told: list[dict[str, bool]] = []
    watchman = Watchman(standing, guests, lambda: told.append(guests.running()))
    watchman.look(1.0, 1.2)
    assert (told, standing.doubtful) == ([], "")
    watchman.look(1.2, 9.0)
    assert told == [{MINE: True, MOVED: True}]
    assert "stood still for 7.8 s" in standing.doubtful


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    made = {}
    for guest in (MINE, MOVED):
        made[guest] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", f"guest={guest},x=on"])
        (tmp_path / f"{guest}.pid").write_text(str(made[guest].pid))
    (tmp_path / "i-0009.pid").write_text(str(made[MINE].pid))  # a number that is another process's by now
    (tmp_path / "i-0008.pid").write_text("none")
    (tmp_path / "autostarted").write_text("")
    try:
        yield made
    finally:
        for process in made.values():
            process.kill()
            process.wait()


def _soon(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_are_paused_resumed_and_killed(processes: dict[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    guests = GuestProcesses(tmp_path)
    _soon(lambda: guests.running() == {MINE: False, MOVED: False})
    guests.pause([MINE, MOVED, "i-0009"])
    _soon(lambda: guests.running() == {MINE: True, MOVED: True})
    guests.resume([MINE])
    guests.kill([MOVED])
    assert processes[MOVED].wait(60) == -9
    _soon(lambda: guests.running() == {MINE: False})
    assert GuestProcesses(tmp_path / "no such folder").running() == {}


def _config(folder: Path, port: int = 0) -> Config:
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "cluster").write_text("ab" * 32)
    (secrets / "cluster").chmod(0o600)
    return Config(
        cluster="lab", host="h1", address="127.0.0.1", etcd=["127.0.0.1:1"], run_dir=str(folder / "run"),
        secrets_dir=str(secrets), agent_port=port or free_port(), gateway_port=free_port(),
    )  # fmt: skip


class World:
    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.guests = FakeGuests(MINE, MOVED, COMING, GONE)
        self.config = _config(folder)

    async def fill(self) -> None:
        for guest, host in ((MINE, "h1"), (MOVED, "h2"), (COMING, "h2")):
            await self.store.create(instance(id=guest, host=host, migrating_to="h1" if guest == COMING else ""))
        await self.store.put(HostAlive(id="h2", address="127.0.0.2", since=""))

    async def alive(self) -> bool:
        return await self.store.get(HostAlive, "h1") is not None


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.fill()
    return made


async def _guarded(world: World, during: Callable[[Guard], object]) -> None:
    async with Prober(world.config) as prober:
        guard = Guard(world.store, world.config, world.guests, prober)
        task = asyncio.create_task(guard.run())
        try:
            outcome = during(guard)
            if asyncio.iscoroutine(outcome):
                await outcome
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_after_a_pause_only_its_own_guests_go_on(world: World) -> None:
    async def during(guard: Guard) -> None:
        await eventually(world.alive, 60)
        # What it started with is sorted out before it says that it lives: one was moved while nobody guarded.
        assert world.guests.running() == {MINE: False, COMING: False, GONE: False}
        await eventually(lambda: not guard.standing.alone, 60)
        await world.store.update(Instance, MINE, lambda old: replace(old, host="h2"))
        world.guests.stopped[MOVED] = False
        now = guard.standing.clock()
        await asyncio.to_thread(guard.watchman.look, now - 60, now)
        # A guest without a record is left to the agent, and stays paused.
        await eventually(lambda: world.guests.running() == {COMING: False, GONE: True}, 60)

    await _guarded(world, during)


async def test_the_host_says_when_it_started(world: World) -> None:
    async def during(_: Guard) -> None:
        await eventually(world.alive, 60)
        said = (await world.store.need(HostAlive, "h1")).value
        assert "2000" < said.booted <= said.since

    await _guarded(world, during)


def test_a_host_is_as_old_as_its_first_process(tmp_path: Path) -> None:
    age_s = 1000
    before = ago_utc(age_s + 1)
    ticks = int((time.clock_gettime(time.CLOCK_BOOTTIME) - age_s) * os.sysconf("SC_CLK_TCK"))
    (tmp_path / "stat").write_text(f"1 (a (name) x) S {' '.join(['0'] * 18)} {ticks} 0 0")
    assert before <= booted_utc(tmp_path / "stat") <= ago_utc(age_s - 1)


async def test_a_host_that_lost_its_lease_and_is_reached_by_nobody_pauses_until_it_can_read(world: World) -> None:
    async def during(guard: Guard) -> None:
        await eventually(world.alive, 60)
        await eventually(lambda: not guard.standing.alone, 60)
        await world.store.update(Instance, MINE, lambda old: replace(old, host="h2"))
        world.store.memory.available = False
        await eventually(lambda: all(world.guests.running().values()), 60)
        await eventually(lambda: "no witness reaches it" in guard.standing.doubtful, 60)  # pausing comes first
        assert set(world.guests.running()) == {MINE, COMING, GONE}  # nobody is killed unread
        world.store.memory.available = True
        await eventually(lambda: world.guests.running() == {COMING: False, GONE: True}, 60)
        await eventually(world.alive, 60)

    await _guarded(world, during)


def test_everybody_chooses_the_same_witnesses() -> None:
    hosts = [HostAlive(id=f"h{number}", address="a", since="") for number in range(20)]
    chosen = witnesses_of("h3", hosts)
    assert chosen == witnesses_of("h3", reversed(hosts))
    assert (len(chosen), "h3" in {one.id for one in chosen}) == (5, False)
    assert witnesses_of("h3", [hosts[3]]) == []


async def test_a_host_is_reached_when_its_guard_answers_and_not_when_it_only_listens(tmp_path: Path) -> None:
    config = _config(tmp_path)
    silent = await asyncio.start_server(lambda _r, _w: None, "127.0.0.2", config.agent_port)  # a frozen host's kernel
    addresses = {"h1": "127.0.0.1", "frozen": "127.0.0.2", "off": "127.0.0.3"}

    async def address_of(host: str) -> str | None:
        return addresses.get(host)

    me = HostAlive(id="h1", address="127.0.0.1", since="")
    async with silent, Prober(config) as prober, answering(config, prober, address_of):
        answers = [await prober.ask(me, host) for host in ("h1", "frozen", "off", "unknown")]
        assert answers == [True, False, False, None]
        other = tmp_path / "other"
        other.mkdir()
        stranger = _config(other, config.agent_port)
        (other / "secrets" / "cluster").write_text("cd" * 32)
        async with Prober(stranger) as outsider:
            assert await outsider.ask(me, "h1") is None


def test_storage_is_dead_after_some_bad_rounds_and_a_while() -> None:
    verdict = Verdict()
    assert [verdict.hear(now, good=False) for now in (0.0, 2.0, 4.0, DEAD_AFTER_S)] == [False, False, False, True]
    assert not verdict.hear(9.0, good=True)
    assert not verdict.hear(10.0, good=False)
    assert not verdict.hear(100.0, good=False)  # the guard itself stood still in between


class _Path:
    """A path to the block store that is good or not as it is told; counts how often it was looked at."""

    def __init__(self) -> None:
        self.is_good, self.looks = False, 0

    async def good(self) -> bool:
        self.looks += 1
        return self.is_good


async def test_a_server_that_came_back_counts_when_another_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = {1, 2, 3}

    async def answers(_: StorageProbe, address: str) -> bool:
        return int(address[-1]) in reached

    async def gateway_answers(*_: object) -> bool:
        return True

    monkeypatch.setattr(StorageProbe, "_answers", answers)
    monkeypatch.setattr(Prober, "gateway_answers", gateway_answers)
    for number in (1, 2, 3):
        state: Literal["up", "down"] = "down" if number == 1 else "up"
        name = f"cs-{number}"
        await world.store.put(
            ChunkServer(id=name, number=number, rack=name, host="h1", address=f"127.0.0.1:710{number}", state=state)
        )
    async with Prober(world.config) as prober:
        probe = StorageProbe(world.store, world.config, prober, None)
        assert await probe.good()
        await world.store.update(ChunkServer, "cs-1", lambda old: replace(old, state="up"))
        reached.remove(2)
        rounds = [await probe.good() for _ in range(3)]
    assert rounds[-1], "two of three answer, and no volume waits"


async def test_a_host_without_storage_is_not_well_again_because_its_guests_have_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _Path()
    monkeypatch.setattr(guard_module, "StorageProbe", lambda *_: path)
    monkeypatch.setattr(guard_module, "PERIOD_S", 0.01)
    monkeypatch.setattr(storage_probe, "DEAD_AFTER_S", 0.0)
    await world.store.create(
        Host(
            id="h1",
            address="127.0.0.1",
            cpus=1,
            memory_mib=1,
            accelerator="tcg",
            seen="",
            vcpus_max=1,
            memory_mib_max=1,
        )
    )

    async def dead() -> bool:
        return bool((await world.store.need(Host, "h1")).value.storage_dead_since)

    async with Prober(world.config) as prober:
        running = asyncio.create_task(Guard(world.store, world.config, world.guests, prober).run())
        try:
            await eventually(dead, 60)
            world.guests.kill(list(world.guests.running()))
            looks = path.looks
            await eventually(lambda: path.looks > looks + 3, 60)
            assert await dead()
            path.is_good = True
            await eventually(lambda: _not(dead), 60)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _not(what: Callable[[], Awaitable[bool]]) -> bool:
    return not await what()
