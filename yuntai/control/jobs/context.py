"""What a step works with: the unit that it writes into, the block store, and its own job."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from yuntai.control.jobs.outcome import JobFailedError, SupersededError
from yuntai.control.placer import fleet_of
from yuntai.control.sources import holders
from yuntai.model.compute import Disk, Instance, ObservedInstance, Snapshot
from yuntai.model.network import Port

if TYPE_CHECKING:
    from yuntai.control.jobs.volumes import Volumes
    from yuntai.control.placer import Placer
    from yuntai.control.scheduler import Fleet, Placement, Request
    from yuntai.control.unit import Unit
    from yuntai.model.cluster import Job, Step


PLACEMENT_DOMAIN = "placement"


@dataclass(slots=True)
class Context:
    """One run of one step. What the step puts into ``unit`` is committed together with "this step is done"."""

    unit: Unit
    volumes: Volumes
    job: Job
    step: Step
    now: dt.datetime
    placer: Placer | None = None  # None = whoever places reads everything, one at a time

    @property
    def waited_s(self) -> float:
        """How long this step has been waiting, over restarts of the executor."""
        if not self.step.since:
            return 0.0
        return (self.now - dt.datetime.fromisoformat(self.step.since)).total_seconds()

    def argue(self, **arguments: Any) -> None:
        """Change the job's arguments for the steps that follow."""
        self.job = msgspec.structs.replace(self.job, arguments=self.job.arguments | arguments)

    async def instance(self) -> Instance:
        """Return the instance that this job moves; end the job if another moves it now, or if it is gone."""
        instance = await self.unit.get(Instance, self.job.resource)
        if instance is None:
            raise SupersededError(f"{self.job.resource} is gone")
        if instance.job != self.job.id:
            raise SupersededError(f"{instance.job or 'nothing'} moves {instance.id} now")
        return instance

    async def disk(self) -> Disk:
        """Return the disk that this job works on."""
        disk = await self.unit.get(Disk, self.job.resource)
        if disk is None:
            raise SupersededError(f"{self.job.resource} is gone")
        if disk.job != self.job.id:
            raise SupersededError(f"{disk.job or 'nothing'} works on {disk.id} now")
        return disk

    async def card(self) -> Port:
        """Return the secondary network card that this job works on."""
        port = await self.unit.get(Port, self.job.resource)
        if port is None:
            raise SupersededError(f"{self.job.resource} is gone")
        if port.job != self.job.id:
            raise SupersededError(f"{port.job or 'nothing'} works on {port.eni} now")
        return port

    async def snapshot(self) -> Snapshot:
        """Return the snapshot of this job: its resource, or what its arguments name."""
        snapshot_id = str(self.job.arguments.get("snapshot") or self.job.resource)
        snapshot = await self.unit.get(Snapshot, snapshot_id)
        if snapshot is None:
            raise JobFailedError(f"the snapshot {snapshot_id} is gone")
        return snapshot

    async def observed(self, instance: Instance) -> ObservedInstance | None:
        """Return what the agent of the instance's host sees; what another host's agent wrote does not count."""
        seen = await self.unit.get(ObservedInstance, instance.id)
        return seen if seen is not None and seen.host == instance.host else None

    async def choose_host(self, request: Request, *, besides: bool = False) -> Placement:
        """Choose a host; the room on it is the instance's until this step has written so.

        ``besides``: it is to hold room there and keep what it holds (it moves).
        """
        if self.placer is not None:
            return await self.placer.take(request, besides=besides)
        return (await self.fleet()).choose(request)

    async def fleet(self) -> Fleet:
        """Return who is where; nobody else places between this and what the step writes, if it holds what it takes."""
        if self.placer is not None:
            return await self.placer.fleet()
        await self.unit.guard(PLACEMENT_DOMAIN)
        return await fleet_of(self.unit)

    def hold(self, request: Request, host: str, *, besides: bool = False) -> None:
        """Hold room at a host that the step chose by itself, until what it writes says so."""
        if self.placer is not None:
            self.placer.hold(request, host, besides=besides)

    async def port_to(self, instance: Instance, host: str) -> None:
        """Write the ports so that their networks are made on ``host``."""
        for port_id in (instance.port, *instance.ports):
            port = await self.unit.get(Port, port_id)
            if port is not None and port.host != host:
                self.unit.put(msgspec.structs.replace(port, host=host))

    async def release_volume(self, volume: str) -> None:
        """Delete a volume unless some record still needs it; that record's deletion will then delete it."""
        if volume and not await holders(self.unit, volume):
            await self.volumes.delete_volume(volume)
