"""Loopback ports for processes that tests start.

A port asked of the system (``bind`` to 0) comes from the range that the system also gives to every client: until the
process under test listens on it, any connection of another test may be using it as its source port. These come from
below that range, each is given once per process, and each worker of ``pytest-xdist`` has a block of its own.
"""

from __future__ import annotations

import itertools
import os
import socket

FIRST = 20_000
BLOCK = 2_500
"""Ports of one worker; five workers end below 32,768, where Linux's ``ip_local_port_range`` begins."""
BLOCKS = 5


def _candidates() -> itertools.chain[int]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = FIRST + int(worker) % BLOCKS * BLOCK
    # Two runs on one machine should not walk the same ports in step.
    offset = os.getpid() * 37 % BLOCK
    return itertools.chain(range(first + offset, first + BLOCK), range(first, first + offset))


_left = _candidates()


def free_port() -> int:
    """Return a loopback port that nothing listens on and that no client will be given."""
    for port in _left:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is left of the {BLOCK} of this worker: give ports back or raise BLOCK")
