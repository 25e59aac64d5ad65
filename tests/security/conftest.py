"""Real chunk servers and a real gateway, with a writer whose I/O nobody may stop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.functional.storage import CHUNKSERVER, GATEWAY, MIB, Storage, Volume
from yuntai.archive.nbd import NbdClient


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.functional)
            item.add_marker(pytest.mark.timeout(240))
            if not (CHUNKSERVER.exists() and GATEWAY.exists()):
                item.add_marker(pytest.mark.skip(reason="the programs are not built; run: make test"))


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    one = Storage(tmp_path)
    try:
        await one.start()
        yield one
    finally:
        for name in ("gateway", "cs-1"):
            if (tmp_path / f"{name}.log").exists():
                print(f"--- {name}\n" + "\n".join(one.log(name).splitlines()[-15:]))
        await one.stop()


class Victim:
    """A volume of somebody else, written to all the time."""

    def __init__(self) -> None:
        self.writes = 0
        self.longest_s = 0.0

    async def run(self, client: NbdClient) -> None:
        while True:
            began = time.monotonic()
            await client.write(4096 * (self.writes % 1000), os.urandom(4096))
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.writes += 1
            await asyncio.sleep(0.002)

    async def goes_on(self, running: asyncio.Task[None]) -> None:
        """Wait for some writes more; fail if they have ended, or with the test's own limit."""
        enough = self.writes + 20
        while self.writes < enough:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def going_on(storage: Storage, within_s: float = 15.0) -> AsyncIterator[Victim]:
    """Write to another volume meanwhile; fail if it was ever held up for ``within_s``, or failed."""
    volume: Volume = storage.create(64 * MIB)
    await storage.open(volume)
    async with await NbdClient.connect(str(storage.folder / "nbd" / f"{volume.export}.sock"), volume.export) as client:
        victim = Victim()
        task = asyncio.create_task(victim.run(client))
        try:
            await victim.goes_on(task)
            before = victim.writes
            yield victim
            await victim.goes_on(task)
            print(f"the other volume: {victim.writes - before} writes, longest {1000 * victim.longest_s:.0f} ms")
            assert victim.longest_s < within_s
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextmanager
def unharmed(storage: Storage) -> Iterator[None]:
    """Nothing has crashed."""
    yield
    assert {name: process.poll() for name, process in storage.processes.items()} == dict.fromkeys(storage.processes)
