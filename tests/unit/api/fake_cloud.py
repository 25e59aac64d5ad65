"""A whole cloud in one thread: the real front on a loopback port, records in memory, jobs carried out at once."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from msgspec.structs import replace

from tests.functional.sdk.clients import Target
from tests.unit.api.fake_executor import FakeExecutor
from yuntai.api.__main__ import FOLLOWED
from yuntai.api.cache import CachedStore
from yuntai.api.registry import Context
from yuntai.api.replay import Replay
from yuntai.api.server import ApiServer
from yuntai.api.standing import keep_fleet
from yuntai.api.throttle import Throttle
from yuntai.model.base import ago_utc, new_id, now_utc
from yuntai.model.cluster import AccessKey, Account, ChunkServer, Host, Volume, VolumeSource
from yuntai.model.compute import Image
from yuntai.pangu import errors as pangu_errors
from yuntai.pangu.requests import Attached
from yuntai.pangu.tree import Tree, TreeNode
from yuntai.state import MemoryStore, Store

ACCOUNT = "1000000000000001"
KEY, SECRET = "YTOPERATORKEY001", "a-secret-that-is-only-for-tests-1"
TENANT_KEY, TENANT_SECRET = "YTTENANTKEY00001", "a-secret-that-is-only-for-tests-2"
OFF_KEY = "YTINACTIVEKEY001"
OTHER_ACCOUNT, OTHER_KEY = "2000000000000002", "YTSTRANGERKEY001"
REGION, ZONE = "cn-local", "cn-local-a"
CONSOLE = b"\x1b[2J[    0.000000] Linux version 6.12\r\nlogin: "


REPORTS: dict[str, dict[str, Any]] = {
    "work": {
        "workers": [
            {
                "where": "cs-1",
                "name": "scrub",
                "volume": "",
                "state": "running",
                "done": 3 << 30,
                "total": 4 << 30,
                "unit": "bytes",
                "bytes_per_s": 50 << 20,
                "limit_bytes_per_s": 0,
                "note": "",
            },
            {"where": "master", "name": "repair", "volume": "", "state": "idle", "done": 0, "total": 0, "unit": ""},
        ]
    },
    "health": {
        "healthy": False,
        "level": "warning",
        "checks": [
            {"name": "data", "level": "warning", "detail": "of 9 chunks, 4 chunks have 2 live replicas"},
            {"name": "space", "level": "well", "detail": ""},
        ],
        "chunks": 9,
        "chunks_by_live_replicas": {"2": 4, "3": 5},
        "seconds_left": 75,
    },
    "settings": {
        "settings": [
            {"name": "repair_after_s", "where": "master", "value": None, "default": 600, "meaning": "grace"},
            {"name": "scrub_period_s", "where": "server", "value": 9, "default": None, "meaning": "period"},
        ],
        "balancing": False,
    },
    "drain": {"servers": ["cs-2"]},
    "balance": {"balancing": True, "from": ["cs-1"]},
    "scrub": {"begun": ["cs-1"], "refused": {"cs-2": "it is down"}},
    "salvage": {},
    "give_up": {"volumes": ["vol-0000000000000001"]},
}


class FakeVolumes:
    """The block store, as far as the operator's actions see it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.orders: list[tuple[str, dict[str, Any] | None]] = []
        self.figures: dict[str, dict[str, Any]] = {}

    async def _change(self, volume_id: str, **changes: Any) -> Volume:
        if await self.store.get(Volume, volume_id) is None:
            raise pangu_errors.NotFound(f"there is no volume {volume_id}")
        return await self.store.update(Volume, volume_id, lambda one: replace(one, **changes))

    async def stats(self, volume_id: str) -> dict[str, Any]:
        return self.figures.get(volume_id, {})

    async def create_volume(
        self, size_bytes: int, *, source: VolumeSource | None = None, client_token: str = "", keep_s: int = 0
    ) -> Volume:
        kept = ago_utc(-keep_s) if keep_s else ""
        volume = Volume(id=new_id("vol"), size_bytes=size_bytes, source=source, kept_until=kept, created=now_utc())
        await self.store.put(volume)
        return volume

    async def keep(self, volume_id: str, keep_s: int) -> None:
        await self._change(volume_id, kept_until=ago_utc(-keep_s) if keep_s else "")

    async def delete_volume(self, volume_id: str) -> None:
        found = await self.store.get(Volume, volume_id)
        if found is not None and found.value.host:
            raise pangu_errors.Conflict(f"volume {volume_id} is attached to {found.value.host}; detach it first")
        await self.store.delete(Volume, volume_id)

    async def operate(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        self.orders.append((what, body))
        return REPORTS[what]

    async def masters(self) -> dict[str, str]:
        return {"http://10.0.0.1:7300": "leader", "http://10.0.0.2:7300": "down"}

    async def remove_server(self, server_id: str) -> None:
        self.orders.append(("remove", {"server": server_id}))

    async def resize(self, volume_id: str, size_bytes: int) -> Volume:
        return await self._change(volume_id, size_bytes=size_bytes)

    async def attach(self, volume_id: str, host: str, *, read_only: bool = False, node: int = -1) -> Attached:
        volume = await self._change(volume_id, host=host, state="attached", generation=1, read_only=read_only)
        socket = f"/run/yuntai/nbd/{volume_id}.sock"
        return Attached(
            volume=volume_id, generation=volume.generation, socket=socket, uri=f"nbd+unix:///?socket={socket}"
        )

    async def detach(self, volume_id: str, host: str) -> Volume:
        return await self._change(volume_id, host="", state="available")

    async def snapshot(self, volume_id: str, name: str = "") -> int:
        volume = await self._change(volume_id, parents=(0, 0, 1), head=2, snapshots={"1": "done"})
        return volume.head - 1

    async def changes(
        self, volume_id: str, node: int, *, since: int = -1, first_chunk: int = 0, chunks: int = 64
    ) -> list[tuple[int, int, bool]]:
        if since > node:
            raise pangu_errors.Conflict(f"node {since} of {volume_id} is no snapshot any more")
        return [(7, 2, True), (100, 16, False)] if since == -1 else []

    async def tree(self, volume_id: str, *, fresh: bool = False) -> Tree:
        head = TreeNode(node=2, parent=1, kind="head", size_bytes=1 << 30, used_bytes=4096, exclusive_bytes=4096)
        first = TreeNode(node=1, parent=-1, kind="snapshot", state="done", used_bytes=8192, shared_bytes=8192)
        return Tree(volume=volume_id, nodes=(first, head), counted=now_utc() if fresh else "", used_bytes=12288)


class FakeConsole:
    """A guest that said the same for ever."""

    async def read(self, host: str, instance_id: str, path: str) -> tuple[bytes, str]:
        return CONSOLE, "2026-11-23T00:00:00Z"


async def seed(store: Store) -> None:
    """Write what an operator would before the first tenant comes."""
    now = now_utc()
    await store.put(
        Account(
            id=ACCOUNT,
            name="tests",
            created=now,
            quotas={
                "instances": 4000,
                "vcpus": 8000,
                "disks": 8000,
                "disk_gib": 1 << 20,
                "keypairs": 9000,
                "network_interfaces": 8000,
                "dedicated_hosts": 2,
            },
        )
    )
    for key, secret, extra in (
        (KEY, SECRET, {"operator": True}),
        (TENANT_KEY, TENANT_SECRET, {}),
        (OFF_KEY, SECRET, {"status": "Inactive"}),
    ):
        await store.put(AccessKey(id=key, account=ACCOUNT, secret=secret, created=now, **extra))  # type: ignore[arg-type]
    await store.put(AccessKey(id=OTHER_KEY, account=OTHER_ACCOUNT, secret=SECRET, created=now))
    await store.put(Account(id=OTHER_ACCOUNT, name="strangers", created=now))
    await store.put(
        Host(
            id="h1",
            address="10.78.0.1",
            rack="rack-1",
            cpus=4,
            memory_mib=16384,
            accelerator="tcg",
            seen=now,
            vcpus_max=4096,
            memory_mib_max=1 << 22,
            versions={"qemu": "10.0"},
            downs=("2001-01-01T00:00:00Z", "2001-01-01T00:10:00Z"),
            jailed_until="2001-01-01T00:11:00Z",  # long over
        )
    )
    for number in (1, 2, 3):
        await store.put(
            ChunkServer(
                id=f"cs-{number}", number=number, rack=f"rack-{number}", host="h1", address=f"10.78.0.1:710{number}"
            )
        )
    await store.put(
        Image(
            id="m-debian13",
            name="debian-13",
            os_name="Debian 13",
            volume="vol-00000000000000ff",
            node=1,
            size_gib=2,
            status="Available",
            progress=100,
            created=now,
        )
    )


class FakeCloud:
    """The front and its world on a loop of their own, so that synchronous clients can be used against them."""

    def __init__(
        self,
        *,
        throttle: Throttle | None = None,
        delay_s: float = 0.0,
        silent_s: float = 90.0,
        executor: Callable[[Store], Any] | None = None,
    ) -> None:
        self.store = MemoryStore()
        self.volumes = FakeVolumes(self.store)
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._throttle = throttle or Throttle(rate_per_s=1e6, burst=1e6)
        self._silent_s = silent_s
        self._executor = executor or (lambda store: FakeExecutor(store, delay_s))
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="fake-cloud", daemon=True)
        self.failure: BaseException | None = None

    @property
    def target(self) -> Target:
        """The cloud as its operator reaches it."""
        return Target(f"http://127.0.0.1:{self.port}", KEY, SECRET, REGION)

    @property
    def tenant(self) -> Target:
        """The cloud as a tenant reaches it."""
        return dataclasses.replace(self.target, access_key_id=TENANT_KEY, access_key_secret=TENANT_SECRET)

    def call(self, work: Callable[[], Any]) -> Any:
        """Run a coroutine function on the cloud's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(timeout=30)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 — shown to the test's thread
            self.failure = error
            self._ready.set()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        await seed(self.store)
        reads = CachedStore(self.store, FOLLOWED)
        keep_fleet(reads)
        await reads.start()
        executor = asyncio.create_task(self._executor(self.store).run())
        context = Context(
            region=REGION,
            zone=ZONE,
            cluster="tests",
            reads=reads,
            writes=reads.writer(),
            console=FakeConsole(),
            volumes=self.volumes,
        )
        server = ApiServer(context, throttle=self._throttle, replay=Replay(self.store), silent_s=self._silent_s)
        self.port = await server.start("127.0.0.1", 0)
        self._ready.set()
        await self._stop.wait()
        await server.close()
        executor.cancel()
        await asyncio.gather(executor, return_exceptions=True)
        await reads.stop()

    def __enter__(self) -> FakeCloud:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        self._thread.start()
        assert self._ready.wait(20), "the fake cloud did not start"
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=20)
        if self.failure is not None:
            raise self.failure


@contextmanager
def fake_cloud(**options: Any) -> Iterator[FakeCloud]:
    """Run a fake cloud for a test."""
    with FakeCloud(**options) as cloud:
        yield cloud
