"""Lead a port of the machine's loopback to an address among the hosts, and nothing else.

The listener is made in the machine's network namespace and stays there; the process then moves into another, so that
every connection it opens starts inside. The hosts themselves get no way out by this. Of several targets the first that
is well is taken: with ``--health`` a page of each is asked for, because a frozen host's kernel still takes connections.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import NamedTuple

from yuntai.lab import syscalls

CHUNK_BYTES = 64 * 1024
CONNECT_S = 10.0
CONNECT_NEXT_S = 1.0
HEALTH_S = 3.0
HEALTH_PAUSE_S = 1.0
FAILURES = 2
"""A target that was not well so many times in a row is left, if another is well."""
LISTEN_ADDRESS = "127.0.0.1"

Target = tuple[str, int]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Joined(NamedTuple):
    """A client's connection to a target; ``since_s`` on the event loop's clock."""

    target: Target
    far: asyncio.StreamWriter
    since_s: float


class Targets:
    """The addresses that may serve, the one that does first, and who is connected to which.

    A client is cut off, to ask again and be answered by another, when a target was given up and a look at it that began
    after the client connected found it sick. An older look says nothing of the client: the target may be mended since.
    """

    def __init__(self, targets: list[Target], health: str = "") -> None:
        self.order = list(targets)
        self._health = health
        self._joined: dict[asyncio.StreamWriter, Joined] = {}

    @contextlib.asynccontextmanager
    async def connected(self, client: asyncio.StreamWriter) -> AsyncIterator[Streams]:
        """Connect ``client`` to the first that takes it; raise the last one's OSError."""
        target, streams = await self._connect()
        self._joined[client] = Joined(target, streams[1], asyncio.get_running_loop().time())
        try:
            yield streams
        finally:
            del self._joined[client]

    async def _connect(self) -> tuple[Target, Streams]:
        for number, target in enumerate(self.order):
            last = number + 1 == len(self.order)
            try:
                async with asyncio.timeout(CONNECT_S if last else CONNECT_NEXT_S):
                    return target, await asyncio.open_connection(*target)
            except OSError as error:
                print(f"forward: {target[0]}:{target[1]} does not answer: {error}", file=sys.stderr, flush=True)
                if last:
                    raise
        raise OSError("there is no target")

    async def watch(self) -> None:
        """Keep one that is well in front; when none is, they stay as they are."""
        failures = 0
        while len(self.order) > 1 and self._health:
            began_s = asyncio.get_running_loop().time()
            failures = 0 if await self._well(self.order[0]) else failures + 1
            if failures >= FAILURES:
                for target in self.order[1:]:
                    if await self._well(target):
                        self._cut_off(self.order[0], began_s)
                        self._lead_to(target)
                        failures = 0
                        break
            await self._look_after_the_left()
            await asyncio.sleep(HEALTH_PAUSE_S)

    def _lead_to(self, target: Target) -> None:
        print(f"forward: leads to {target[0]}:{target[1]} now", file=sys.stderr, flush=True)
        self.order.remove(target)
        self.order.insert(0, target)

    async def _look_after_the_left(self) -> None:
        """Cut off those who wait for a target that is not in front any more and is sick."""
        for target in {joined.target for joined in self._joined.values()} - {self.order[0]}:
            began_s = asyncio.get_running_loop().time()
            if not await self._well(target):
                self._cut_off(target, began_s)

    def _cut_off(self, target: Target, began_s: float) -> None:
        """Cut off the clients of ``target`` that were connected when a look at it began."""
        for client, joined in list(self._joined.items()):
            if joined.target == target and joined.since_s <= began_s:
                client.transport.abort()
                joined.far.transport.abort()

    async def _well(self, target: Target) -> bool:
        writer = None
        try:
            async with asyncio.timeout(HEALTH_S):
                reader, writer = await asyncio.open_connection(*target)
                host = f"{target[0]}:{target[1]}"
                writer.write(f"GET {self._health} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            if writer is not None:
                writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end, and pass the end on."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def join_with(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, targets: Targets) -> None:
    """Join one client with a target, until both directions have ended or one broke."""
    try:
        async with targets.connected(writer) as (far_reader, far_writer):
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, far_writer))
                    group.create_task(_copy(far_reader, writer))
            except* OSError:
                writer.transport.abort()
                far_writer.transport.abort()
            finally:
                writer.close()
                far_writer.close()
    except OSError:
        writer.transport.abort()


async def serve_for_ever(listener: socket.socket, targets: Targets) -> None:
    """Serve ``listener`` until TERM or INT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await join_with(reader, writer, targets)
        except asyncio.CancelledError:  # at the end of the process: asyncio would log it as an error
            writer.transport.abort()

    server = await asyncio.start_server(join, sock=listener)
    async with server:
        waiting = [asyncio.create_task(server.serve_forever()), asyncio.create_task(targets.watch())]
        await stop.wait()
        for task in waiting:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def parse_target(text: str) -> Target:
    """Return the address and port of ``ADDRESS:PORT``."""
    address, _, port = text.rpartition(":")
    return address, int(port)


def main(arguments: list[str]) -> None:
    """Listen, move into the hosts' network, and serve."""
    parser = argparse.ArgumentParser(prog="yuntai forward", description="lead a loopback port into the hosts' network")
    parser.add_argument("--netns", required=True, help="path of the network namespace to connect from")
    parser.add_argument("--health", default="", help="a page that a target which is well answers with 200")
    parser.add_argument("port", type=int, help=f"port on {LISTEN_ADDRESS}")
    parser.add_argument("target", nargs="+", type=parse_target, help="ADDRESS:PORT inside; the first one well is taken")
    options = parser.parse_args(arguments)
    # The keeper blocks the signals that it waits for, and a child inherits that; killed itself, it cannot end us.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
    syscalls.end_with_parent()
    try:
        listener = socket.create_server((LISTEN_ADDRESS, options.port), backlog=128)
    except OSError as error:
        raise SystemExit(
            f"forward: cannot listen on {LISTEN_ADDRESS}:{options.port}: {error.strerror}; "
            "free the port, or choose another with `make up API_PORT=…`"
        ) from error
    syscalls.setns(options.netns, syscalls.CLONE_NEWNET)
    asyncio.run(serve_for_ever(listener, Targets(options.target, options.health)))


if __name__ == "__main__":
    main(sys.argv[1:])
