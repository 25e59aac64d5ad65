"""A hypervisor in memory: the agent's tests and dry runs use it. It can be told to misbehave like the real one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from yuntai.compute.cpu import CpuFacts
from yuntai.compute.driver import DiskSpec, Guest, GuestSpec, HypervisorError, NicSpec, NoSuchGuestError
from yuntai.compute.migrations import MemoryMigrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yuntai.compute.driver import Accelerator, End


class MemoryHypervisor:
    """See :class:`yuntai.compute.driver.Hypervisor`. Guests obey the power button unless ``deaf`` holds their id."""

    def __init__(self) -> None:
        self.specs: dict[str, GuestSpec] = {}
        self.calls: list[tuple[str, ...]] = []
        self.deaf: set[str] = set()
        self.fail_next: dict[str, str] = {}  # call → text of the error that it ends with once
        self.facts = CpuFacts(model="qemu64", vendor="AMD", features=("lm", "sse2"), mce_banks=10)
        self.sizes: dict[str, int] = {}  # export → the size that the guest sees
        self.asked_for_sizes: list[str] = []  # guests
        self.ends = asyncio.Event()  # while it is not set, no guest's process ends
        self.ends.set()
        self.migrations = MemoryMigrations(self)
        self._guests: dict[str, Guest] = {}
        self._watchers: list[asyncio.Queue[str]] = []

    # What a test does to the guests.

    def end(self, guest_id: str, end: End) -> None:
        """Let a guest end: ``shutdown`` from inside, ``crashed``, ``failed`` (its process was killed)."""
        self._change(replace(self._guests[guest_id], state="off", end=end))

    def restart_host(self) -> None:
        """Let the whole host have been off: the guests are defined, and nobody knows how they ended."""
        for guest in list(self._guests.values()):
            self._guests[guest.id] = replace(guest, state="off", end="unknown")
        self._announce("")

    def fail_io(self, guest_id: str) -> None:
        """Pause a guest because of an I/O error."""
        self._change(replace(self._guests[guest_id], state="paused", io_error=True))

    def complete(self, guest_id: str, *, complete: bool) -> None:
        """Let a guest's memory be there, or part of it still be on its way."""
        if guest_id in self._guests:
            self._change(replace(self._guests[guest_id], incomplete=not complete))

    def lose(self, guest_id: str) -> None:
        """Let part of a guest's memory be gone: it stands still and cannot go on."""
        if guest_id in self._guests:
            self._change(replace(self._guests[guest_id], state="paused", lost=True))

    async def arrive(self, spec: GuestSpec) -> None:
        """Let a guest come in by a migration, running."""
        self._called("arrive", spec.id)
        await self.start(spec)

    def lose_power(self) -> None:
        """Let the host be gone, with the definitions of its guests."""
        self.specs.clear()
        self._guests.clear()

    def leave(self, guest_id: str) -> None:
        """Let a guest have gone by a migration: not even its definition is left."""
        self.specs.pop(guest_id, None)
        self._guests.pop(guest_id, None)
        self._announce(guest_id)

    # The driver.

    async def guests(self) -> dict[str, Guest]:
        """Return every guest."""
        self._called("guests")
        return dict(self._guests)

    async def guest(self, guest_id: str) -> Guest | None:
        """Return one guest."""
        return self._guests.get(guest_id)

    async def start(self, spec: GuestSpec) -> None:
        """Start; a guest that runs is refused, as libvirt does."""
        self._called("start", spec.id)
        there = self._guests.get(spec.id)
        if there is not None and there.state != "off":
            raise HypervisorError(f"guest {spec.id} is already running")
        self.specs[spec.id] = spec
        cards = ((spec.nic,) if spec.nic is not None else ()) + spec.more_nics
        self._change(
            Guest(
                id=spec.id,
                state="running",
                disks=tuple(disk.id for disk in spec.disks),
                accelerator=spec.accelerator,
                nics=tuple(card.port for card in cards),
                limits={disk.id: (disk.iops_max, disk.bytes_per_s_max) for disk in spec.disks},
                vcpu_quota_percent=spec.vcpu_quota_percent,
            )
        )

    async def press_power(self, guest_id: str) -> None:
        """Shut down at once, unless deaf."""
        self._called("press_power", guest_id)
        self._running(guest_id)
        if guest_id not in self.deaf:
            self.end(guest_id, "shutdown")

    async def restart(self, guest_id: str) -> None:
        """Reset at once, unless deaf."""
        self._called("restart", guest_id)
        guest = self._running(guest_id)
        if guest_id not in self.deaf:
            self._change(replace(guest, resets=guest.resets + 1))

    async def reset(self, guest_id: str) -> None:
        """Reset."""
        self._called("reset", guest_id)
        guest = self._running(guest_id)
        self._change(replace(guest, resets=guest.resets + 1))

    async def resume(self, guest_id: str) -> None:
        """Run on."""
        self._called("resume", guest_id)
        if self._running(guest_id).lost:
            raise HypervisorError(f"guest {guest_id} cannot go on: its memory is not complete")
        self._change(replace(self._running(guest_id), state="running", io_error=False))

    async def destroy(self, guest_id: str) -> None:
        """End."""
        self._called("destroy", guest_id)
        await self.ends.wait()
        if guest_id in self._guests and self._guests[guest_id].state != "off":
            self.end(guest_id, "destroyed")

    async def forget(self, guest_id: str) -> None:
        """Remove the definition."""
        self._called("forget", guest_id)
        self._guests.pop(guest_id, None)
        self._announce(guest_id)

    async def attach_disk(self, guest_id: str, disk: DiskSpec) -> None:
        """Plug."""
        self._called("attach_disk", guest_id, disk.id)
        guest = self._running(guest_id)
        limits = guest.limits | {disk.id: (disk.iops_max, disk.bytes_per_s_max)}
        self._change(replace(guest, disks=(*guest.disks, disk.id), limits=limits))

    async def detach_disk(self, guest_id: str, disk_id: str) -> None:
        """Unplug."""
        self._called("detach_disk", guest_id, disk_id)
        guest = self._running(guest_id)
        self._change(replace(guest, disks=tuple(one for one in guest.disks if one != disk_id)))

    async def attach_nic(self, guest_id: str, nic: NicSpec) -> None:
        """Plug."""
        self._called("attach_nic", guest_id, nic.port)
        guest = self._running(guest_id)
        self._change(replace(guest, nics=(*guest.nics, nic.port)))

    async def detach_nic(self, guest_id: str, port: str) -> None:
        """Unplug."""
        self._called("detach_nic", guest_id, port)
        guest = self._running(guest_id)
        self._change(replace(guest, nics=tuple(one for one in guest.nics if one != port)))

    async def limit_disk(self, guest_id: str, disk_id: str, iops_max: int, bytes_per_s_max: int) -> None:
        """Limit."""
        self._called("limit_disk", guest_id, disk_id)
        guest = self._running(guest_id)
        self._change(replace(guest, limits=guest.limits | {disk_id: (iops_max, bytes_per_s_max)}))

    async def limit_vcpus(self, guest_id: str, percent: int) -> None:
        """Limit."""
        self._called("limit_vcpus", guest_id)
        self._change(replace(self._running(guest_id), vcpu_quota_percent=percent))

    async def disk_size(self, guest_id: str, export: str) -> int:
        """Return what it was last grown to; the size that it started with is not known here, and taken as large."""
        self.asked_for_sizes.append(guest_id)
        self._running(guest_id)
        return self.sizes.get(export, 1 << 62)

    async def grow_disk(self, guest_id: str, export: str, size_bytes: int) -> None:
        """Grow."""
        self._called("grow_disk", guest_id, export)
        self.sizes[export] = size_bytes

    async def changes(self) -> AsyncIterator[str]:
        """Yield changes from now on, beginning with ""."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._watchers.append(queue)
        try:
            yield ""
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    async def cpu(self, accelerator: Accelerator) -> CpuFacts:
        """Return what the test says, whatever the accelerator."""
        self._called("cpu", accelerator)
        return self.facts

    async def versions(self) -> dict[str, str]:
        """Return a version."""
        return {"hypervisor": "memory"}

    async def close(self) -> None:
        """Do nothing."""

    def _running(self, guest_id: str) -> Guest:
        guest = self._guests.get(guest_id)
        if guest is None:
            raise NoSuchGuestError(f"there is no guest {guest_id}")
        if guest.state == "off":
            raise HypervisorError(f"guest {guest_id} is not running")
        return guest

    def _change(self, guest: Guest) -> None:
        self._guests[guest.id] = guest
        self._announce(guest.id)

    def _announce(self, guest_id: str) -> None:
        for queue in self._watchers:
            queue.put_nowait(guest_id)

    def _called(self, call: str, *what: str) -> None:
        if call in self.fail_next:
            raise HypervisorError(self.fail_next.pop(call))
        self.calls.append((call, *what))
