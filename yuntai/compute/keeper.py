"""The keeper of one instance on this host: asks the plan for the next move, makes it, asks again.

Level-triggered: a keeper that is woken reads everything anew, so a lost event costs a resync period and nothing else.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from yuntai import log
from yuntai.compute import console, limits
from yuntai.compute.driver import DiskSpec, GuestSpec, HypervisorError, NicSpec
from yuntai.compute.history import tell
from yuntai.compute.ownership import NotReadyError, report, take
from yuntai.compute.plan import BACKOFF_MAX_S, Memory, Move, Situation, plan
from yuntai.compute.volumes import VolumeError
from yuntai.model.base import now_utc
from yuntai.model.compute import Disk, Instance, ObservedInstance
from yuntai.state import StateError, Unchanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.compute.driver import Accelerator, Guest, Hypervisor
    from yuntai.compute.processor import Processors
    from yuntai.compute.volumes import Volumes
    from yuntai.model.network import Port
    from yuntai.state import Store

GROW_AGAIN_S = 30.0
MOVING_S = 30.0
MOVES_MAX = 64  # in one turn; a plan that never rests would be a bug, and this bounds it
_LOG = log.get("compute.keeper")
_ROOT_OF_UUIDS = uuid.UUID("6d1cf6c0-5fbd-4d9e-9a52-1f0f6e6c8f00")


class Records(Protocol):
    """What a keeper reads."""

    def instance(self, instance_id: str) -> Instance | None:
        """Return the instance if it belongs to this host."""

    def any_instance(self, instance_id: str) -> Instance | None:
        """Return the instance, whosever it is."""

    def is_moving(self, instance_id: str, *, mine: bool) -> bool:
        """Tell whether the guest is on its way from here, or to here; ``mine``: its record names this host."""

    def disk(self, disk_id: str) -> Disk | None:
        """Return a disk."""

    def port(self, port_id: str) -> Port | None:
        """Return a port."""


@dataclass(slots=True, kw_only=True)
class Tools:
    """What all keepers of a host share."""

    store: Store
    hypervisor: Hypervisor
    volumes: Volumes
    records: Records
    processors: Processors
    host: str
    accelerator: Accelerator
    log_dir: str
    run_dir: str
    clock: Callable[[], float] = field(default=time.monotonic)


def guest_uuid(instance_id: str) -> str:
    """Return the UUID of an instance's guest: the same for every definition, so that a redefinition is no conflict."""
    return str(uuid.uuid5(_ROOT_OF_UUIDS, instance_id))


def target_of(disk: Disk, position: int, taken: set[str]) -> str:
    """Return the device name in the guest: as the record wants it (``/dev/xvdb`` and ``/dev/vdb`` are one), or free."""
    letter = disk.device[-1:] if disk.device.startswith("/dev/") else ""
    wanted = f"vd{letter}" if letter.isalpha() else f"vd{chr(ord('a') + position)}"
    if wanted not in taken:
        return wanted
    return next(name for name in (f"vd{chr(code)}" for code in range(ord("b"), ord("z") + 1)) if name not in taken)


class Keeper:
    """Keeps one instance. :meth:`run` ends when nothing of the instance is left to do on this host."""

    def __init__(self, instance_id: str, tools: Tools, observed: ObservedInstance | None) -> None:
        self.id = instance_id
        self._wake = asyncio.Event()
        self._wake.set()
        self._changed = asyncio.Event()
        self._tools = tools
        self._memory = Memory()
        self._observed = observed
        self._written: ObservedInstance | None = observed
        self._held: set[str] | None = None
        self._last: Instance | None = None
        self._failures = 0
        self._mine = False  # whether the instance was this host's at the last look
        self._shown: dict[str, tuple[str, int]] = {}  # disk → volume and size that the guest is known to see
        self._cleaned = False
        self._told_loss = False
        self.finished = False

    def poke(self, *, records_changed: bool) -> None:
        """Look again now; after a failure only if records changed, for a failing start is itself full of events."""
        self._wake.set()
        if records_changed:
            self._changed.set()

    async def run(self) -> None:
        """Keep the instance until it is gone from this host."""
        wait_s: float | None = None
        while not self.finished:
            waited_for = self._changed if self._failures else self._wake
            try:
                await asyncio.wait_for(waited_for.wait(), wait_s)
            except TimeoutError:
                _LOG.debug("keeper woke by time", instance=self.id)
            self._wake.clear()
            self._changed.clear()
            wait_s = await self._guarded_turn()

    async def _guarded_turn(self) -> float | None:
        try:
            wait_s = await self.turn()
        except (HypervisorError, VolumeError, NotReadyError, StateError, OSError) as error:
            self._failures += 1
            again_s = min(BACKOFF_MAX_S, 2.0 ** min(self._failures - 1, 10))
            _LOG.warning("instance not as wanted", instance=self.id, error=str(error), again_s=again_s)
            await self._report_error(str(error))
            return again_s
        except Exception:  # noqa: BLE001 — a fault in one instance's keeping must not end the keeping of the others
            _LOG.exception("keeper failed", instance=self.id)
            return BACKOFF_MAX_S
        self._failures = 0
        return wait_s

    async def turn(self) -> float | None:
        """Make moves until there is none to make; return when to look again at the latest (``None`` = when woken)."""
        for _ in range(MOVES_MAX):
            instance = self._tools.records.instance(self.id)
            if self._tools.records.is_moving(self.id, mine=instance is not None):
                return MOVING_S  # until then yuntai.compute.moving has it
            guest = await self._tools.hypervisor.guest(self.id)
            situation = self._situation(instance, guest)
            move = plan(situation, self._memory, self._tools.clock())
            if move.rebooted and instance is not None:
                await self._observe(move, guest, reboot_seq=instance.reboot_seq)
                continue
            await self._observe(move, guest)
            if move.action == "none":
                whole = guest is not None and not guest.incomplete
                if instance is not None and move.state == "running" and whole:
                    again_s = await limits.apply(self._tools.hypervisor, self._tools.records.disk, instance, guest)
                    return await self._grow(instance) or again_s or move.wait_s
                if instance is None and guest is None:
                    await self._forget_observed()
                return move.wait_s
            _LOG.info("move", instance=self.id, action=move.action, disk=move.disk or None, why=move.why or None)
            if move.lost and instance is not None and not self._told_loss:
                await tell(self._tools.store, instance, move.why)
                self._told_loss = True
            await self._make(move, instance)
        raise HypervisorError(f"instance {self.id} did not settle within {MOVES_MAX} moves")

    def _situation(self, instance: Instance | None, guest: Guest | None) -> Situation:
        if instance is not None:
            self._last = instance
        if self._mine != (instance is not None):
            # It came back, or it left: what failed before says nothing of how soon to try now.
            self._mine, self._failures = instance is not None, 0
        if self._held is None:
            # After a restart of the agent: whatever may be attached counts as attached; releasing twice does no harm.
            known = self._observed.attached if self._observed else ()
            self._held = {*known, *(guest.disks if guest else ()), *(instance.disks if instance else ())}
        if instance is None:
            # The record went to another host, or is gone: here nothing of it may be left.
            return Situation(desired="deleted", guest=guest, held=frozenset(self._held), cleaned=self._cleaned)
        if self._observed is None:
            # First seen by this host: reboots asked for before are none of this guest's.
            self._observed = replace(self._blank(), reboot_seq=instance.reboot_seq)
        return Situation(
            desired=instance.desired,
            guest=guest,
            disks=instance.disks,
            nics=(instance.port, *instance.ports),
            held=frozenset(self._held),
            force=instance.force_stop,
            reboot=instance.reboot_seq > self._observed.reboot_seq,
            restart_always=instance.restart_policy == "always",
            cleaned=self._cleaned,
        )

    async def _make(self, move: Move, instance: Instance | None) -> None:
        hypervisor = self._tools.hypervisor
        match move.action:
            case "start" if instance is not None:
                await self._start(instance)
            case "plug" if instance is not None:
                await self._plug(instance, move.disk)
            case "unplug":
                await hypervisor.detach_disk(self.id, move.disk)
            case "release":
                await self._release(move.disk)
            case "plug_nic":
                await hypervisor.attach_nic(self.id, self._card(move.disk))
            case "unplug_nic":
                await hypervisor.detach_nic(self.id, move.disk)
            case "clean":
                console.remove(console.log_path(self._tools.log_dir, self.id))
                console.socket_path(self._tools.run_dir, self.id).unlink(missing_ok=True)
                self._cleaned = True
            case "destroy" if move.lost:
                await hypervisor.migrations.release(self.id)  # it stands still, and would not hear that it is to end
                await hypervisor.destroy(self.id)
            case "press_power" | "restart" | "reset" | "resume" | "destroy" | "forget" as button:
                await getattr(hypervisor, button)(self.id)
            case action:
                raise HypervisorError(f"instance {self.id}: the move {action!r} needs a record that is gone")

    async def _start(self, instance: Instance) -> None:
        self._cleaned = self._told_loss = False
        port = self._tools.records.port(instance.port)
        if port is None:
            raise NotReadyError(f"port {instance.port} of instance {self.id} has no record; it cannot start before")
        disks: list[DiskSpec] = []
        for position, disk_id in enumerate(instance.disks or (instance.system_disk,)):
            disks.append(await self._attach(disk_id, position, {one.target for one in disks}))
        processor = await self._tools.processors.give(instance)
        log_file = console.log_path(self._tools.log_dir, self.id)
        socket = console.socket_path(self._tools.run_dir, self.id)
        for folder in (log_file.parent, socket.parent):
            folder.mkdir(parents=True, exist_ok=True)
        await self._tools.hypervisor.start(
            GuestSpec(
                id=self.id,
                uuid=guest_uuid(self.id),
                cpu=instance.cpu,
                memory_mib=instance.memory_mib,
                accelerator=self._tools.accelerator,
                disks=tuple(disks),
                nic=NicSpec(port=port.id, mac=port.mac),
                more_nics=tuple(self._card(one) for one in instance.ports),
                vcpu_quota_percent=instance.vcpu_quota_percent,
                console_log=str(log_file),
                console_socket=str(socket),
                processor=processor,
            )
        )
        self._shown.clear()
        # A guest that starts now has every reboot behind it that was asked for until now.
        before = self._observed or self._blank()
        self._observed = replace(before, boot_seq=before.boot_seq + 1, reboot_seq=instance.reboot_seq)

    def _card(self, port_id: str) -> NicSpec:
        port = self._tools.records.port(port_id)
        if port is None:
            raise NotReadyError(f"port {port_id} of instance {self.id} has no record; it cannot be attached before")
        return NicSpec(port=port.id, mac=port.mac)

    async def _plug(self, instance: Instance, disk_id: str) -> None:
        taken = {"vda"}
        for position, other in enumerate(instance.disks):
            record = self._tools.records.disk(other)
            if other != disk_id and record is not None:
                taken.add(target_of(record, position, taken))
        spec = await self._attach(disk_id, instance.disks.index(disk_id), taken)
        await self._tools.hypervisor.attach_disk(self.id, spec)

    async def _attach(self, disk_id: str, position: int, taken: set[str]) -> DiskSpec:
        disk = self._tools.records.disk(disk_id)
        if disk is None:
            raise NotReadyError(f"disk {disk_id} of instance {self.id} has no record; it cannot be attached before")
        export = await take(self._tools.store, self._tools.volumes, self._tools.host, self.id, disk.volume)
        if self._held is not None:
            self._held.add(disk_id)
        target = target_of(disk, position, taken)
        return DiskSpec(
            id=disk_id,
            target=target,
            socket=export.socket,
            export=export.name,
            iops_max=disk.iops_max,
            bytes_per_s_max=disk.bytes_per_s_max,
        )

    async def _grow(self, instance: Instance) -> float | None:
        """Show the running guest what its disks have grown to since it got them; return when to try again.

        A guest that cannot be shown runs as well as before, so that is no error of the instance.
        """
        try:
            await self._show_sizes(instance)
        except (HypervisorError, VolumeError) as error:
            _LOG.warning("a grown disk cannot be shown to the guest now", instance=self.id, error=str(error))
            return GROW_AGAIN_S
        return None

    async def _show_sizes(self, instance: Instance) -> None:
        for disk_id in instance.disks:
            disk = self._tools.records.disk(disk_id)
            # While a job works on the disk, the record may be ahead of the volume.
            if disk is None or disk.job or self._shown.get(disk_id) == (disk.volume, disk.size_gib):
                continue
            wanted = disk.size_gib << 30
            if await self._tools.hypervisor.disk_size(self.id, disk.volume) < wanted:
                _LOG.info("disk has grown", instance=self.id, disk=disk_id, size_gib=disk.size_gib)
                await self._tools.volumes.renew(disk.volume)
                await self._tools.hypervisor.grow_disk(self.id, disk.volume, wanted)
            self._shown[disk_id] = (disk.volume, disk.size_gib)

    async def _release(self, disk_id: str) -> None:
        disk = self._tools.records.disk(disk_id)
        if disk is not None and not self._belongs_elsewhere(disk):
            await self._tools.volumes.detach(disk.volume, self._tools.host)
        if self._held is not None:
            self._held.discard(disk_id)

    def _belongs_elsewhere(self, disk: Disk) -> bool:
        """Tell whether the disk has meanwhile been given to another instance: then it is that one's to hold."""
        return bool(disk.instance) and disk.instance != self.id

    async def _observe(self, move: Move, guest: Guest | None, *, reboot_seq: int | None = None) -> None:
        before = self._observed or self._blank()
        settled = move.action == "none"
        attached: tuple[str, ...] = before.attached
        if settled:
            attached = tuple(guest.disks) if guest is not None and guest.state != "off" else ()
        elif self._held is not None:
            attached = tuple(disk for disk in before.attached if disk in self._held)
        path = "" if move.state == "absent" else str(console.log_path(self._tools.log_dir, self.id))
        fresh = replace(
            before,
            state=move.state,
            since=before.since if before.state == move.state else now_utc(),
            attached=attached,
            nics=(guest.nics if guest is not None and guest.state != "off" else ()) if settled else before.nics,
            reboot_seq=before.reboot_seq if reboot_seq is None else reboot_seq,
            console_log=path,
            error=move.why if settled or move.why else before.error,
            accelerator=guest.accelerator if guest is not None else before.accelerator,
        )
        self._observed = fresh
        await self._write(fresh)

    async def _report_error(self, text: str) -> None:
        before = self._observed or self._blank()
        self._observed = replace(before, error=text)
        try:
            await self._write(self._observed)
        except StateError as error:
            _LOG.warning("observed state not written", instance=self.id, error=str(error))

    async def _write(self, fresh: ObservedInstance) -> None:
        known = fresh == self._written or self._tools.records.instance(self.id) is None
        if not known and await report(self._tools.store, fresh):
            self._written = fresh

    async def _forget_observed(self) -> None:
        """Remove what we wrote about an instance that is gone; what another host wrote about it stays."""
        found = await self._tools.store.get(ObservedInstance, self.id)
        if found is not None and found.value.host == self._tools.host and self._tools.records.instance(self.id) is None:
            gone = (ObservedInstance, self.id)
            await self._tools.store.txn(compare=[Unchanged(found)], delete=[gone])
        self._written = None
        self.finished = True

    def _blank(self) -> ObservedInstance:
        return ObservedInstance(id=self.id, host=self._tools.host, state="absent", since=now_utc())
