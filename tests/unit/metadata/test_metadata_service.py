"""The server on real sockets: whose address is whose, limits, and namespaces that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.ports import free_port
from tests.unit.metadata.test_metadata_answers import INSTANCE, SUBJECT
from yuntai.config import Config
from yuntai.metadata import http, netns
from yuntai.metadata.answers import Answer, Asked
from yuntai.metadata.http import BadRequestError, parse
from yuntai.metadata.limits import BURST, CONNECTIONS_MAX, Limits
from yuntai.metadata.service import Service
from yuntai.model.compute import Instance
from yuntai.model.network import Port
from yuntai.state import MemoryStore

LOOPBACK = "127.0.0.1"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    secret = tmp_path / "cluster"
    secret.write_text("ab" * 32)
    secret.chmod(0o600)
    return Config(cluster="lab", host="h1", address=LOOPBACK, etcd=["x:1"], secrets_dir=str(tmp_path))


@contextlib.asynccontextmanager
async def serving(respond: object, limits: Limits) -> AsyncIterator[int]:
    listener = socket.create_server((LOOPBACK, 0))
    server = await http.serve(listener, respond, limits)  # type: ignore[arg-type]
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()


async def talk(port: int, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(raw)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def eventually(look: Callable[[], object], limit_s: float = 60.0) -> None:
    """Ask until it is so; only asking tells."""
    async with asyncio.timeout(limit_s):
        while not (await found if isinstance(found := look(), Awaitable) else found):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def echo(source: str, asked: Asked) -> Answer:
    return Answer(200, f"{source} {asked.path}".encode())


async def test_requests_on_one_connection() -> None:
    async with serving(echo, Limits()) as port:
        got = await talk(port, b"GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /c HTTP/1.0\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 OK") == 3
    assert b"127.0.0.1 /a" in got
    assert b"/b" not in got.partition(b"127.0.0.1 /a")[2].partition(b"127.0.0.1 /c")[0]
    assert got.endswith(b"127.0.0.1 /c")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\n\r\n", 400),
        (b"GET /../x HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 413),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
    ],
)
def test_what_cannot_be_read_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse(head, "aliyun")
    assert refused.value.status == status


async def test_a_head_without_end_is_cut_off() -> None:
    async with serving(echo, Limits()) as port:
        got = await talk(port, b"GET / HTTP/1.1\r\nx: " + b"a" * 20_000)
    assert got.startswith(b"HTTP/1.1 431")


async def test_a_silent_client_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_S", 0.1)
    async with serving(echo, Limits()) as port:
        assert await talk(port, b"GET / HT") == b""


async def test_connections_of_one_source_are_bounded() -> None:
    async with serving(echo, Limits()) as port:
        held = [await asyncio.open_connection(LOOPBACK, port) for _ in range(CONNECTIONS_MAX)]
        await asyncio.sleep(0.05)
        with contextlib.suppress(ConnectionError):
            assert await talk(port, b"GET / HTTP/1.0\r\n\r\n") == b""
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.05)
        assert b"200 OK" in await talk(port, b"GET / HTTP/1.0\r\n\r\n")


def test_requests_of_one_source_are_bounded_and_come_back() -> None:
    clock = [0.0]
    limits = Limits(lambda: clock[0])
    assert sum(limits.admit("a") for _ in range(1000)) == BURST
    assert limits.admit("b")
    clock[0] = 1.0
    assert sum(limits.admit("a") for _ in range(1000)) == 50


async def test_an_address_is_looked_up_in_its_own_vswitch(config: Config, tmp_path: Path) -> None:
    """Two tenants with the same address: each gets its own instance, and nobody else gets any."""
    store = MemoryStore()
    for record in (SUBJECT.vpc, SUBJECT.vswitch, SUBJECT.key_pair, SUBJECT.port, INSTANCE):
        assert record is not None
        await store.put(record)
    await store.put(replace(SUBJECT.vswitch, id="vsw-2"))
    await store.put(replace(SUBJECT.port, id="p-2", vswitch="vsw-2", instance="i-2", host="h1"))
    await store.put(replace(INSTANCE, id="i-2", port="p-2", vswitch="vsw-2"))
    service = Service(config, store, lambda vswitch: tmp_path / vswitch)
    task = asyncio.create_task(service.run())
    try:
        asked = Asked("GET", "/latest/meta-data/instance-id", {}, "aliyun")
        await eventually(lambda: service.respond("vsw-1", "10.0.1.5", asked).body == b"i-1")
        assert service.respond("vsw-2", "10.0.1.5", asked).body == b"i-2"
        assert service.respond("vsw-2", "10.0.1.6", asked).status == 404
        assert service.respond("vsw-3", "10.0.1.5", asked).status == 404
        await store.delete(Instance, "i-2")
        await eventually(lambda: service.respond("vsw-2", "10.0.1.5", asked).status == 404)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, timeout=10)


@pytest.fixture
def namespace() -> str:
    name = f"yt-md-{time.monotonic_ns() % 10**9}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("network namespaces cannot be made here")
    ip("-n", name, "link", "set", "lo", "up")
    return name


async def test_it_listens_inside_and_again_when_the_namespace_is_made_anew(config: Config, namespace: str) -> None:
    store = MemoryStore()
    for record in (SUBJECT.vpc, SUBJECT.vswitch, SUBJECT.key_pair, INSTANCE):
        assert record is not None
        await store.put(record)
    await store.put(replace(SUBJECT.port, ip=LOOPBACK, host="h1"))
    where = Path("/run/netns") / namespace
    port = free_port()
    service = Service(config, store, lambda _vswitch: where, port)
    task = asyncio.create_task(service.run())
    url = f"http://{LOOPBACK}:{port}/latest/meta-data/instance-id"
    fetch = [
        "ip",
        "netns",
        "exec",
        namespace,
        "python3",
        "-c",
        f"import urllib.request as u;print(u.urlopen('{url}').read())",
    ]

    async def answered() -> bool:
        done = await asyncio.to_thread(subprocess.run, fetch, capture_output=True, check=False)
        return b"i-1" in done.stdout

    try:
        await eventually(answered)
        with pytest.raises(OSError):  # noqa: PT011 — nothing listens outside
            await asyncio.to_thread(urllib.request.urlopen, url)
        ip("netns", "del", namespace)
        ip("netns", "add", namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        await eventually(answered)
        await store.delete(Port, "p-1")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        ip("netns", "del", namespace)


async def test_a_namespace_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await netns.listen(tmp_path / "none")
