"""``python -m yuntai.metadata``: the metadata service of this host as a process."""

from __future__ import annotations

import asyncio
import signal
import sys

from yuntai import config as configuration
from yuntai import log
from yuntai.metadata.service import Service
from yuntai.state import EtcdStore


async def serve(config: configuration.Config) -> None:
    """Serve until cancelled."""
    async with EtcdStore(config.etcd) as store:
        await Service(config, store).run()


async def until_told() -> None:
    """Serve until SIGTERM or SIGINT."""
    logger = log.setup("metadata")
    try:
        config = configuration.load()
        config.secret("cluster")
    except configuration.ConfigError as error:
        logger.critical("not started", error=str(error))
        sys.exit(78)  # EX_CONFIG
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    work = asyncio.create_task(serve(config))
    stop = asyncio.create_task(told.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    work.cancel()
    stop.cancel()
    await asyncio.gather(work, stop, return_exceptions=True)
    logger.info("stopped")


if __name__ == "__main__":
    asyncio.run(until_told())
