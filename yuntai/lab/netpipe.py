"""Join standard input and output with an address inside a host's network, as `ssh -o ProxyCommand` wants it.

``python -m yuntai.lab.netpipe --pid PID [--netns NAME] ADDRESS PORT``: PID is a process of the host (its PID 1 as the
machine numbers it), NAME a network namespace that was made inside the host.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import sys
from pathlib import Path

from yuntai.lab import syscalls

CHUNK_BYTES = 64 * 1024
CONNECT_S = 10.0


def namespace_path(pid: int, netns: str | None) -> Path:
    """Return where the namespace can be opened from the machine; a named one lies in the host's own mounts."""
    return Path(f"/proc/{pid}/root/run/netns/{netns}") if netns else Path(f"/proc/{pid}/ns/net")


def pump(connection: socket.socket, source: int, sink: int) -> None:
    """Copy both ways until the far end closes; our input's end is passed on as a half-closed connection."""
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    data = connection.recv(CHUNK_BYTES)
                    if not data:
                        return
                    _write_all(sink, data)
                else:
                    data = os.read(source, CHUNK_BYTES)
                    if data:
                        connection.sendall(data)
                    else:
                        selector.unregister(source)
                        connection.shutdown(socket.SHUT_WR)


def _write_all(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


def main(arguments: list[str]) -> None:
    """Join standard input and output with the address that ``arguments`` name."""
    parser = argparse.ArgumentParser(prog="yuntai netpipe", description="a pipe to an address inside a host's network")
    parser.add_argument("--pid", type=int, required=True, help="a process of the host")
    parser.add_argument("--netns", help="a network namespace made inside the host")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    options = parser.parse_args(arguments)
    path = namespace_path(options.pid, options.netns)
    try:
        syscalls.setns(path, syscalls.CLONE_NEWNET)
        connection = socket.create_connection((options.address, options.port), CONNECT_S)
    except OSError as error:
        raise SystemExit(f"netpipe: {options.address}:{options.port} in {path}: {error.strerror or error}") from error
    connection.settimeout(None)
    with connection:
        try:
            pump(connection, sys.stdin.fileno(), sys.stdout.fileno())
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(sys.argv[1:])
