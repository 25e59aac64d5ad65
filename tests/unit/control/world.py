"""A whole control plane in memory: store, block store, agents and a clock, with things that kill and break."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

from yuntai.control.jobs.memory import MemoryVolumes
from yuntai.control.jobs.outcome import Finished, Later, Outcome
from yuntai.control.jobs.runner import Runner
from yuntai.control.jobs.volumes import VolumesUnavailable
from yuntai.control.requests.types import Caller, RunInstances
from yuntai.control.scheduler import rooms
from yuntai.control.settle import settle
from yuntai.model.base import now_utc
from yuntai.model.cluster import Account, Host, Job, Volume
from yuntai.model.compute import Disk, Image, Instance, ObservedInstance, Snapshot
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.state import MemoryStore
from yuntai.state.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.model.base import Record

ACCOUNT = "1000000000000001"
CALLER = Caller(account=ACCOUNT, request_id="req-1")
IMAGE_VOLUME = "vol-00000000000000aa"
IMAGE = "m-base"
ROUNDS_MAX = 400


class Killed(BaseException):
    """The process died here."""


class Fuse:
    """Burns down with every write and every outside call; at zero the process dies, after the effect."""

    def __init__(self, left: int | None = None) -> None:
        self.left = left
        self.burnt = 0

    def burn(self) -> None:
        self.burnt += 1
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise Killed


class KillingStore(MemoryStore):
    """A store whose process dies after a write."""

    def __init__(self, memory: Memory, fuse: Fuse) -> None:
        super().__init__(memory)
        self.fuse = fuse

    async def txn(self, **arguments: Any) -> bool:
        done = await super().txn(**arguments)
        self.fuse.burn()
        return done


class KillingVolumes:
    """A block store whose caller dies after a call."""

    def __init__(self, inner: MemoryVolumes, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)

        async def wrapped(*arguments: Any) -> Any:
            answer = await call(*arguments)
            self._fuse.burn()
            return answer

        return wrapped


class BreakingVolumes:
    """A block store that stops answering creations and snapshots: with the effect done, or not."""

    def __init__(self, inner: MemoryVolumes, *, from_call: int, effect: bool) -> None:
        self._inner = inner
        self._left = from_call
        self._effect = effect

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)

        async def wrapped(*arguments: Any) -> Any:
            self._left -= 1
            if self._left < 0 and name in (
                "create_volume",
                "take_snapshot",
                "take_group",
                "resize_volume",
                "roll_back",
            ):
                if self._effect:
                    await call(*arguments)
                raise VolumesUnavailable("the block store was made to break")
            return await call(*arguments)

        return wrapped


class Agent:
    """All agents at once: what they observe follows what is wanted, one step at a time. ``mute`` ones do nothing."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.mute = False
        self.refuses: set[str] = set()  # instances that do not start
        self.clings: set[str] = set()  # disks and network cards that their guest does not let go of
        self.rejects: set[str] = set()  # disks and network cards that no running guest takes

    async def step(self) -> bool:
        """Act once on every instance; return whether anything changed."""
        if self.mute:
            return False
        changed = False
        known = {o.value.id: o.value for o in await self.store.list(ObservedInstance)}
        instances = {i.value.id: i.value for i in await self.store.list(Instance)}
        for instance in instances.values():
            if not instance.host:
                continue
            seen = self._see(instance, known.get(instance.id))
            if seen != known.get(instance.id):
                await self.store.put(seen)
                changed = True
        for gone in set(known) - set(instances):
            await self.store.delete(ObservedInstance, gone)
            changed = True
        return changed

    def _see(self, instance: Instance, before: ObservedInstance | None) -> ObservedInstance:
        had = before.attached if before is not None else ()
        state: Any = {"running": "running", "stopped": "stopped", "deleted": "absent"}[instance.desired]
        error = ""
        if state == "running" and instance.id in self.refuses:
            state, error = "starting", "the guest was made not to start"
        wanted = instance.disks if state == "running" else ()
        if before is not None and before.state == "running":
            wanted = tuple(d for d in wanted if d in had or d not in self.rejects)
        kept = tuple(d for d in had if d in self.clings and d not in wanted and state == "running")
        return ObservedInstance(
            id=instance.id,
            host=instance.host,
            state=state,
            since="2026-01-01T00:00:00Z",
            reboot_seq=instance.reboot_seq,
            attached=(*wanted, *kept),
            nics=self._cards(instance, before) if state == "running" else (),
            error=error,
        )

    def _cards(self, instance: Instance, before: ObservedInstance | None) -> tuple[str, ...]:
        had = before.nics if before is not None and before.state == "running" else ()
        more = tuple(p for p in instance.ports if p in had or p not in self.rejects)
        kept = tuple(p for p in had if p in self.clings and p not in instance.ports)
        return (instance.port, *more, *kept)


class World:
    """Everything, with invariants to check when it has come to rest."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.store = MemoryStore(self.memory)
        self.volumes = MemoryVolumes()
        self.agent = Agent(self.store)
        self.now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        self.appeared: dict[str, int] = {}

    async def set_up(self, *, hosts: int = 2, vcpus: int = 16, memory_mib: int = 16384) -> None:
        now = now_utc()
        await self.store.put(Account(id=ACCOUNT, name="test", created=now))
        for number in range(1, hosts + 1):
            await self.store.put(
                Host(
                    id=f"h{number}",
                    address=f"10.0.0.{number}",
                    cpus=vcpus,
                    memory_mib=memory_mib,
                    accelerator="tcg",
                    seen=now,
                    vcpus_max=vcpus,
                    memory_mib_max=memory_mib,
                )
            )
        await self.volumes.create_volume(IMAGE_VOLUME, 1 << 30, None)
        await self.store.put(
            Image(
                id=IMAGE,
                name="base",
                volume=IMAGE_VOLUME,
                node=1,
                size_gib=1,
                status="Available",
                progress=100,
                created=now,
            )
        )

    def runner(self, fuse: Fuse | None = None, volumes: Any = None) -> Runner:
        """Return a fresh executor's runner, with a fuse in everything that it touches."""
        if fuse is None:
            return Runner(self.store, volumes or self.volumes, clock=lambda: self.now)
        store = KillingStore(self.memory, fuse)
        return Runner(store, KillingVolumes(self.volumes, fuse), clock=lambda: self.now)

    async def all(self, kind: type[Record]) -> list[Any]:
        """Return all records of a kind in the order in which they appeared: ids are random, a seed's walk is not."""
        found: list[Any] = [one.value for one in await self.store.list(kind)]
        for one in sorted(found, key=lambda r: (getattr(r, "device", ""), getattr(r, "ip", ""), r.id)):
            self.appeared.setdefault(one.id, len(self.appeared))
        return sorted(found, key=lambda r: self.appeared[r.id])

    async def unfinished(self) -> list[Job]:
        return [job for job in await self.all(Job) if job.state not in ("done", "failed")]

    async def drive(self, runner: Runner | None = None, *, rounds: int = ROUNDS_MAX) -> None:
        """Let executor, agents and reconciler work until nothing is left to do."""
        worker = runner or self.runner()
        for _ in range(rounds):
            jobs = await self.unfinished()
            outcomes: list[Outcome] = [await worker.advance(job.id) for job in jobs]
            moved = await self.agent.step()
            moved |= await self.reconcile()
            if all(isinstance(outcome, Finished) for outcome in outcomes):
                if not moved and not await self.unfinished():
                    return
            elif not moved:
                pause = max([o.delay_s for o in outcomes if isinstance(o, Later)], default=15.0)
                self.now += dt.timedelta(seconds=pause)
        left = [
            (j.action, j.state, j.attempts, j.error, [s.name for s in j.steps if not s.done])
            for j in await self.unfinished()
        ]
        raise AssertionError(f"not at rest after {rounds} rounds: {left}")

    async def reconcile(self) -> bool:
        changed = False
        observed = {o.id: o for o in await self.all(ObservedInstance)}
        for instance in await self.all(Instance):
            after = settle(instance, observed.get(instance.id), now=now_utc())
            if after != instance:
                await self.store.put(after)
                changed = True
        return changed

    async def check(self, *, extra_volumes: Iterable[str] = ()) -> None:
        """Everything that must hold at rest."""
        instances = {i.id: i for i in await self.all(Instance)}
        disks = {d.id: d for d in await self.all(Disk)}
        ports = {p.id: p for p in await self.all(Port)}
        snapshots = {s.id: s for s in await self.all(Snapshot)}
        images = {i.id: i for i in await self.all(Image)}
        assert not await self.unfinished()
        self._check_volumes(disks, snapshots, images, set(extra_volumes))
        self._check_instances(instances, disks, ports)
        assert all(s.status in ("accomplished", "failed") for s in snapshots.values())
        assert all(i.status in ("Available", "CreateFailed") for i in images.values())
        held = {port_id for i in instances.values() for port_id in (i.port, *i.ports)}
        assert held == {port.id for port in ports.values() if port.instance}
        assert all(not p.job and not p.state and not p.primary for p in ports.values() if not p.instance)
        assert len({(p.vswitch, p.ip) for p in ports.values()}) == len(ports)
        assert len({(p.vpc, p.mac) for p in ports.values()}) == len(ports)
        assert {o.id for o in await self.all(ObservedInstance)} <= set(instances)
        room = rooms(await self.all(Host), instances.values())
        assert all(r.vcpus >= 0 and r.memory_mib >= 0 for r in room.values())
        await self._check_network(ports)

    def _check_volumes(self, disks: Any, snapshots: Any, images: Any, extra: set[str]) -> None:
        needed = {d.volume for d in disks.values()} | {i.volume for i in images.values() if i.status == "Available"}
        needed |= {s.volume for s in snapshots.values() if s.status == "accomplished"} | extra
        assert set(self.volumes.volumes) == needed, "a volume leaked, or one is missing"
        taken = {token for volume in self.volumes.volumes.values() for token in volume.snapshots}
        assert taken == {s.id for s in snapshots.values() if s.status == "accomplished"}, "a snapshot node leaked"

    def _check_instances(self, instances: Any, disks: Any, ports: Any) -> None:
        for instance in instances.values():
            assert instance.status in ("Running", "Stopped"), instance
            assert instance.job == "", instance
            assert set(instance.disks) == {d.id for d in disks.values() if d.instance == instance.id}
            assert instance.system_disk in instance.disks
            assert ports[instance.port].instance == instance.id
            if instance.status == "Running":
                assert instance.host
                assert ports[instance.port].host == instance.host
        for disk in disks.values():
            assert disk.status == ("In_use" if disk.instance else "Available"), disk
            assert disk.job == "", disk
            assert not disk.instance or disk.instance in instances
            assert self.volumes.volumes[disk.volume].size_bytes >= disk.size_gib << 30
        names = [(d.instance, d.device) for d in disks.values() if d.instance]
        assert len(set(names)) == len(names), "two disks have one device name"

    async def _check_network(self, ports: Any) -> None:
        vpcs = {v.id: v for v in await self.all(Vpc)}
        vswitches = {v.id: v for v in await self.all(VSwitch)}
        groups = {g.id: g for g in await self.all(SecurityGroup)}
        assert len({v.ext_ip for v in vpcs.values()}) == len(vpcs)
        assert all(v.vpc in vpcs for v in vswitches.values())
        assert all(g.vpc in vpcs for g in groups.values())
        assert len([v for v in vpcs.values() if v.is_default]) <= 1
        defaults = [g.vpc for g in groups.values() if g.is_default]
        assert len(set(defaults)) == len(defaults), "a VPC has two default groups"
        for port in ports.values():
            assert port.vswitch in vswitches
            assert set(port.security_groups) <= set(groups)

    async def hydrate(self, volume: str, *, done: bool) -> None:
        """Write the master's record of a volume made over a source, copied wholly or not at all."""
        there = self.volumes.volumes[volume]
        assert there.source is not None
        from yuntai.model.cluster import VolumeSource

        await self.store.put(
            Volume(
                id=volume,
                size_bytes=there.size_bytes,
                source=VolumeSource(volume=there.source[0], node=there.source[1]),
                hydrated_chunks=there.size_bytes // (64 << 20) if done else 0,
                created=now_utc(),
            )
        )


def small(**changes: Any) -> RunInstances:
    """Return a request for a small instance."""
    return RunInstances(**{"image_id": IMAGE, "instance_type": "ecs.yt1.nano", **changes})


def run(coroutine: Any) -> Any:
    """Run a coroutine to its end in a loop of its own."""
    return asyncio.run(coroutine)
