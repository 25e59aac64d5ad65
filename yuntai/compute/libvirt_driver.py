"""The hypervisor driver on libvirt. The daemon may be killed, restarted or hang: guests run on, and calls stay bounded.

libvirt's calls block, so they run in a small pool of threads with a time limit each. Events come through libvirt's own
event loop in one more thread. The connection is opened when it is needed and again when it was lost.
"""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import libvirt
import libvirt_qemu

from yuntai import log
from yuntai.compute import cpu, device_xml, domain_xml, online_resize
from yuntai.compute.driver import Guest, HypervisorError, NoSuchGuestError
from yuntai.compute.libvirt_migration import LibvirtMigrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from yuntai.compute.driver import Accelerator, DiskSpec, End, GuestSpec, GuestState, NicSpec

R = TypeVar("R")

CALL_TIMEOUT_S = 45.0  # libvirt itself waits up to 30 s for a process that does not end
UNPLUG_TIMEOUT_S = 20.0
UNPLUG_POLL_S = 0.2
UNPLUG_AGAIN_S = 5.0
RECONNECT_S = 1.0
QUEUE_MAX = 10_000
_THREADS = 8
_LOG = log.get("compute.libvirt")

_ENDS: dict[int, End] = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: "destroyed",
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: "failed",
}
_LOST = (
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
    # The destination's: it runs until it needs what has not come.
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED),
)
_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_REBOOT,
    libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
)


def _start_event_loop() -> None:
    """Run libvirt's event loop in a thread of its own, once for the process."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised; not printed as well
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=turn, name="libvirt-events", daemon=True).start()


_event_loop = threading.Lock()
_event_loop_runs = False


class LibvirtHypervisor:
    """See :class:`yuntai.compute.driver.Hypervisor`."""

    def __init__(self, uri: str = "qemu:///system") -> None:
        global _event_loop_runs
        with _event_loop:
            if not _event_loop_runs:
                _start_event_loop()
                _event_loop_runs = True
        self._uri = uri
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="libvirt")
        self._opening = threading.Lock()
        self._connection: Any = None
        self.migrations = LibvirtMigrations(self._open)
        self._resets: dict[str, int] = {}
        self._models: dict[str, frozenset[str]] = {}
        self._watchers: list[asyncio.Queue[str]] = []
        self._lost = asyncio.Event()
        self._closed = False

    async def guests(self) -> dict[str, Guest]:
        """Return every guest of ours."""

        def read(connection: Any) -> dict[str, Guest]:
            found = {}
            for domain in connection.listAllDomains(0):
                try:
                    guest = self._read(domain)
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                        raise
                    continue  # it went away while the list was read
                if guest is not None:
                    found[guest.id] = guest
            return found

        return await self._call("list the guests", read)

    async def guest(self, guest_id: str) -> Guest | None:
        """Return one guest."""
        try:
            return await self._call(f"read guest {guest_id}", lambda c: self._read(c.lookupByName(guest_id)))
        except NoSuchGuestError:
            return None

    async def start(self, spec: GuestSpec) -> None:
        """Define the guest anew and start it."""
        of_model = await self._model(spec.processor.model) if spec.processor is not None else frozenset()
        text = domain_xml.domain(spec, of_model)
        await self._call(f"start guest {spec.id}", lambda c: c.defineXML(text).create())

    async def press_power(self, guest_id: str) -> None:
        """Send the ACPI power button."""
        flags = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
        await self._on_domain("shut down", guest_id, lambda domain: domain.shutdownFlags(flags))

    async def restart(self, guest_id: str) -> None:
        """Send the ACPI power button; libvirt resets the machine instead of ending it when the guest has shut down."""
        flags = libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN
        await self._on_domain("reboot", guest_id, lambda domain: domain.reboot(flags))

    async def reset(self, guest_id: str) -> None:
        """Press reset."""
        await self._on_domain("reset", guest_id, lambda domain: domain.reset(0))

    async def resume(self, guest_id: str) -> None:
        """Let the guest run on."""
        await self._on_domain("resume", guest_id, lambda domain: domain.resume())

    async def destroy(self, guest_id: str) -> None:
        """End the guest's process."""

        def end(domain: Any) -> None:
            if domain.isActive():
                domain.destroy()

        try:
            await self._on_domain("destroy", guest_id, end)
        except NoSuchGuestError:
            _LOG.debug("guest to destroy is gone", guest=guest_id)

    async def forget(self, guest_id: str) -> None:
        """Remove the definition."""
        try:
            await self._on_domain("undefine", guest_id, lambda domain: domain.undefineFlags(0))
        except NoSuchGuestError:
            _LOG.debug("guest to forget is gone", guest=guest_id)
        self._resets.pop(guest_id, None)

    async def attach_disk(self, guest_id: str, disk: DiskSpec) -> None:
        """Plug a disk in."""
        text = domain_xml.disk(disk)
        what = f"attach disk {disk.id} to"
        await self._on_domain(what, guest_id, lambda domain: domain.attachDeviceFlags(text, _LIVE))

    async def detach_disk(self, guest_id: str, disk_id: str) -> None:
        """Ask the guest to give the disk up, again every few seconds, and wait until it has."""
        await self._detach(guest_id, f"disk {disk_id}", lambda text: domain_xml.disk_element(text, disk_id))

    async def _detach(self, guest_id: str, what: str, element: Callable[[str], str | None]) -> None:
        waited_s = 0.0
        asked_s = -UNPLUG_AGAIN_S
        while waited_s < UNPLUG_TIMEOUT_S:
            ask = waited_s - asked_s >= UNPLUG_AGAIN_S
            if ask:
                asked_s = waited_s
            if not await self._on_domain(f"detach {what} from", guest_id, _unplug(what, element, ask=ask)):
                return
            await asyncio.sleep(UNPLUG_POLL_S)
            waited_s += UNPLUG_POLL_S
        raise HypervisorError(
            f"guest {guest_id} did not let go of {what} within {UNPLUG_TIMEOUT_S:.0f} s; "
            "stop using it in the guest, or stop the instance"
        )

    async def attach_nic(self, guest_id: str, nic: NicSpec) -> None:
        """Plug a network card in."""
        text = domain_xml.nic(nic)
        await self._on_domain(
            f"attach network card {nic.port} to", guest_id, lambda domain: domain.attachDeviceFlags(text, _LIVE)
        )

    async def detach_nic(self, guest_id: str, port: str) -> None:
        """Ask the guest to give the card up, and wait until it has."""
        await self._detach(guest_id, f"network card {port}", lambda text: device_xml.nic_element(text, port))

    async def limit_disk(self, guest_id: str, disk_id: str, iops_max: int, bytes_per_s_max: int) -> None:
        """Change QEMU's throttle of the disk."""
        values = device_xml.tuning(iops_max, bytes_per_s_max)

        def limit(domain: Any) -> None:
            target = domain_xml.read(domain.XMLDesc(0))[2].get(disk_id)
            if target is None:
                raise HypervisorError(f"guest {guest_id} has no disk {disk_id} to limit")
            domain.setBlockIoTune(target, values, _LIVE)

        await self._on_domain(f"limit disk {disk_id} of", guest_id, limit)

    async def limit_vcpus(self, guest_id: str, percent: int) -> None:
        """Change the control group of each vCPU's thread."""
        values = {"vcpu_period": device_xml.CPU_PERIOD_US, "vcpu_quota": device_xml.quota_us(percent)}
        await self._on_domain("limit the vCPUs of", guest_id, lambda d: d.setSchedulerParametersFlags(values, _LIVE))

    async def disk_size(self, guest_id: str, export: str) -> int:
        """Ask QEMU."""
        return await self._on_domain(
            f"read the disk {export} of", guest_id, lambda d: online_resize.size_of(online_resize.find(_qmp(d), export))
        )

    async def grow_disk(self, guest_id: str, export: str, size_bytes: int) -> None:
        """Have QEMU see and show the new size."""
        what = f"grow the disk {export} of"
        await self._on_domain(what, guest_id, lambda d: online_resize.grow(_qmp(d), export, size_bytes))

    async def changes(self) -> AsyncIterator[str]:
        """Yield ids of guests that changed, and "" after each new connection."""
        queue: asyncio.Queue[str] = asyncio.Queue(QUEUE_MAX)
        self._watchers.append(queue)
        watchdog = asyncio.create_task(self._stay_connected())
        try:
            while True:
                yield await queue.get()
        finally:
            watchdog.cancel()
            self._watchers.remove(queue)

    async def cpu(self, accelerator: Accelerator) -> cpu.CpuFacts:
        """Ask libvirt what it would give a guest, every feature spelt out."""
        virt = "kvm" if accelerator == "kvm" else "qemu"

        def read(connection: Any) -> str:
            most = cpu.host_model(connection.getDomainCapabilities(None, _ARCH, _MACHINE, virt, 0))
            if not most:
                raise HypervisorError(f"libvirt does not say what CPU a guest by {accelerator} can have")
            expand = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES | libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE
            return str(connection.baselineHypervisorCPU(None, _ARCH, _MACHINE, virt, [most], expand))

        text = await self._call("read what CPU a guest can have", read)
        return cpu.facts(text, await asyncio.to_thread(cpu.hardware_banks))

    async def _model(self, model: str) -> frozenset[str]:
        """Return the features that a CPU model has by itself; libvirt's table of them does not change while it runs."""
        if model not in self._models:
            expand = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
            text = await self._call(
                f"read the CPU model {model}", lambda c: str(c.baselineCPU([cpu.bare_model(model)], expand))
            )
            self._models[model] = cpu.features_of(text)
        return self._models[model]

    async def versions(self) -> dict[str, str]:
        """Return the versions of QEMU and libvirt."""

        def read(connection: Any) -> dict[str, str]:
            return {"qemu": _dotted(connection.getVersion()), "libvirt": _dotted(connection.getLibVersion())}

        return await self._call("read the versions", read)

    async def close(self) -> None:
        """Close the connection; guests run on."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._loop.run_in_executor(self._pool, connection.close)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.migrations.close()

    # Connection and calls.

    async def _stay_connected(self) -> None:
        while not self._closed:
            self._lost.clear()
            try:
                await self._call("connect", lambda connection: connection.isAlive())
            except HypervisorError as error:
                _LOG.warning("hypervisor not reachable", error=str(error))
                await asyncio.sleep(RECONNECT_S)
                continue
            await self._lost.wait()

    def _open(self) -> Any:
        with self._opening:
            if self._connection is not None and self._connection.isAlive():
                return self._connection
            connection = libvirt.open(self._uri)
            connection.setKeepAlive(5, 3)
            connection.registerCloseCallback(self._on_close, None)
            for event in _EVENTS:
                handler = self._on_reboot if event == libvirt.VIR_DOMAIN_EVENT_ID_REBOOT else self._on_event
                connection.domainEventRegisterAny(None, event, handler, None)
            self._connection = connection
            self._loop.call_soon_threadsafe(self._announce, "")
            return connection

    async def _call(self, what: str, call: Callable[[Any], R]) -> R:
        def work() -> R:
            try:
                return call(self._open())
            except libvirt.libvirtError as error:
                kind = NoSuchGuestError if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN else HypervisorError
                raise kind(f"cannot {what}: {error}") from error

        try:
            return await asyncio.wait_for(self._loop.run_in_executor(self._pool, work), CALL_TIMEOUT_S)
        except TimeoutError as error:
            raise HypervisorError(f"cannot {what}: libvirt did not answer within {CALL_TIMEOUT_S:.0f} s") from error

    async def _on_domain(self, what: str, guest_id: str, call: Callable[[Any], R]) -> R:
        return await self._call(f"{what} guest {guest_id}", lambda c: call(c.lookupByName(guest_id)))

    def _read(self, domain: Any) -> Guest | None:
        text = domain.XMLDesc(0)
        ours, accelerator, disks = domain_xml.read(text)
        if not ours:
            return None
        devices = device_xml.read(text)
        number, reason = domain.state()
        state: GuestState = "running"
        end: End = ""
        if number in {libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_NOSTATE}:
            state = "off"
            end = "crashed" if number == libvirt.VIR_DOMAIN_CRASHED else _ENDS.get(reason, "unknown")
        elif number in {libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED}:
            state = "paused"
        name = domain.name()
        return Guest(
            id=name,
            state=state,
            end=end,
            disks=tuple(disks),
            resets=self._resets.get(name, 0),
            incomplete=(number, reason) == (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY),
            lost=(number, reason) in _LOST,
            io_error=number == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR,
            accelerator=accelerator,
            nics=devices.nics,
            limits=devices.limits,
            vcpu_quota_percent=devices.vcpu_quota_percent,
        )

    # Callbacks, in the thread of libvirt's event loop.

    def _on_close(self, _connection: Any, reason: int, _context: Any) -> None:
        if not self._closed:
            _LOG.warning("connection to libvirt lost", reason=reason)
            self._loop.call_soon_threadsafe(self._lost.set)

    def _on_event(self, _connection: Any, domain: Any, *_details: Any) -> None:
        self._loop.call_soon_threadsafe(self._announce, domain.name())

    def _on_reboot(self, _connection: Any, domain: Any, *_details: Any) -> None:
        self._loop.call_soon_threadsafe(self._count_reset, domain.name())

    def _count_reset(self, guest_id: str) -> None:
        self._resets[guest_id] = self._resets.get(guest_id, 0) + 1
        self._announce(guest_id)

    def _announce(self, guest_id: str) -> None:
        for queue in self._watchers:
            if queue.full():
                # Too many to name: one "" stands for all of them.
                while not queue.empty():
                    queue.get_nowait()
                guest_id = ""
            queue.put_nowait(guest_id)


_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_ARCH, _MACHINE = "x86_64", "q35"


def _unplug(what: str, element_of: Callable[[str], str | None], *, ask: bool) -> Callable[[Any], bool]:
    """Return a call that tells whether the domain still has a device, and asks for its removal if so."""

    def call(domain: Any) -> bool:
        element = element_of(domain.XMLDesc(0))
        if element is None:
            return False
        if ask:
            try:
                domain.detachDeviceFlags(element, _LIVE)
            except libvirt.libvirtError as error:
                if error.get_error_code() not in {libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_DEVICE_MISSING}:
                    raise
                _LOG.info("unplug is under way", device=what, answer=str(error))
        return True

    return call


def _qmp(domain: Any) -> Callable[[str, dict[str, Any]], Any]:
    """Return what carries out commands of a domain's monitor; libvirt has no call of its own for what is needed."""

    def command(name: str, arguments: dict[str, Any]) -> Any:
        text = json.dumps({"execute": name, "arguments": arguments})
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, text, 0))
        if "error" in answer:
            raise HypervisorError(f"QEMU refuses {name}: {answer['error'].get('desc', answer['error'])}")
        return answer.get("return")

    return command


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
