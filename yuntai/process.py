"""How a process of the cloud starts and ends: configuration, log, signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from yuntai import config as configuration
from yuntai import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EX_CONFIG = 78
"""Exit status of a process whose configuration is wrong (sysexits.h); the supervisor does not start it again."""


def told_to_stop() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. Call it inside the running loop, once a process."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


async def until_told(work: Awaitable[None]) -> None:
    """Run ``work`` until it ends or the process is told to stop; an error of ``work`` is raised."""
    told = told_to_stop()
    working = asyncio.ensure_future(work)
    stop = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        stop.cancel()
        await asyncio.gather(working, stop, return_exceptions=True)


def main(name: str, serve: Callable[[configuration.Config], Awaitable[None]], *, secrets: tuple[str, ...] = ()) -> None:
    """Run ``serve`` as the process ``name`` until told to stop; ``secrets`` must be readable at the start."""
    logger = log.setup(name)
    try:
        config = configuration.load()
        for secret in secrets:
            config.secret(secret)
    except configuration.ConfigError as error:
        logger.critical("not started", error=str(error))
        sys.exit(EX_CONFIG)

    async def run() -> None:
        await until_told(serve(config))

    asyncio.run(run())
    logger.info("stopped")
