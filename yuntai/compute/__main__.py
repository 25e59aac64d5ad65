"""``python -m yuntai.compute``: the host agent as a process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from yuntai import process
from yuntai.compute import probe
from yuntai.compute.agent import Agent
from yuntai.compute.pangu_volumes import PanguVolumes
from yuntai.network import local
from yuntai.state import EtcdStore

if TYPE_CHECKING:
    from yuntai.config import Config


async def serve(config: Config) -> None:
    """Run the agent and the host's part of the network until cancelled; guests run on after it."""
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


if __name__ == "__main__":
    process.main("compute", serve)
