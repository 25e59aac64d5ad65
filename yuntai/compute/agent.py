"""The host agent: a keeper for each instance of this host, and what wakes them.

Three things wake a keeper: a record that changed, an event of the hypervisor, and a period. Nothing is done before the
records have been read completely once, and a restart of the agent touches no guest: the keepers start from what is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.compute import console, hostrecord
from yuntai.compute.cpu import CpuFacts
from yuntai.compute.driver import HypervisorError
from yuntai.compute.inventory import Mirror
from yuntai.compute.keeper import Keeper, Tools
from yuntai.compute.migrating import Moving
from yuntai.compute.processor import Processors
from yuntai.model.cluster import HostPool
from yuntai.model.compute import Disk, Instance, ObservedInstance
from yuntai.model.network import Port
from yuntai.state import StateError

if TYPE_CHECKING:
    from pathlib import Path

    from yuntai.compute.driver import Accelerator, Guest, Hypervisor
    from yuntai.compute.volumes import Volumes
    from yuntai.config import Config
    from yuntai.state import Store

RESYNC_S = 30.0
CONSOLE_CHECK_S = 10.0
FACTS_S = 5.0
FACTS_AGAIN_BEATS = 30
"""What libvirt says of itself and the CPU is asked again so often: an update changes it under a running agent."""
READY_TIMEOUT_S = 60.0
STRANGER_ROUNDS = 2
"""A guest without any record is ended when it was seen so many resyncs in a row: once may be a moment's reading."""
_LOG = log.get("compute.agent")


class Agent:
    """The agent of one host. ``run`` never returns; cancelling it leaves every guest running."""

    def __init__(
        self,
        store: Store,
        hypervisor: Hypervisor,
        volumes: Volumes,
        config: Config,
        accelerator: Accelerator,
    ) -> None:
        self._config = config
        self._store = store
        self._hypervisor = hypervisor
        self._instances = Mirror(store, Instance, self._instance_changed)
        self._disks = Mirror(store, Disk, self._disk_changed)
        self._ports = Mirror(store, Port, self._port_changed)
        self._pools = Mirror(store, HostPool, lambda _: None)
        self._processors = Processors(store, config.host, self._pools.get)
        self._tools = Tools(
            store=store,
            hypervisor=hypervisor,
            volumes=volumes,
            records=self,
            processors=self._processors,
            host=config.host,
            accelerator=accelerator,
            log_dir=config.log_dir,
            run_dir=config.run_dir,
        )
        self._keepers: dict[str, Keeper] = {}
        self._moving = Moving(
            self._tools, lambda one: self._wake(one, records_changed=True), lambda one: one in self._keepers
        )
        self._strangers: dict[str, int] = {}
        self._observed: dict[str, ObservedInstance] = {}
        self._tasks: asyncio.TaskGroup | None = None

    # What keepers read (yuntai.compute.keeper.Records).

    def instance(self, instance_id: str) -> Instance | None:
        """Return the instance if its record says that it belongs to this host."""
        found = self._instances.get(instance_id)
        return found if found is not None and found.host == self._config.host else None

    def any_instance(self, instance_id: str) -> Instance | None:
        """Return the instance, whosever it is."""
        return self._instances.get(instance_id)

    def is_moving(self, instance_id: str, *, mine: bool) -> bool:
        """Tell whether the guest is on its way from here, or to here, and is to be left alone."""
        return self._moving.has(instance_id, mine=mine)

    def disk(self, disk_id: str) -> Disk | None:
        """Return a disk."""
        return self._disks.get(disk_id)

    def port(self, port_id: str) -> Port | None:
        """Return a port."""
        return self._ports.get(port_id)

    async def run(self) -> None:
        """Keep this host's guests for ever."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in (self._instances, self._disks, self._ports, self._pools, self._moving.mirror):
                tasks.create_task(mirror.run())
            tasks.create_task(self._heartbeat())
            await self._wait_for_records()
            await self._remember()
            self._tasks = tasks  # from here on there are keepers
            self._moving.begin(tasks)
            tasks.create_task(self._follow_guests())
            tasks.create_task(self._resync())
            tasks.create_task(self._bound_consoles())

    async def _wait_for_records(self) -> None:
        """Wait for the first complete reading; as long as it takes, for without it nothing can be decided."""
        while True:
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    for mirror in (self._instances, self._disks, self._ports, self._pools, self._moving.mirror):
                        await mirror.ready.wait()
            except TimeoutError:
                _LOG.warning("records not readable yet; guests run on as they are", etcd=self._config.etcd)
            else:
                return

    async def _remember(self) -> None:
        """Read what this host's agent wrote before; a keeper continues from there."""
        while True:
            try:
                listed = await self._store.list(ObservedInstance)
            except StateError as error:
                _LOG.warning("observed states not readable yet", error=str(error))
                await asyncio.sleep(1.0)
            else:
                self._observed = {one.value.id: one.value for one in listed if one.value.host == self._config.host}
                return

    async def _follow_guests(self) -> None:
        async for guest_id in self._hypervisor.changes():
            if guest_id:
                self._moving.poke(guest_id)
                self._wake(guest_id)
            else:
                await self._look_at_everything()

    async def _resync(self) -> None:
        while True:
            await self._look_at_everything()
            await asyncio.sleep(RESYNC_S)

    async def _look_at_everything(self) -> None:
        try:
            guests = await self._hypervisor.guests()
        except HypervisorError as error:
            _LOG.warning("guests not readable", error=str(error))
            return
        mine = {one.id for one in self._instances.all().values() if one.host == self._config.host}
        for instance_id in mine | set(self._keepers) | set(self._observed):
            self._wake(instance_id)
        self._watch_strangers(guests, mine)

    def _watch_strangers(self, guests: dict[str, Guest], mine: set[str]) -> None:
        """End guests that are not this host's: at once where a record says whose they are, else after some rounds."""
        strangers = {one for one in set(guests) - mine - set(self._keepers) if self._moving.of(one) is None}
        self._strangers = {one: self._strangers.get(one, 0) + 1 for one in strangers}
        for guest_id, rounds in self._strangers.items():
            if self._instances.get(guest_id) is not None or rounds >= STRANGER_ROUNDS:
                _LOG.warning("guest does not belong to this host", instance=guest_id, rounds=rounds)
                self._wake(guest_id)

    def _wake(self, instance_id: str, *, records_changed: bool = False) -> None:
        keeper = self._keepers.get(instance_id)
        if keeper is not None:
            keeper.poke(records_changed=records_changed)
            return
        known = self.instance(instance_id) is not None
        if not known and instance_id not in self._observed and instance_id not in self._strangers:
            return
        if self._tasks is None:
            return
        keeper = Keeper(instance_id, self._tools, self._observed.pop(instance_id, None))
        self._keepers[instance_id] = keeper
        task = self._tasks.create_task(keeper.run(), name=f"keeper {instance_id}")
        task.add_done_callback(lambda ended: self._keeper_ended(instance_id, ended))

    def _keeper_ended(self, instance_id: str, ended: asyncio.Task[None]) -> None:
        """Forget the keeper. An instance that came back while it ended was told to nobody but it: keep that anew."""
        self._keepers.pop(instance_id, None)
        if not ended.cancelled() and ended.exception() is None and self.instance(instance_id) is not None:
            self._wake(instance_id)

    def _instance_changed(self, instance_id: str) -> None:
        self._wake(instance_id, records_changed=True)

    def _disk_changed(self, disk_id: str) -> None:
        disk = self._disks.get(disk_id)
        if disk is not None and disk.instance:
            self._wake(disk.instance, records_changed=True)

    def _port_changed(self, port_id: str) -> None:
        port = self._ports.get(port_id)
        if port is not None and port.instance:
            self._wake(port.instance, records_changed=True)

    async def _heartbeat(self) -> None:
        registered = False
        versions: dict[str, str] = {}
        cpu = CpuFacts()
        beats = 0
        while True:
            try:
                if beats % FACTS_AGAIN_BEATS == 0 or not cpu.features:
                    # The first question may take libvirt long; the heartbeat does not wait for it.
                    async with asyncio.timeout(FACTS_S):
                        versions = await self._hypervisor.versions()
                        cpu = await self._hypervisor.cpu(self._tools.accelerator)
            except (HypervisorError, TimeoutError) as error:
                _LOG.warning("hypervisor's version and CPU not readable", error=str(error))
            try:
                if not registered:
                    await hostrecord.register_storage(self._store, self._config)
                    registered = True
                fresh = hostrecord.describe(self._config, self._tools.accelerator, versions, cpu)
                self._processors.learn(await hostrecord.beat(self._store, fresh))
            except StateError as error:
                _LOG.warning("host record not written", error=str(error))
            beats += 1
            await asyncio.sleep(hostrecord.HEARTBEAT_S if registered and cpu.features else 1.0)

    async def _bound_consoles(self) -> None:
        while True:
            for instance_id in list(self._keepers):
                path = console.log_path(self._config.log_dir, instance_id)
                if await asyncio.to_thread(_bound, path):
                    _LOG.info("console log began anew", instance=instance_id)
            await asyncio.sleep(CONSOLE_CHECK_S)


def _bound(path: Path) -> bool:
    try:
        return console.bound(path)
    except OSError as error:
        _LOG.warning("console log not bounded", path=str(path), error=str(error))
        return False
