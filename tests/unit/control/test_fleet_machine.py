"""Jobs over the agents' real code on several hosts that freeze, die, are cut off and come back, and are failed over.

Each call of a host to the store, the block store or its hypervisor is stopped before and after its effect, so that
anything may happen in between. Whatever does: at most one guest of an instance can write, a host never takes a volume
from the one whose it is, every job ends, and at rest each guest runs once, where its record says.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.control.fleet_world import REACHED, Fleet, HostTwin
from tests.unit.control.test_control_machine import EXPECTED
from tests.unit.control.world import CALLER, IMAGE_VOLUME, Fuse, Killed, World, small
from yuntai.control import scheduler
from yuntai.control.errors import ApiError
from yuntai.control.failover import carry, planner
from yuntai.control.requests import disks, instances
from yuntai.control.requests.types import DiskSpec
from yuntai.model.cluster import Host
from yuntai.model.compute import Disk, Instance

if TYPE_CHECKING:
    from collections.abc import Coroutine

HOSTS = ["h1", "h2", "h3"]
LONG_S = 700
pick = st.integers(0, 1_000_000)
which = st.sampled_from(HOSTS)


class FleetMachine(RuleBasedStateMachine):
    """One cloud of three hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="fleet"))
        self.world = World()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(running=st.integers(0, 2))
    def start(self, running: int) -> None:
        self.do(self.world.set_up(hosts=len(HOSTS), vcpus=3, memory_mib=1024))

        async def made() -> Fleet:
            return Fleet(self.world, HOSTS, self.folder)

        self.fleet = self.world.agent = self.do(made())  # type: ignore[assignment]
        for _ in range(running):
            self.run_instance(data=True)
        self.do(self.world.drive())

    def host(self, name: str) -> HostTwin:
        return self.fleet.hosts[name]

    def one(self, kind: type[Any], number: int) -> Any:
        found = self.do(self.world.all(kind))
        return found[number % len(found)] if found else None

    def ask(self, request: Coroutine[Any, Any, Any]) -> None:
        try:
            self.do(request)
        except ApiError as error:
            if not error.code.startswith("QuotaExceed") and error.code not in EXPECTED:
                raise

    # what tenants ask for

    @rule(data=st.booleans())
    def run_instance(self, *, data: bool) -> None:
        disk = (DiskSpec(size_gib=2, delete_with_instance=True),) if data else ()
        self.ask(instances.run_instances(self.world.store, CALLER, small(data_disks=disk)))

    @rule(number=pick, verb=st.sampled_from(["start", "stop", "force_stop", "reboot", "force_delete"]))
    def power(self, number: int, verb: str) -> None:
        instance = self.one(Instance, number)
        if instance is not None:
            forced = {"force": True} if verb.startswith("force_") else {}
            action = getattr(instances, f"{verb.removeprefix('force_')}_instance")
            self.ask(action(self.world.store, CALLER, instance.id, **forced))

    @rule(number=pick, other=pick, verb=st.sampled_from(["create", "attach", "detach"]))
    def plug(self, number: int, other: int, verb: str) -> None:
        disk, instance = self.one(Disk, number), self.one(Instance, other)
        if verb == "create":
            self.ask(disks.create_disk(self.world.store, CALLER, size_gib=2))
        elif disk is not None and instance is not None:
            owner = disk.instance if verb == "detach" and disk.instance else instance.id
            self.ask(getattr(disks, f"{verb}_disk")(self.world.store, CALLER, owner, disk.id))

    # executors

    @rule(number=pick, fuse=st.integers(1, 12))
    def work_and_die(self, number: int, fuse: int) -> None:
        """An executor takes one job, and is killed after some effects or gets to where it waits."""
        jobs = self.do(self.world.unfinished())
        if jobs:
            try:
                self.do(self.world.runner(Fuse(fuse)).advance(jobs[number % len(jobs)].id))
            except Killed:
                REACHED["an executor was killed"] += 1

    @rule(seconds=st.sampled_from([1, 30, LONG_S]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += dt.timedelta(seconds=seconds)
        self.do(self.world.reconcile())
        for job in self.do(self.world.unfinished()):
            self.do(self.world.runner().advance(job.id))

    # hosts

    @rule(name=which)
    def look(self, name: str) -> None:
        self.do(self._look(self.host(name)))

    async def _look(self, host: HostTwin) -> None:
        await host.look()
        host.act()
        await self.fleet.settle()

    @rule(name=which, count=st.integers(1, 20), look=st.booleans())
    def go_on(self, name: str, count: int, *, look: bool) -> None:
        """Some of the calls that a host waits for take effect, or are answered."""
        host = self.host(name)
        if host.stands_still:
            return
        if look:
            self.look(name)
        for _ in range(count):
            host.gate.one()
            self.do(self.fleet.settle())

    @rule(names=st.permutations(HOSTS), count=st.integers(1, 6))
    def all_go_on(self, names: list[str], count: int) -> None:
        for name in names:
            self.go_on(name, count, look=True)

    @rule()
    def all_is_done(self) -> None:
        self.do(self.fleet.step())

    @rule(name=which)
    def freeze(self, name: str) -> None:
        self.host(name).frozen = True

    @rule(name=which)
    def thaw(self, name: str) -> None:
        if self.host(name).frozen:
            REACHED["a host was thawed"] += 1
            REACHED["a host was thawed in the middle of a call"] += bool(self.host(name).gate.waiting)
        self.host(name).frozen = self.host(name).down = False

    @rule(name=which, cut=st.booleans())
    def cut_off(self, name: str, *, cut: bool) -> None:
        self.host(name).store.cut = cut

    @rule(name=which, power=st.booleans())
    def lose(self, name: str, *, power: bool) -> None:
        """The agent's process ends, or the whole host."""
        self.do(self.host(name).lose_power() if power else self.host(name).end_agent())

    @rule(name=which, number=pick, guest=st.sampled_from(["shutdown", "crashed", "failed"]))
    def guest_ends(self, name: str, number: int, guest: str) -> None:
        host = self.host(name)
        running = sorted(self.do(host.runs()))
        if running and not host.stands_still:
            host.hypervisor.end(running[number % len(running)], guest)  # type: ignore[arg-type]

    @rule(name=which)
    def fail_over(self, name: str) -> None:
        """The instances of a host that is called failed, rightly or wrongly, are given to others."""
        self.do(self._fail_over(name))

    async def _fail_over(self, name: str) -> None:
        failed = frozenset({name})
        for instance in planner.lost(await self.world.all(Instance), failed, migrations_too=True):
            chosen = scheduler.Fleet(await self.world.all(Host), await self.world.all(Instance))
            to = chosen.choose(planner.request_for(instance, failed)).host
            if not to:
                await carry.leave_waiting(self.world.store, (), instance.id, name, "nothing has room")
            elif await carry.move(self.world.store, (), instance.id, name, to, "called failed", by_lease=False):
                REACHED["an instance was failed over"] += 1
                REACHED["its former guest still ran"] += instance.id in await self.host(name).runs()

    @rule(name=which, count=st.integers(4, 14), back=st.booleans())
    def stand_still_in_the_middle_of_a_start(self, name: str, count: int, *, back: bool) -> None:
        """The power was away; while the host starts its guests it stands still, and they are started elsewhere."""
        self.lose(name, power=True)
        self.host(name).down = False
        self.go_on(name, count, look=True)
        self.freeze(name)
        self.fail_over(name)
        self.do(self.fleet.step())
        if back:
            self.thaw(name)
            self.go_on(name, 20, look=False)

    # what must hold

    @invariant()
    def one_writer(self) -> None:
        if hasattr(self, "fleet"):
            self.do(self.fleet.check_writers())

    @rule()
    def come_to_rest(self) -> None:
        self.do(self._rest())

    async def _rest(self) -> None:
        await self.fleet.heal()
        for _ in range(3):  # a guest that died is started again some time later
            await self.world.drive()
            self.world.now += dt.timedelta(seconds=LONG_S)
        await self.world.check(extra_volumes=[IMAGE_VOLUME])
        await self.fleet.check_at_rest()
        REACHED["all came to rest"] += 1

    def teardown(self) -> None:
        """Heal everything, come to rest, delete everything: nothing may be left."""
        try:
            if hasattr(self, "fleet"):
                self.do(self._end())
        finally:
            for host in self.fleet.hosts.values() if hasattr(self, "fleet") else ():
                self.do(host.end_agent())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _end(self) -> None:
        await self._rest()
        for instance in await self.world.all(Instance):
            await instances.delete_instance(self.world.store, CALLER, instance.id, force=True)
        await self._rest()
        for disk in await self.world.all(Disk):
            await disks.delete_disk(self.world.store, CALLER, disk.id)
        await self._rest()
        assert set(self.world.volumes.volumes) == {IMAGE_VOLUME}
        for host in self.fleet.hosts.values():
            assert await host.hypervisor.guests() == {}, f"{host.name} still has a guest defined"


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "30")),
    stateful_step_count=50,
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_every_interesting_thing_happened() -> None:
    """Runs after the histories."""
    wanted = [
        "an executor was killed",
        "an instance was failed over",
        "its former guest still ran",
        "a host was thawed in the middle of a call",
        "a volume was not taken back",
        "a turn ended with an error",
        "all came to rest",
    ]
    print(dict(REACHED))
    assert not [what for what in wanted if not REACHED[what]], dict(REACHED)
