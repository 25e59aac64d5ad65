"""The forwarder's choice among targets, with small servers in their place; ``mood`` is how each one is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from yuntai.lab import forward
from yuntai.lab.forward import Target, Targets

PATIENCE_S = 30.0


class Server:
    """Answers every connection's first line with its own name, or, when it hangs, takes it and says nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hangs = False
        self.asked = asyncio.Event()
        self.target: Target = ("127.0.0.1", 0)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.target = self._server.sockets[0].getsockname()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.set()
        try:
            await reader.readline()
            if self.hangs:
                await reader.read()
            writer.write(f"HTTP/1.1 200 OK\r\n\r\n{self.name}".encode())
        finally:
            writer.close()


@pytest.fixture
async def servers() -> AsyncIterator[list[Server]]:
    made = [Server("first"), Server("second")]
    for server in made:
        await server.start()
    yield made
    for server in made:
        await server.stop()


@pytest.fixture
async def port(servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Serve the targets with short patience and return the port."""
    monkeypatch.setattr(forward, "HEALTH_S", 0.2)
    monkeypatch.setattr(forward, "HEALTH_PAUSE_S", 0.05)
    targets = Targets([server.target for server in servers], "/healthz")

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forward.join_with(reader, writer, targets)

    listener = await asyncio.start_server(join, "127.0.0.1", 0)
    watching = asyncio.create_task(targets.watch())
    yield listener.sockets[0].getsockname()[1]
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    listener.close()


async def ask(port: int) -> str:
    """Return who answers, "" when the connection is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"hello\n")
        return (await asyncio.wait_for(reader.read(), PATIENCE_S)).decode().rpartition("\n")[2]
    except ConnectionError:
        return ""
    finally:
        writer.close()


async def test_the_first_target_serves_as_long_as_it_is_well(servers: list[Server], port: int) -> None:
    del servers
    assert [await ask(port) for _ in range(3)] == ["first"] * 3


async def test_a_target_that_is_gone_is_passed_over_at_once(servers: list[Server], port: int) -> None:
    await servers[0].stop()
    assert await ask(port) == "second"


async def test_a_target_that_hangs_is_left_with_those_who_wait_for_it(servers: list[Server], port: int) -> None:
    servers[0].hangs = True
    assert await ask(port) == "", "who waits is cut off, and may ask again"
    assert await ask(port) == "second"
    servers[0].hangs, servers[1].hangs = False, True
    assert [await ask(port), await ask(port)] == ["", "first"]


async def test_when_none_is_well_the_one_before_keeps_its_clients(servers: list[Server], port: int) -> None:
    for server in servers:
        server.hangs = True
    asking = asyncio.create_task(ask(port))
    done, _ = await asyncio.wait({asking}, timeout=1.5)
    assert not done
    servers[1].hangs = False
    assert await asking == ""
    assert await ask(port) == "second"


async def test_who_came_after_a_look_began_is_not_cut_off_by_it(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look that gives a target up may have begun before it was mended: it says nothing of who connected since."""
    monkeypatch.setattr(forward, "HEALTH_PAUSE_S", 0.01)
    first, second = servers
    targets = Targets([first.target, second.target], "/healthz")
    looking, connected, looked_again = asyncio.Event(), asyncio.Event(), asyncio.Event()
    looks: list[Target] = []

    async def look(target: Target) -> bool:
        """Find the first target sick as often as it takes to give it up, the last time while somebody connects."""
        looks.append(target)
        if target != first.target:
            return True
        if looks.count(target) > forward.FAILURES:
            looked_again.set()
            return True
        if looks.count(target) == forward.FAILURES:
            looking.set()
            await connected.wait()
        return False

    monkeypatch.setattr(targets, "_well", look)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await forward.join_with(reader, writer, targets)

    async with await asyncio.start_server(join, "127.0.0.1", 0) as listener, asyncio.timeout(PATIENCE_S):
        watching = asyncio.create_task(targets.watch())
        await looking.wait()
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        await first.asked.wait()
        connected.set()
        await looked_again.wait()
        writer.write(b"hello\n")
        assert (await reader.read()).endswith(b"first")
        writer.close()
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
