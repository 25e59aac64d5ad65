"""The seam between the agent and a hypervisor: what a guest is made of, what can be asked, what can go wrong.

Two implementations: :class:`yuntai.compute.libvirt_driver.LibvirtHypervisor` and, for tests and dry runs, the twin in
memory :class:`yuntai.compute.memory.MemoryHypervisor`. Every call ends within a bound of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yuntai.compute.cpu import CpuFacts, CpuSpec
    from yuntai.compute.migrations import Migrations

Accelerator = Literal["kvm", "tcg"]
GuestState = Literal["running", "paused", "off"]
End = Literal["", "shutdown", "destroyed", "crashed", "failed", "unknown"]
"""Why a guest is off: it shut down, was destroyed, panicked or died, failed to start; or nobody knows any more."""


class HypervisorError(Exception):
    """The hypervisor did not do it; the text says what was asked and its answer. Asking again later may help."""


class NoSuchGuestError(HypervisorError):
    """There is no such guest (any more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """A disk as the guest gets it: an NBD export on a unix socket. ``id`` is also its serial number in the guest."""

    id: str
    target: str  # "vda"
    socket: str
    export: str
    read_only: bool = False
    iops_max: int = 0  # 0 = no limit
    bytes_per_s_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NicSpec:
    """A network card: ``port`` is the logical port's UUID, which the virtual switch finds it by."""

    port: str
    mac: str
    bridge: str = "br-int"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """Everything that a guest is defined from."""

    id: str  # the instance's
    uuid: str
    cpu: int
    memory_mib: int
    accelerator: Accelerator
    disks: tuple[DiskSpec, ...]  # the system disk first
    nic: NicSpec | None
    more_nics: tuple[NicSpec, ...] = ()
    vcpu_quota_percent: int = 0  # of one CPU for each vCPU; 0 = no limit
    console_log: str
    console_socket: str
    processor: CpuSpec | None = None  # None = what suits the accelerator; such a guest cannot be moved safely


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest as the hypervisor has it. ``disks`` are the ids (serial numbers) of the disks it has now."""

    id: str
    state: GuestState
    end: End = ""
    disks: tuple[str, ...] = ()
    resets: int = 0  # restarts of the guest in place that this driver has seen
    io_error: bool = False  # paused because a disk failed
    incomplete: bool = False  # runs while part of its memory is on its way (post-copy); until then ask nothing of it
    lost: bool = False  # part of its memory is gone for good, as its move by post-copy broke
    accelerator: Accelerator = "tcg"
    nics: tuple[str, ...] = ()  # ports of the network cards that it has now
    limits: dict[str, tuple[int, int]] = field(default_factory=dict)  # disk → operations/s, bytes/s; 0 = no limit
    vcpu_quota_percent: int = 0


class Hypervisor(Protocol):
    """What the agent needs of a hypervisor. Guests are those of this product only; others on the host stay unseen."""

    @property
    def migrations(self) -> Migrations:
        """What moves running guests to other hosts."""

    async def guests(self) -> dict[str, Guest]:
        """Return every guest that is defined, by id."""

    async def guest(self, guest_id: str) -> Guest | None:
        """Return one guest, or ``None`` where it is not defined."""

    async def start(self, spec: GuestSpec) -> None:
        """Define the guest anew and start it."""

    async def press_power(self, guest_id: str) -> None:
        """Press the power button: a guest that listens shuts down by itself."""

    async def restart(self, guest_id: str) -> None:
        """Press the power button so that the guest, when it has shut down, starts again in place."""

    async def reset(self, guest_id: str) -> None:
        """Press the reset button: the guest begins anew at once, unsaved work is lost."""

    async def resume(self, guest_id: str) -> None:
        """Let a paused guest run on."""

    async def destroy(self, guest_id: str) -> None:
        """Pull the plug. A guest that is off or gone is fine."""

    async def forget(self, guest_id: str) -> None:
        """Remove the definition of a guest that is off. One that is gone is fine."""

    async def attach_disk(self, guest_id: str, disk: DiskSpec) -> None:
        """Plug a disk into a running guest."""

    async def detach_disk(self, guest_id: str, disk_id: str) -> None:
        """Unplug a disk from a running guest; returns when the guest has let go of it. One that is gone is fine."""

    async def attach_nic(self, guest_id: str, nic: NicSpec) -> None:
        """Plug a network card into a running guest."""

    async def detach_nic(self, guest_id: str, port: str) -> None:
        """Unplug a network card; returns when the guest has let go of it. One that is gone is fine."""

    async def limit_disk(self, guest_id: str, disk_id: str, iops_max: int, bytes_per_s_max: int) -> None:
        """Set what a disk of a running guest may do in a second; 0 = no limit."""

    async def limit_vcpus(self, guest_id: str, percent: int) -> None:
        """Set how much of one CPU each vCPU of a running guest may use; 0 = no limit."""

    async def disk_size(self, guest_id: str, export: str) -> int:
        """Return how large a running guest sees the disk that shows an export."""

    async def grow_disk(self, guest_id: str, export: str, size_bytes: int) -> None:
        """Let a running guest see that a disk has grown. Its gateway has let its clients go before."""

    def changes(self) -> AsyncIterator[str]:
        """Yield the id of a guest whenever something happened to it; "" when anything may have (a new connection)."""

    async def cpu(self, accelerator: Accelerator) -> CpuFacts:
        """Return what CPU a guest can have here."""

    async def versions(self) -> dict[str, str]:
        """Return the versions of the programs behind the driver."""

    async def close(self) -> None:
        """Let go of connections and threads; guests run on."""
