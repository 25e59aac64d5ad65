"""Moving running guests with libvirt: the source's daemon dials the destination's and both hand the guest over.

The daemons do it by themselves once it has begun (peer to peer), so that a restart of the agent, or of the control
plane, changes nothing about it. Auto-converge is on from the start; it slows a guest down only when its memory changes
faster than it can be sent. Large guests are sent over several connections.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import libvirt

from yuntai import log
from yuntai.compute import domain_xml
from yuntai.compute.driver import HypervisorError, NoSuchGuestError
from yuntai.compute.guests import GuestProcesses
from yuntai.compute.migrations import DOWNTIME_LAST_MS, DOWNTIME_MS, Figures

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.compute.migrations import Rung

R = TypeVar("R")

AT_ONCE = 4
CALL_TIMEOUT_S = 15.0
PARALLEL_FROM_MIB = 4096
CONNECTIONS = 4
PORT_TCP = 16509
_LOG = log.get("compute.migration")
_FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_AUTO_CONVERGE
)


class LibvirtMigrations:
    """See :class:`yuntai.compute.migrations.Migrations`. ``connect`` opens the connection, or returns the open one."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        # Each move holds a thread as long as it lasts; what looks after it needs others.
        self._moves = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="migrate")
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="migration")
        self._processes = GuestProcesses()

    async def migrate(self, guest_id: str, address: str) -> None:
        """Move it."""

        def work() -> None:
            domain = self._connect().lookupByName(guest_id)
            domain_xml.require_geometry(guest_id, domain.XMLDesc(0))
            parameters: dict[str, Any] = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{address}"}
            flags = _FLAGS
            if domain.maxMemory() >= PARALLEL_FROM_MIB * 1024:
                flags |= libvirt.VIR_MIGRATE_PARALLEL
                parameters[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = CONNECTIONS
            else:
                # It can be told to go on by post-copy later only if it was begun for that.
                flags |= libvirt.VIR_MIGRATE_POSTCOPY
            domain.migrateSetMaxDowntime(DOWNTIME_MS)
            domain.migrateToURI3(f"qemu+tcp://{address}:{PORT_TCP}/system", parameters, flags)

        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._moves, _told, f"migrate guest {guest_id} to {address}", work)

    async def figures(self, guest_id: str) -> Figures | None:
        """Ask libvirt for the job that the guest has."""

        def read() -> Figures | None:
            domain = self._connect().lookupByName(guest_id)
            try:
                if domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE:
                    return None
                stats = domain.jobStats()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise
                return None  # its process has just ended
            if stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
                return None
            return Figures(
                transferred_bytes=int(stats.get("memory_processed", 0)),
                remaining_bytes=int(stats.get("memory_remaining", 0)),
                dirty_bytes_per_s=int(stats.get("memory_dirty_rate", 0)) * int(stats.get("memory_page_size", 4096)),
                bytes_per_s=int(stats.get("memory_bps", 0)),
                throttle_percent=int(stats.get("auto_converge_throttle", 0)),
                passes=int(stats.get("memory_iteration", 0)),
                downtime_ms=float(stats.get("downtime", -1)),
            )

        try:
            return await self._call(f"read the migration of {guest_id}", read)
        except NoSuchGuestError:
            return None

    async def downtime_ms(self, guest_id: str) -> float:
        """Read the figures of the completed job."""

        def read() -> float:
            stats = self._connect().lookupByName(guest_id).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
            return float(stats.get("downtime", -1))

        return await self._call(f"read the completed migration of {guest_id}", read)

    async def cancel(self, guest_id: str) -> None:
        """Abort the job."""
        if await self.figures(guest_id) is not None:
            await self._call(f"cancel the migration of {guest_id}", lambda: self._domain(guest_id).abortJob())

    async def help(self, guest_id: str, rung: Rung) -> None:
        """Allow a longer pause, or go over to post-copy. Auto-converge helps by itself."""
        if rung == "downtime":
            call = f"let {guest_id} stand still for longer"
            await self._call(call, lambda: self._domain(guest_id).migrateSetMaxDowntime(DOWNTIME_LAST_MS))
        elif rung == "post-copy":
            call = f"go on with the migration of {guest_id} by post-copy"
            await self._call(call, lambda: self._domain(guest_id).migrateStartPostCopy())

    async def release(self, guest_id: str) -> None:
        """Kill its process.

        QEMU flushes its disks before it ends. They are the destination's by now, so that it would look for them until
        libvirt loses patience with it after 10 s, and the guest could not come back before that.
        """
        await asyncio.to_thread(self._processes.kill, [guest_id])

    def _domain(self, guest_id: str) -> Any:
        return self._connect().lookupByName(guest_id)

    async def _call(self, what: str, call: Callable[[], R]) -> R:
        work = asyncio.get_running_loop().run_in_executor(self._pool, _told, what, call)
        try:
            return await asyncio.wait_for(work, CALL_TIMEOUT_S)
        except TimeoutError as error:
            raise HypervisorError(f"cannot {what}: libvirt did not answer within {CALL_TIMEOUT_S:.0f} s") from error

    def close(self) -> None:
        """Let go of the threads; moves that are under way go on in the daemons."""
        self._moves.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _told(what: str, call: Callable[[], R]) -> R:
    try:
        return call()
    except libvirt.libvirtError as error:
        kind = NoSuchGuestError if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN else HypervisorError
        raise kind(f"cannot {what}: {error}") from error
