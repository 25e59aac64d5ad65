"""The real process on a real etcd: ``kill -9`` of the leader again and again while instances come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web

from tests.etcd_process import EtcdProcess
from tests.ports import free_port
from tests.unit.control.world import CALLER, Agent, World, small
from yuntai import config as configuration
from yuntai.config import Config
from yuntai.control.requests import instances
from yuntai.model.base import now_utc
from yuntai.model.cluster import AccessKey, Account, Job
from yuntai.model.compute import Instance
from yuntai.state import EtcdStore
from yuntai.state.election import Leader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

pytestmark = pytest.mark.functional
WAIT_S = 60.0


class Master:
    """The part of the block store's HTTP API that jobs use."""

    def __init__(self) -> None:
        self.volumes: dict[str, int] = {}

    async def answer(self, request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)  # so that a kill finds a call under way
        if request.method == "POST":
            body = await request.json()
            self.volumes.setdefault(body["id"], body["size_bytes"])
            volume = {"id": body["id"], "size_bytes": body["size_bytes"], "created": now_utc()}
            return web.json_response(volume)
        self.volumes.pop(request.match_info["id"], None)
        return web.json_response({})


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    process = EtcdProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def master() -> AsyncIterator[tuple[Master, int]]:
    made = Master()
    app = web.Application()
    app.router.add_post("/v1/volumes", made.answer)
    app.router.add_delete("/v1/volumes/{id}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made, port
    await runner.cleanup()


class Control:
    """One control process."""

    def __init__(self, folder: Path, name: str, endpoint: str, master_port: int) -> None:
        self.name = name
        self.folder = folder
        secrets_dir = folder / "secrets"
        secrets_dir.mkdir(exist_ok=True)
        for secret in ("cluster", "token"):
            path = secrets_dir / secret
            if not path.exists():
                path.write_text(secrets.token_hex(32))
                path.chmod(0o600)
        key = secrets_dir / "credentials.json"
        first = {"account": CALLER.account, "access_key_id": "LTAIfirst", "access_key_secret": "s"}
        key.write_bytes(msgspec.json.encode(first))
        key.chmod(0o600)
        self.config = folder / f"{name}.json"
        self.config.write_bytes(
            configuration.encode(
                Config(
                    cluster="test",
                    host=name,
                    address="127.0.0.1",
                    etcd=[endpoint],
                    secrets_dir=str(secrets_dir),
                    master_port=master_port,
                    ovn_nb=f"unix:{folder}/no-ovn-here.sock",
                )
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as out:
            environment = os.environ | {"YUNTAI_CONFIG": str(self.config)}
            command = [sys.executable, "-m", "yuntai.control"]
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def end(self, how: int) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=30)


async def until(what: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await what():  # noqa: ASYNC110 — the state is another process's
            await asyncio.sleep(0.05)


async def act(agent: Agent) -> None:
    while True:
        await agent.step()
        await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def agents(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(act(world.agent))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_leaders_are_killed_and_nothing_is_lost(
    tmp_path: Path, etcd: EtcdProcess, master: tuple[Master, int]
) -> None:
    volumes, port = master
    world = World()
    async with EtcdStore([etcd.endpoint]) as store:
        world.store = store  # type: ignore[assignment]
        world.agent = Agent(store)  # type: ignore[arg-type]
        await world.set_up()
        await store.delete(Account, CALLER.account)
        controls = {name: Control(tmp_path, name, etcd.endpoint, port) for name in ("a", "b")}
        for control in controls.values():
            control.start()
        try:
            async with agents(world):
                await _lives(world, store, volumes, controls)
            await _hands_over(store, controls)
        finally:
            for control in controls.values():
                control.end(signal.SIGKILL)


async def _hands_over(store: EtcdStore, controls: dict[str, Control]) -> None:
    """A leader that is asked to stop resigns, so that the other one leads before the lease would have ended."""

    async def other_leads() -> bool:
        return await store.leader("control") == other

    leader = await store.leader("control")
    assert leader is not None
    (other,) = set(controls) - {leader}
    assert controls[leader].end(signal.SIGTERM) == 0
    await until(other_leads)
    assert controls[other].end(signal.SIGTERM) == 0


async def _lives(world: World, store: EtcdStore, volumes: Master, controls: dict[str, Control]) -> None:
    async def led() -> bool:
        return await store.leader("control") is not None and await store.get(AccessKey, "LTAIfirst") is not None

    async def kill_leader() -> None:
        await until(led)
        killed = (await store.need(Leader, "control")).value

        async def succeeded() -> bool:
            found = await store.get(Leader, "control")
            return found is not None and found.value.lease != killed.lease

        controls[killed.candidate].end(signal.SIGKILL)
        controls[killed.candidate].start()
        await until(succeeded)

    async def quiet() -> bool:
        return not await world.unfinished()

    await until(led)
    assert (await store.need(Account, CALLER.account)).value.name == "default"
    for round_number in range(3):
        await instances.run_instances(store, CALLER, small(amount=6))
        await asyncio.sleep(0.15 * round_number)
        await kill_leader()
        await until(quiet)
        assert {i.status for i in await world.all(Instance)} == {"Running"}
        assert len(volumes.volumes) == 6
        for instance in await world.all(Instance):
            await instances.delete_instance(store, CALLER, instance.id, force=True)
        await asyncio.sleep(0.1 * round_number)
        await kill_leader()
        await until(quiet)
        assert await world.all(Instance) == []
        assert volumes.volumes == {}
    assert {job.state for job in await world.all(Job)} == {"done"}
    assert msgspec.structs.asdict((await store.need(AccessKey, "LTAIfirst")).value)["operator"] is True
