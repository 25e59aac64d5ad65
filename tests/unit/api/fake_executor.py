"""An executor for tests: it does to the records what the real one ends with, and nothing below them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from msgspec.structs import replace

from yuntai.model.base import now_utc
from yuntai.model.cluster import Host, Job
from yuntai.model.compute import Disk, Image, Instance, ObservedInstance, Snapshot, SnapshotGroup
from yuntai.model.network import Port
from yuntai.model.placement import DedicatedHost
from yuntai.state import Put, Reset, Store
from yuntai.state.errors import NotFound


class FakeExecutor:
    """Carries jobs out by writing what is true afterwards."""

    def __init__(self, store: Store, delay_s: float = 0.0) -> None:
        self.store = store
        self.delay_s = delay_s

    async def run(self) -> None:
        """Follow the jobs until cancelled."""
        async for event in self.store.watch(Job):
            found = event.records if isinstance(event, Reset) else (event.record,) if isinstance(event, Put) else ()
            for record in found:
                if record.value.state == "queued":
                    await self._carry_out(record.value)

    async def _carry_out(self, job: Job) -> None:
        await asyncio.sleep(self.delay_s)
        await getattr(self, f"_{job.action}")(job)
        await self.store.put(replace(job, state="done", updated=now_utc()))

    async def _instance(self, job: Job, **changes: Any) -> None:
        await self.store.update(Instance, job.resource, lambda one: replace(one, job="", **changes))

    async def _create_instance(self, job: Job) -> None:
        found = await self.store.need(Instance, job.resource)
        for disk_id in found.value.disks:
            await self._disk(disk_id, status="In_use", attached_time=now_utc())
        start = job.arguments["start"]
        await self._observe(job.resource, "running" if start else "stopped")
        await self._instance(
            job, status="Running" if start else "Stopped", desired="running", host="h1", started=now_utc()
        )

    async def _observe(self, instance_id: str, state: Any) -> None:
        await self.store.put(ObservedInstance(id=instance_id, host="h1", state=state, since=now_utc(), boot_seq=1))

    async def _start_instance(self, job: Job) -> None:
        await self._instance(job, status="Running")

    _reboot_instance = _start_instance

    async def _stop_instance(self, job: Job) -> None:
        await self._instance(job, status="Stopped")

    async def _delete_instance(self, job: Job) -> None:
        instance = (await self.store.need(Instance, job.resource)).value
        for disk in await self.store.list(Disk):
            if disk.value.instance != instance.id:
                continue
            if disk.value.kind == "system" or disk.value.delete_with_instance:
                await self.store.delete(Disk, disk.value.id)
            else:
                await self._disk(disk.value.id, status="Available", instance="", device="")
        await self.store.txn(delete=[(Port, instance.port), (ObservedInstance, instance.id), (Instance, instance.id)])

    async def _disk(self, disk_id: str, **changes: Any) -> None:
        await self.store.update(Disk, disk_id, lambda one: replace(one, job="", **changes))

    async def _allocate_dedicated_host(self, job: Job) -> None:
        # A machine that has just failed, so that another one can be asked for.
        machine = replace((await self.store.list(Host))[0].value, id="h9", status="down", dedicated=job.resource)
        await self.store.put(machine)
        with contextlib.suppress(NotFound):  # given back meanwhile
            await self.store.update(DedicatedHost, job.resource, lambda one: replace(one, host="h9"))

    async def _attach_nic(self, job: Job) -> None:
        instance_id = job.arguments["instance"]
        await self.store.update(Instance, instance_id, lambda one: replace(one, ports=(*one.ports, job.resource)))
        await self.store.update(Port, job.resource, lambda one: replace(one, job="", state=""))

    async def _detach_nic(self, job: Job) -> None:
        await self.store.update(Instance, job.arguments["instance"], lambda one: replace(one, ports=()))
        await self.store.update(Port, job.resource, lambda one: replace(one, job="", state="", instance=""))

    async def _create_disk(self, job: Job) -> None:
        await self._disk(job.resource, status="Available")

    async def _delete_disk(self, job: Job) -> None:
        await self.store.delete(Disk, job.resource)

    async def _attach_disk(self, job: Job) -> None:
        await self._disk(job.resource, status="In_use", attached_time=now_utc())

    async def _detach_disk(self, job: Job) -> None:
        await self._disk(job.resource, status="Available", instance="", device="", detached_time=now_utc())

    async def _resize_disk(self, job: Job) -> None:
        await self._disk(job.resource)

    async def _take(self, snapshot: str) -> None:
        await self.store.update(
            Snapshot, snapshot, lambda one: replace(one, status="accomplished", progress=100, node=1)
        )

    async def _create_snapshot(self, job: Job) -> None:
        await self._take(job.resource)

    async def _create_snapshot_group(self, job: Job) -> None:
        for snapshot in job.arguments["snapshots"]:
            await self._take(snapshot)
        await self.store.update(SnapshotGroup, job.resource, lambda one: replace(one, status="accomplished"))

    async def _reset_disk(self, job: Job) -> None:
        disk = (await self.store.need(Disk, job.resource)).value
        await self._disk(job.resource, status="In_use" if disk.instance else "Available")

    _reinit_disk = _reset_disk

    async def _delete_snapshot(self, job: Job) -> None:
        await self.store.delete(Snapshot, job.resource)
        for group in await self.store.list(SnapshotGroup):
            if group.value.snapshots == (job.resource,):
                await self.store.delete(SnapshotGroup, group.value.id)
            elif job.resource in group.value.snapshots:
                rest = tuple(one for one in group.value.snapshots if one != job.resource)
                await self.store.put(replace(group.value, snapshots=rest))

    async def _create_image(self, job: Job) -> None:
        for snapshot in job.arguments["snapshots"]:
            await self._take(snapshot)
        await self.store.update(Image, job.resource, lambda one: replace(one, status="Available", progress=100))

    async def _delete_image(self, job: Job) -> None:
        await self.store.delete(Image, job.resource)
