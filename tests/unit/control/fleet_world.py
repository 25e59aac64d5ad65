"""Hosts with the agents' real code over twins, stopped before and after each thing that they ask of the world.

What an agent knows of the records is as old as its last look; a host may stand still, be cut off, lose its power or its
agent at any of these points, and what it had asked for may happen all the same.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from tests.unit.control.world import ACCOUNT
from yuntai.compute.driver import HypervisorError
from yuntai.compute.keeper import Keeper, Tools
from yuntai.compute.memory import MemoryHypervisor
from yuntai.compute.ownership import NotReadyError
from yuntai.compute.processor import Processors
from yuntai.compute.volumes import Export, MovedError, VolumeError
from yuntai.model.cluster import Host, Volume
from yuntai.model.compute import Disk, Instance, Migration, ObservedInstance
from yuntai.model.network import Port
from yuntai.pangu import rules
from yuntai.pangu.errors import Conflict
from yuntai.state import MemoryStore, StateError
from yuntai.state.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.control.world import World

REACHED: Counter[str] = Counter()
"""How often each interesting thing happened; histories in which nothing does show nothing."""
TURNS = 8
"""So often the loop goes round until everybody waits."""


class Gate:
    """Where a host's calls wait until they are let through, one by one."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.wide = False

    async def passing(self) -> None:
        if not self.wide:
            self.waiting.append(asyncio.get_running_loop().create_future())
            await self.waiting[-1]

    def one(self) -> bool:
        while self.waiting:
            first = self.waiting.popleft()
            if not first.done():
                first.set_result(None)
                return True
        return False


class Gated:
    """A twin behind a host's gate: a call waits before it takes effect, and its answer after that."""

    def __init__(self, inner: Any, gate: Gate, name: str) -> None:
        self._inner, self._gate, self._name = inner, gate, name

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(call):
            return call

        async def wrapped(*arguments: Any, **named: Any) -> Any:
            await self._gate.passing()
            answer = await call(*arguments, **named)
            await self._gate.passing()
            return answer

        return wrapped


class GatedStore(MemoryStore):
    """The cluster's store as one host reaches it, or not."""

    def __init__(self, world: World, gate: Gate) -> None:
        super().__init__(world.memory)
        self._gate = gate
        self.cut = False

    async def _pass(self) -> None:
        await self._gate.passing()
        if self.cut:
            raise Unavailable("the host was cut off")

    async def get(self, *arguments: Any, **named: Any) -> Any:
        await self._pass()
        return await super().get(*arguments, **named)

    async def txn(self, **named: Any) -> bool:
        await self._pass()
        done = await super().txn(**named)
        await self._pass()  # done, and the answer may be lost
        return done


class Fence:
    """The block store: one generation of each volume may write, and its rules are the master's."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.granted: dict[tuple[str, str], int] = {}  # host, volume → the generation that its gateway serves
        self.owner_has_it: dict[str, str] = {}  # volume → the host that the record named when it took it

    async def _record(self, volume: str) -> Volume:
        found = await self.store.get(Volume, volume)
        return found.value if found is not None else Volume(id=volume, size_bytes=1 << 30, created="")

    async def _owner(self, volume: str) -> str:
        disks = [one.value for one in await self.store.list(Disk) if one.value.volume == volume]
        found = await self.store.get(Instance, disks[0].instance) if disks and disks[0].instance else None
        return found.value.host if found is not None else ""

    async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
        record = await self._record(volume)
        served = self.granted.get((host, volume), 0)
        try:
            after = rules.attach(record, rules.Want(host, if_generation=if_generation), served)
        except Conflict as error:
            REACHED["a volume was not taken back"] += 1
            raise MovedError(str(error)) from error
        owner = await self._owner(volume)
        if after.generation != record.generation:
            taken = self.owner_has_it.get(volume, "")
            assert not taken or taken != owner or host == owner, f"{host} took {volume} from {owner}, whose it is"
        self.owner_has_it[volume] = host if host == owner else ""
        self.granted[host, volume] = after.generation
        await self.store.put(after)
        return Export(socket=f"/run/yuntai/nbd/{volume}.sock", name=volume, generation=after.generation)

    async def detach(self, volume: str, host: str) -> None:
        self.granted.pop((host, volume), None)
        record = await self._record(volume)
        if record.state == "attached" and record.host == host:
            await self.store.put(rules.detach(record, host, forced=False))

    async def renew(self, volume: str) -> None:
        """Nobody is connected here."""

    async def may_write(self, host: str, volume: str) -> bool:
        record = await self._record(volume)
        here = self.granted.get((host, volume), 0)
        return record.state == "attached" and record.host == host and here == record.generation

    def lose(self, host: str) -> None:
        """The host's gateway ended."""
        self.granted = {key: at for key, at in self.granted.items() if key[0] != host}


class HostTwin:
    """One host: the real keepers, on what their agent knew last."""

    def __init__(self, name: str, world: World, fence: Fence, folder: Path) -> None:
        self.name, self.world, self.fence = name, world, fence
        self.hypervisor = MemoryHypervisor()
        self.gate = Gate()
        self.store = GatedStore(world, self.gate)
        self.frozen = self.down = False
        self.fault: Exception | None = None
        self.view: dict[str, Any] = {}
        self.migrations: dict[str, Migration] = {}
        self.keepers: dict[str, Keeper] = {}
        self.turns: dict[str, asyncio.Task[None]] = {}
        self.observed: dict[str, ObservedInstance] = {}
        processors = Processors(self.store, name, lambda _: None)
        sizes = {"cpus": 1, "memory_mib": 1, "vcpus_max": 1, "memory_mib_max": 1}
        cpu: dict[str, Any] = {"accelerator": "tcg", "cpu_model": "m", "cpu_features": ("f",)}
        processors.learn(Host(id=name, address="", seen="", **sizes, **cpu))
        self.tools = Tools(
            store=self.store,
            hypervisor=Gated(self.hypervisor, self.gate, name),
            volumes=Gated(fence, self.gate, name),
            records=self,
            processors=processors,
            host=name,
            accelerator="tcg",
            log_dir=str(folder / name / "log"),
            run_dir=str(folder / name / "run"),
            clock=lambda: world.now.timestamp(),  # noqa: PLW0108 — the world's clock goes on
        )

    # What keepers read.

    def instance(self, instance_id: str) -> Instance | None:
        found = self.view.get(instance_id)
        return found if found is not None and found.host == self.name else None

    def any_instance(self, instance_id: str) -> Instance | None:
        return self.view.get(instance_id)

    def is_moving(self, instance_id: str, *, mine: bool) -> bool:
        found = self.migrations.get(instance_id)
        if found is None or self.name not in (found.source, found.destination):
            return False
        return not mine or found.source == self.name

    def disk(self, disk_id: str) -> Disk | None:
        return self.view.get(disk_id)

    def port(self, port_id: str) -> Port | None:
        return self.view.get(port_id)

    @property
    def stands_still(self) -> bool:
        return self.frozen or self.down

    async def look(self) -> None:
        """The agent hears of the records as they are, if it can."""
        if self.stands_still or self.store.cut:
            return
        plain = self.world.store
        self.view = {one.value.id: one.value for kind in (Instance, Disk, Port) for one in await plain.list(kind)}
        self.migrations = {one.value.id: one.value for one in await plain.list(Migration)}
        if not self.keepers and not self.turns:
            seen = [one.value for one in await plain.list(ObservedInstance)]
            self.observed = {one.id: one for one in seen if one.host == self.name}

    def act(self) -> None:
        """Begin a turn for each instance that may have something to do here and is not at one."""
        if self.stands_still or not self.view:
            return
        mine = {one.id for one in self.view.values() if isinstance(one, Instance) and one.host == self.name}
        for instance in sorted(mine | set(self.keepers) | set(self.observed) | set(self.hypervisor._guests)):
            if instance in self.turns:
                continue
            keeper = self.keepers.get(instance)
            if keeper is None or keeper.finished:
                keeper = self.keepers[instance] = Keeper(instance, self.tools, self.observed.pop(instance, None))
            self.turns[instance] = asyncio.get_running_loop().create_task(self._turn(keeper))

    async def _turn(self, keeper: Keeper) -> None:
        try:
            await keeper.turn()
        except (HypervisorError, VolumeError, NotReadyError, StateError):
            REACHED["a turn ended with an error"] += 1
        except Exception as error:  # noqa: BLE001 — raised where the history is looked at
            self.fault = error
        finally:
            self.turns.pop(keeper.id, None)
        if keeper.finished and keeper.id in self.keepers:
            del self.keepers[keeper.id]

    async def end_agent(self) -> None:
        """The agent's process ends; guests run on."""
        tasks = list(self.turns.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.keepers, self.turns, self.view, self.observed = {}, {}, {}, {}
        self.gate.waiting.clear()

    async def lose_power(self) -> None:
        await self.end_agent()
        self.hypervisor.restart_host()
        self.fence.lose(self.name)
        self.down = True

    async def runs(self) -> set[str]:
        return {guest.id for guest in (await self.hypervisor.guests()).values() if guest.state == "running"}


class Fleet:
    """All hosts; in the place of :class:`tests.unit.control.world.Agent`."""

    def __init__(self, world: World, names: list[str], folder: Path) -> None:
        self.world = world
        self.fence = Fence(world.store)
        self.hosts = {name: HostTwin(name, world, self.fence, folder) for name in names}

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def step(self) -> bool:
        """Let every host that can do all that it would; return whether anything changed."""
        before = self.world.memory.revision, self._calls()
        for host in self.hosts.values():
            if host.stands_still:
                continue
            host.gate.wide = True
            while host.gate.one():
                await self.settle()
            await host.look()
            host.act()
            while host.turns:
                await self.settle()
            host.gate.wide = False
        return (self.world.memory.revision, self._calls()) != before

    def _calls(self) -> int:
        asked = ("guests", "cpu")
        return sum(call[0] not in asked for host in self.hosts.values() for call in host.hypervisor.calls)

    async def heal(self) -> None:
        for host in self.hosts.values():
            host.frozen = host.down = host.store.cut = False

    async def check_writers(self) -> None:
        """Of an instance's guests at most one can write, wherever they run."""
        for fault in [host.fault for host in self.hosts.values() if host.fault is not None]:
            raise fault
        for disk in [one.value for one in await self.world.store.list(Disk)]:
            writers = [name for name in self.hosts if await self.fence.may_write(name, disk.volume)]
            assert len(writers) <= 1, f"{disk.id} is written by {writers}"

    async def check_at_rest(self) -> None:
        """Each guest runs where its record says, and nowhere else; it can write; nothing is held for nobody."""
        instances = {one.value.id: one.value for one in await self.world.store.list(Instance)}
        disks = {one.value.id: one.value for one in await self.world.store.list(Disk)}
        where: dict[str, list[str]] = {}
        for name, host in self.hosts.items():
            for guest in await host.runs():
                where.setdefault(guest, []).append(name)
        wanted = {one.id: [one.host] for one in instances.values() if one.status == "Running"}
        assert where == wanted, f"guests run at {where}, records say {wanted}"
        for one in instances.values():
            for disk in one.disks if one.status == "Running" else ():
                assert await self.fence.may_write(one.host, disks[disk].volume), f"{one.id} cannot write to {disk}"
        running = {disks[disk].volume for one in instances.values() if one.status == "Running" for disk in one.disks}
        held = {one.value.id for one in await self.world.store.list(Volume) if one.value.state == "attached"}
        assert held <= running, f"attached for nobody: {held - running}"
        assert {one.account for one in instances.values()} <= {ACCOUNT}
