"""Random operations, crashes, broken parts: nothing leaks or is stuck, sums are right, and all can be deleted again."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.control.world import CALLER, IMAGE_VOLUME, BreakingVolumes, Fuse, Killed, World, small
from yuntai.control.errors import ApiError
from yuntai.control.requests import (
    disks,
    images,
    instances,
    quotas,
    restore,
    security_groups,
    snapshot_groups,
    snapshots,
    vpcs,
    vswitches,
)
from yuntai.control.requests.types import DiskSpec, RuleSpec
from yuntai.control.scheduler import rooms
from yuntai.model.cluster import Host, Job
from yuntai.model.compute import Disk, Image, Instance, Snapshot, SnapshotGroup
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch

if TYPE_CHECKING:
    from collections.abc import Coroutine

# What a tenant may be told when random requests hit random states; anything else is a fault of ours.
EXPECTED = {
    "IncorrectInstanceStatus",
    "IncorrectDiskStatus",
    "IncorrectDiskStatus.CreateSnapshot",
    "IncorrectSnapshotStatus",
    "IncorrectImageStatus",
    "OperationConflict",
    "OperationDenied.NoStock",
    "DependencyViolation",
    "DependencyViolation.VSwitch",
    "DependencyViolation.SecurityGroup",
    "SnapshotCreatedImage",
    "SnapshotCreatedDisk",
    "ImageUsed",
    "InvalidDiskId.NotPortable",
    "InvalidDiskSize.TooSmall",
    "InvalidSystemDiskSize.LessThanImageSize",
    "InvalidSnapshotId.NotSystemDisk",
    "InvalidCidrBlock.Overlapped",
    "InvalidSecurityGroupId.VPCMismatch",
    "InvalidInstanceId.AlreadyExists",
    "InvalidInstanceId.NotFound",
    "InstanceLastSecurityGroup",
    "InvalidVSwitchId.IpNotEnough",
    "InvalidDiskId.NotFound",
    "InvalidImageId.NotFound",
    "InvalidSnapshotId.NotFound",
}
pick = st.integers(0, 1_000_000)


class ControlMachine(RuleBasedStateMachine):
    """One cloud, driven at random."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.broken: Any = None
        self.seen: set[str] = set()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def ask(self, request: Coroutine[Any, Any, Any]) -> None:
        """Make a request; a refusal that a tenant may get is fine."""
        try:
            self.do(request)
        except ApiError as error:
            if not error.code.startswith("QuotaExceed") and error.code not in EXPECTED:
                raise
            self.seen.add(f"refused {error.code}")

    def one(self, kind: type[Any], number: int, *, own: bool = False) -> str:
        ids = [r.id for r in self.do(self.world.all(kind)) if not own or r.account]
        return ids[number % len(ids)] if ids else "none"

    def has(self, kind: type[Any]) -> bool:
        return bool([r for r in self.do(self.world.all(kind)) if r.account])

    @initialize()
    def start(self) -> None:
        self.do(self.world.set_up(hosts=2, vcpus=6, memory_mib=2048))

    @rule(amount=st.integers(1, 3), data=st.lists(st.booleans(), max_size=2), begin=st.booleans())
    def run_instances(self, amount: int, data: list[bool], *, begin: bool) -> None:
        specs = tuple(DiskSpec(size_gib=2, delete_with_instance=goes) for goes in data)
        request = small(amount=amount, data_disks=specs)
        action = instances.run_instances if begin else instances.create_instance
        self.ask(action(self.world.store, CALLER, request))

    @rule(number=pick, verb=st.sampled_from(["start", "stop", "force_stop", "reboot", "delete", "force_delete"]))
    def power(self, number: int, verb: str) -> None:
        if not self.has(Instance):
            return
        target = self.one(Instance, number)
        forced = {"force": True} if verb.startswith("force_") else {}
        action = getattr(instances, f"{verb.removeprefix('force_')}_instance")
        self.ask(action(self.world.store, CALLER, target, **forced))

    @rule(number=pick, snapshot=st.booleans())
    def create_disk(self, number: int, *, snapshot: bool) -> None:
        source = self.one(Snapshot, number) if snapshot and self.has(Snapshot) else ""
        size = None if source else 2
        self.ask(disks.create_disk(self.world.store, CALLER, size_gib=size, snapshot_id=source))

    @rule(number=pick, other=pick, verb=st.sampled_from(["attach", "detach"]))
    def plug(self, number: int, other: int, verb: str) -> None:
        if not self.has(Instance) or not self.has(Disk):
            return
        disk_id, instance_id = self.one(Disk, number), self.one(Instance, other)
        plugged = [d.id for d in self.do(self.world.all(Disk)) if d.status == "In_use" and d.kind == "data"]
        if verb == "detach" and plugged and number % 8:
            disk_id = plugged[number % len(plugged)]
        disk = next(d for d in self.do(self.world.all(Disk)) if d.id == disk_id)
        if verb == "detach" and disk.instance:
            instance_id = disk.instance
        self.ask(getattr(disks, f"{verb}_disk")(self.world.store, CALLER, instance_id, disk_id))

    @rule(number=pick, verb=st.sampled_from(["delete", "resize"]), size=st.integers(1, 6))
    def change_disk(self, number: int, verb: str, size: int) -> None:
        if not self.has(Disk):
            return
        target = self.one(Disk, number)
        if verb == "delete":
            self.ask(disks.delete_disk(self.world.store, CALLER, target))
        else:
            self.ask(disks.resize_disk(self.world.store, CALLER, target, size))

    @rule(number=pick, verb=st.sampled_from(["create", "delete"]))
    def snapshot(self, number: int, verb: str) -> None:
        if verb == "create" and self.has(Disk):
            self.ask(snapshots.create_snapshot(self.world.store, CALLER, self.one(Disk, number)))
        elif verb == "delete" and self.has(Snapshot):
            target, force = self.one(Snapshot, number), number % 2 == 0
            self.ask(snapshots.delete_snapshot(self.world.store, CALLER, target, force=force))

    @rule(number=pick, verb=st.sampled_from(["create", "delete"]))
    def group(self, number: int, verb: str) -> None:
        if verb == "create" and self.has(Instance):
            target = self.one(Instance, number)
            self.ask(snapshot_groups.create_snapshot_group(self.world.store, CALLER, instance_id=target))
        elif verb == "delete" and self.has(SnapshotGroup):
            target = self.one(SnapshotGroup, number)
            self.ask(snapshot_groups.delete_snapshot_group(self.world.store, CALLER, target))

    @rule(number=pick, verb=st.sampled_from(["reset", "reinit"]))
    def restore(self, number: int, verb: str) -> None:
        if verb == "reinit" and self.has(Disk):
            self.ask(restore.reinit_disk(self.world.store, CALLER, self.one(Disk, number)))
        elif verb == "reset" and self.has(Snapshot):
            taken = self.do(self.world.all(Snapshot))
            snapshot = taken[number % len(taken)]
            self.ask(restore.reset_disk(self.world.store, CALLER, snapshot.disk, snapshot.id))

    @rule(number=pick, verb=st.sampled_from(["from_instance", "from_snapshot", "delete", "run"]))
    def image(self, number: int, verb: str) -> None:
        store = self.world.store
        if verb == "from_instance" and self.has(Instance):
            self.ask(images.create_image(store, CALLER, instance_id=self.one(Instance, number)))
        elif verb == "from_snapshot" and self.has(Snapshot):
            self.ask(images.create_image(store, CALLER, snapshot_id=self.one(Snapshot, number)))
        elif verb == "delete" and self.has(Image):
            self.ask(images.delete_image(store, CALLER, self.one(Image, number, own=True)))
        elif verb == "run":
            self.ask(instances.run_instances(store, CALLER, small(image_id=self.one(Image, number))))

    @rule(number=pick, third=st.integers(0, 3), verb=st.sampled_from(["vpc", "vswitch", "group", "rule", "run"]))
    def network(self, number: int, third: int, verb: str) -> None:
        store = self.world.store
        if verb == "vpc":
            self.ask(vpcs.create_vpc(store, CALLER, cidr="10.0.0.0/16"))
        elif verb == "vswitch" and self.has(Vpc):
            vpc = next(v for v in self.do(self.world.all(Vpc)) if v.id == self.one(Vpc, number))
            prefix = ".".join(vpc.cidr.split(".")[:2])
            self.ask(vswitches.create_vswitch(store, CALLER, vpc_id=vpc.id, cidr=f"{prefix}.{200 + third}.0/29"))
        elif verb == "group":
            vpc_id = self.one(Vpc, number) if self.has(Vpc) else ""
            self.ask(security_groups.create_security_group(store, CALLER, vpc_id=vpc_id))
        elif verb == "rule" and self.has(SecurityGroup):
            spec = RuleSpec(protocol="tcp", port_range="80/80", cidr=f"10.{third}.0.0/16")
            self.ask(security_groups.authorize(store, CALLER, self.one(SecurityGroup, number), "ingress", (spec,)))
        elif verb == "run" and self.has(VSwitch):
            self.ask(instances.run_instances(store, CALLER, small(vswitch_id=self.one(VSwitch, number), amount=3)))

    @rule(number=pick, verb=st.sampled_from(["vpc", "vswitch", "group"]))
    def delete_network(self, number: int, verb: str) -> None:
        store = self.world.store
        if verb == "vpc" and self.has(Vpc):
            self.ask(vpcs.delete_vpc(store, CALLER, self.one(Vpc, number)))
        elif verb == "vswitch" and self.has(VSwitch):
            self.ask(vswitches.delete_vswitch(store, CALLER, self.one(VSwitch, number)))
        elif verb == "group" and self.has(SecurityGroup):
            self.ask(security_groups.delete_security_group(store, CALLER, self.one(SecurityGroup, number)))

    @rule(number=pick, other=pick, verb=st.sampled_from(["join", "leave"]))
    def membership(self, number: int, other: int, verb: str) -> None:
        if self.has(SecurityGroup) and self.has(Instance):
            action = getattr(security_groups, verb)
            group, instance = self.one(SecurityGroup, number), self.one(Instance, other)
            self.ask(action(self.world.store, CALLER, group, instance))

    @rule(number=pick, fuse=st.integers(1, 12))
    def work_and_die(self, number: int, fuse: int) -> None:
        """An executor takes one job and is killed after some effects, or gets to where it waits."""
        jobs = [job.id for job in self.do(self.world.unfinished())]
        if jobs:
            runner = self.world.runner(Fuse(fuse))
            if self.broken is not None:
                runner._volumes = self.broken
            try:
                self.do(runner.advance(jobs[number % len(jobs)]))
            except Killed:
                self.seen.add("killed")

    @rule()
    def work_on_all(self) -> None:
        runner = self.world.runner(volumes=self.broken)
        for job in self.do(self.world.unfinished()):
            self.do(runner.advance(job.id))

    @rule()
    def agents_act(self) -> None:
        self.do(self.world.agent.step())

    @rule()
    def reconcile(self) -> None:
        self.do(self.world.reconcile())

    @rule(seconds=st.sampled_from([1, 30, 130, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += dt.timedelta(seconds=seconds)

    @rule(number=pick)
    def come_to_rest(self, number: int) -> None:
        self.do(self.world.drive(self.world.runner(volumes=self.broken)))
        self.do(self.world.check(extra_volumes=[IMAGE_VOLUME]))

    @rule(number=pick, what=st.sampled_from(["guest", "disk", "agents", "store", "nothing"]))
    def break_something(self, number: int, what: str) -> None:
        agent = self.world.agent
        if what == "guest":
            agent.refuses.add(self.one(Instance, number))
        elif what == "disk":
            data = [d.id for d in self.do(self.world.all(Disk)) if d.kind == "data"]
            agent.clings.update(data[number % 2 :: 2])
            agent.rejects.update(data[(number + 1) % 2 :: 2])
        elif what == "store":
            self.broken = BreakingVolumes(self.world.volumes, from_call=number % 4, effect=bool(number % 2))
        elif what == "nothing":
            agent.refuses.clear()
            agent.clings.clear()
            agent.rejects.clear()
            self.broken = None

    @invariant()
    def whatever_is_under_way_has_somebody_who_ends_it(self) -> None:
        open_jobs = {job.id: job for job in self.do(self.world.unfinished())}
        targets = {job.resource for job in open_jobs.values()}
        targets |= {one for job in open_jobs.values() for one in job.arguments.get("snapshots", ())}
        for instance in self.do(self.world.all(Instance)):
            if instance.status not in ("Running", "Stopped"):
                assert instance.job in open_jobs, instance
        for disk in self.do(self.world.all(Disk)):
            if disk.status not in ("Available", "In_use"):
                assert disk.job in open_jobs or disk.instance in targets, disk
        for snapshot in self.do(self.world.all(Snapshot)):
            assert snapshot.status in ("accomplished", "failed") or snapshot.id in targets, snapshot
        for image in self.do(self.world.all(Image)):
            assert image.status in ("Available", "CreateFailed") or image.id in targets, image

    @invariant()
    def addresses_and_room_are_handed_out_once(self) -> None:
        ports = self.do(self.world.all(Port))
        assert len({(p.vswitch, p.ip) for p in ports}) == len(ports)
        assert len({(p.vpc, p.mac) for p in ports}) == len(ports)
        left = rooms(self.do(self.world.all(Host)), self.do(self.world.all(Instance)))
        assert all(room.vcpus >= 0 and room.memory_mib >= 0 for room in left.values())

    @invariant()
    def quotas_are_the_sums_of_the_records(self) -> None:
        if not self.do(self.world.all(Host)):
            return
        used = {use.name: use.used for use in self.do(quotas.describe_quotas(self.world.store, CALLER))}
        all_disks = self.do(self.world.all(Disk))
        all_instances = self.do(self.world.all(Instance))
        assert used["instances"] == len(all_instances)
        assert used["vcpus"] == sum(i.cpu for i in all_instances)
        assert used["disks"] == len(all_disks)
        assert used["disk_gib"] == sum(d.size_gib for d in all_disks)
        assert used["vpcs"] == len(self.do(self.world.all(Vpc)))

    def teardown(self) -> None:
        """Heal everything, come to rest, delete everything: nothing may be left."""
        try:
            self.do(self._end())
        finally:
            self.loop.close()

    async def _end(self) -> None:
        world, store = self.world, self.world.store
        if not await world.all(Host):
            return
        world.agent.refuses.clear()
        world.agent.clings.clear()
        world.agent.rejects.clear()
        await world.drive()
        await world.check(extra_volumes=[IMAGE_VOLUME])
        for instance in await world.all(Instance):
            await instances.delete_instance(store, CALLER, instance.id, force=True)
        await world.drive()
        for image in await world.all(Image):
            if image.account:
                await images.delete_image(store, CALLER, image.id)
        await world.drive()
        for snapshot in await world.all(Snapshot):
            await snapshots.delete_snapshot(store, CALLER, snapshot.id, force=True)
        for disk in await world.all(Disk):
            await disks.delete_disk(store, CALLER, disk.id)
        await world.drive()
        await world.check(extra_volumes=[IMAGE_VOLUME])
        assert set(world.volumes.volumes) == {IMAGE_VOLUME}
        for vswitch in await world.all(VSwitch):
            await vswitches.delete_vswitch(store, CALLER, vswitch.id)
        for group in await world.all(SecurityGroup):
            await security_groups.delete_security_group(store, CALLER, group.id)
        for vpc in await world.all(Vpc):
            await vpcs.delete_vpc(store, CALLER, vpc.id)
        for job in await world.all(Job):
            self.seen.add(f"{job.action} {'superseded' if 'superseded' in job.error else job.state}")
            self.seen |= {f"{job.action} aborted" for _ in [0] if "aborted" in job.error}
        kinds = (Instance, Disk, Snapshot, SnapshotGroup, Port, Vpc, VSwitch, SecurityGroup)
        assert [record.id for kind in kinds for record in await world.all(kind)] == []
        assert all(job.state in ("done", "failed") for job in await world.all(Job))


ControlMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestControlMachine = ControlMachine.TestCase
