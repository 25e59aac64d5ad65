"""Lead a port of the machine's loopback to an address inside a host's network, and nothing else.

The listener is made in the machine's network namespace and stays there; the process then moves into the host's, so that
every connection it opens starts inside. The host itself gets no way out by this.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys

from yuntai.lab import syscalls

CHUNK_BYTES = 64 * 1024
CONNECT_S = 10.0
LISTEN_ADDRESS = "127.0.0.1"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end, and pass the end on."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: tuple[str, int]) -> None:
    """Join one client with the target, until both directions have ended or one broke."""
    try:
        async with asyncio.timeout(CONNECT_S):
            far_reader, far_writer = await asyncio.open_connection(*target)
    except OSError as error:
        print(f"forward: {target[0]}:{target[1]} does not answer: {error}", file=sys.stderr, flush=True)
        writer.transport.abort()
        return
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, far_writer))
            group.create_task(_copy(far_reader, writer))
    except* ConnectionError:
        writer.transport.abort()
        far_writer.transport.abort()
    finally:
        writer.close()
        far_writer.close()


async def serve_for_ever(listener: socket.socket, target: tuple[str, int]) -> None:
    """Serve ``listener`` until TERM or INT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(reader, writer, target)

    server = await asyncio.start_server(join, sock=listener)
    async with server:
        waiting = asyncio.create_task(server.serve_forever())
        await stop.wait()
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


def main(arguments: list[str]) -> None:
    """Listen, move into the host's network, and serve."""
    parser = argparse.ArgumentParser(prog="yuntai forward", description="lead a loopback port into a host's network")
    parser.add_argument("--netns", required=True, help="path of the host's network namespace")
    parser.add_argument("port", type=int, help=f"port on {LISTEN_ADDRESS}")
    parser.add_argument("target", help="ADDRESS:PORT inside")
    options = parser.parse_args(arguments)
    address, _, port = options.target.rpartition(":")
    # The keeper blocks the signals that it waits for, and a child inherits that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
    try:
        listener = socket.create_server((LISTEN_ADDRESS, options.port), backlog=128)
    except OSError as error:
        raise SystemExit(
            f"forward: cannot listen on {LISTEN_ADDRESS}:{options.port}: {error.strerror}; "
            "free the port, or choose another with `make up API_PORT=…`"
        ) from error
    syscalls.setns(options.netns, syscalls.CLONE_NEWNET)
    asyncio.run(serve_for_ever(listener, (address, int(port))))


if __name__ == "__main__":
    main(sys.argv[1:])
