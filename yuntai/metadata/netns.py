"""A listening socket in another network namespace. The socket keeps the namespace; the process stays where it is."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PORT = 80
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_BACKLOG = 64
_TIMEOUT_S = 10.0


async def listen(namespace: Path, port: int = PORT) -> socket.socket:
    """Return a listening socket on every address of the namespace; raise :class:`OSError`."""
    answer: Future[socket.socket] = Future()
    # setns(2) is for one thread: this one enters, makes the socket and ends, so nothing else is ever in there.
    Thread(target=_make, args=(namespace, port, answer), name="netns-listen", daemon=True).start()
    return await asyncio.wait_for(asyncio.wrap_future(answer), _TIMEOUT_S)


def _make(namespace: Path, port: int, answer: Future[socket.socket]) -> None:
    try:
        answer.set_result(_listen_inside(namespace, port))
    except OSError as error:
        answer.set_exception(error)


def _listen_inside(namespace: Path, port: int) -> socket.socket:
    handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter {namespace}: {os.strerror(code)}")
    finally:
        os.close(handle)
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", port))  # noqa: S104 — every address of that namespace, which holds only the service
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
