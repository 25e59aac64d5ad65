"""The front with the real control plane behind it: executor and reconciler; only guests and volumes are made up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.functional.sdk.clients import NewSdk
from tests.functional.sdk.libcloud_life import LibcloudLife
from tests.functional.sdk.lifecycle import Life
from tests.functional.sdk.oldsdk import OldLife
from tests.unit.api.fake_cloud import FakeCloud
from tests.unit.control.world import Agent
from yuntai.control.jobs.executor import Executor
from yuntai.control.jobs.memory import MemoryVolumes
from yuntai.control.jobs.runner import Runner
from yuntai.control.reconciler import Reconciler
from yuntai.model.compute import Image
from yuntai.state import MemoryStore, Store

AGENT_STEP_S = 0.01


class RealControl:
    """What the leader runs, and an agent that looks every few milliseconds."""

    def __init__(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        self.store = store

    async def run(self) -> None:
        """Run until cancelled."""
        volumes = MemoryVolumes()
        for image in await self.store.list(Image):
            await volumes.create_volume(image.value.volume, image.value.size_gib << 30, None)
        async with asyncio.TaskGroup() as group:
            group.create_task(Executor(self.store, Runner(self.store, volumes)).run())
            group.create_task(Reconciler(self.store).run())
            group.create_task(self._agents())

    async def _agents(self) -> None:
        agent = Agent(self.store)
        while True:
            await agent.step()
            await asyncio.sleep(AGENT_STEP_S)


@pytest.mark.parametrize("life", ["acs3", "rpc", "old", "libcloud"])
def test_every_client_lives_a_life_on_the_real_control_plane(life: str) -> None:
    with FakeCloud(executor=RealControl) as cloud:
        made: Any
        match life:
            case "old":
                made = OldLife(cloud.tenant)
            case "libcloud":
                OldLife(cloud.tenant).run()  # the account's default network is made by its first instance
                made = LibcloudLife(cloud.tenant)
            case _:
                made = Life(NewSdk(cloud.tenant, "v2" if life == "rpc" else ""))
        made.run()
        if isinstance(made, Life):
            assert made.sdk.recorder.problems() == []
