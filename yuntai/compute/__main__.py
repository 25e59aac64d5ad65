"""``python -m yuntai.compute``: the host agent as a process."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from yuntai import config as configuration
from yuntai import log
from yuntai.compute import probe
from yuntai.compute.agent import Agent
from yuntai.compute.pangu_volumes import PanguVolumes
from yuntai.network import local
from yuntai.state import EtcdStore


async def serve(config: configuration.Config) -> None:
    """Run the agent and the host's part of the network until cancelled."""
    from yuntai.compute.libvirt_driver import LibvirtHypervisor  # needs libvirt, which only a host has

    accelerator = await probe.accelerator(Path(config.run_dir) / "accelerator.json")
    hypervisor = LibvirtHypervisor()
    async with EtcdStore(config.etcd) as store, PanguVolumes(config) as volumes:
        agent = Agent(store, hypervisor, volumes, config, accelerator)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(agent.run())
                tasks.create_task(local.run(store, config))
        finally:
            await hypervisor.close()


async def until_told() -> None:
    """Serve until SIGTERM or SIGINT."""
    logger = log.setup("compute")
    try:
        config = configuration.load()
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
    logger.info("stopped; guests run on")


if __name__ == "__main__":
    asyncio.run(until_told())
