"""The API's own process on a real etcd, a small executor behind it: the official clients, restarts, and figures."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.etcd_process import EtcdProcess
from tests.functional.sdk.clients import NewSdk, Target
from tests.functional.sdk.lifecycle import Life
from tests.ports import free_port
from tests.unit.api import raw_http
from tests.unit.api.fake_cloud import KEY, REGION, SECRET, seed
from tests.unit.api.fake_executor import FakeExecutor
from yuntai import config
from yuntai.state import EtcdStore

pytestmark = pytest.mark.functional
START_S = 90.0


class ApiProcess:
    """``python -m yuntai.api`` with a configuration of its own."""

    def __init__(self, folder: Path, etcd: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        secret_folder = folder / "secrets"
        secret_folder.mkdir(mode=0o700)
        for name in ("cluster", "token"):
            path = secret_folder / name
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        settings = config.Config(
            cluster="test",
            host="h1",
            address="127.0.0.1",
            etcd=[etcd],
            region=REGION,
            log_dir=str(folder),
            secrets_dir=str(secret_folder),
            api_port=self.port,
        )
        self.config = folder / "yuntai.json"
        self.config.write_bytes(config.encode(settings))

    @property
    def target(self) -> Target:
        return Target(f"http://127.0.0.1:{self.port}", KEY, SECRET, REGION)

    def start(self) -> None:
        with (self.folder / "api.log").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "yuntai.api"],
                env={**os.environ, "YUNTAI_CONFIG": str(self.config)},
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "api.log").read_text()[-2000:]
            try:
                if raw_http.send(self.target, "GET", "/healthz").status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"no API on port {self.port} after {START_S} s")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(timeout=20)
        self.process = None
        return code


@contextmanager
def executor(endpoint: str) -> Iterator[None]:
    """Carry out jobs in a thread until the end of the block."""
    loop = asyncio.new_event_loop()
    ready, done = threading.Event(), asyncio.Event()

    async def work() -> None:
        async with EtcdStore([endpoint]) as store:
            await seed(store)
            running = asyncio.create_task(FakeExecutor(store).run())
            ready.set()
            await done.wait()
            assert not running.done(), f"the executor has ended: {running}"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(loop.run_until_complete, work())
        assert ready.wait(30)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(done.set)
            ended.result(timeout=30)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    folder = tmp_path_factory.mktemp("api")
    etcd = EtcdProcess(folder)
    etcd.start()
    try:
        with executor(etcd.endpoint):
            process = ApiProcess(folder, etcd.endpoint)
            process.start()
            yield process
            if process.process is not None:
                assert process.stop() == 0
    finally:
        etcd.stop()


def test_the_new_sdk_lives_a_whole_life(api: ApiProcess) -> None:
    sdk = NewSdk(api.target)
    Life(sdk).run()
    assert sdk.recorder.problems() == []


def test_own_writes_are_read_at_once(api: ApiProcess) -> None:
    for turn in range(30):
        made = raw_http.rpc(api.target, "CreateKeyPair", KeyPairName=f"pair-{turn}")
        assert made.status == 200
        shown = raw_http.rpc(api.target, "DescribeKeyPairs", KeyPairName=f"pair-{turn}").json
        assert shown["TotalCount"] == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_write_is_not_replayed_after_a_restart(api: ApiProcess, how: signal.Signals) -> None:
    params = raw_http.rpc_params(api.target, "CreateDisk", Size="1")
    path = "/?" + "&".join(
        f"{raw_http.enc(key)}={raw_http.enc(value)}" for key, value in raw_http.rpc_sign(params, SECRET, "GET").items()
    )
    assert raw_http.send(api.target, "GET", path).status == 200
    api.stop(how)
    api.start()
    assert raw_http.send(api.target, "GET", path).code == (400, "SignatureNonceUsed")
