"""This host's part in live migrations, as the records of control ask for it; it only follows and reports.

The source moves the guest (the daemons do it by themselves, see :mod:`yuntai.compute.libvirt_migration`). The
destination first has its gateway keep a place for each volume. When the guest runs here, it takes the volumes. That is
what decides: volumes can be taken only as long as control has not called the migration off, and the other way round
(:mod:`yuntai.pangu.takeover_rules`). A guest that came too late is ended here before it has read or written anything.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from yuntai import log
from yuntai.compute import console
from yuntai.compute.driver import HypervisorError
from yuntai.compute.migrations import Figures, eta_s, rung
from yuntai.compute.volumes import MovedError, VolumeError
from yuntai.model.compute import Instance, Migration, MigrationProgress
from yuntai.state import NotFound, Present, StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.compute.keeper import Tools
    from yuntai.compute.migrations import Rung

POLL_S = 0.5
IDLE_S = 5.0
AGAIN_S = 1.0
_LOG = log.get("compute.moving")


class Follower:
    """One migration, at one of its ends."""

    def __init__(
        self,
        migration: Migration,
        tools: Tools,
        of: Callable[[str], Migration | None],
        kept: Callable[[str], bool],
        wake_keeper: Callable[[str], None],
    ) -> None:
        self.id, self.job = migration.id, migration.job
        self.wake = asyncio.Event()
        self._leaves = migration.source == tools.host
        self._makes_room = False  # nothing of an earlier stay is here, and what comes now is this migration's
        self._tools = tools
        self._of = of
        self._kept = kept
        self._wake_keeper = wake_keeper
        self._progress: MigrationProgress | None = None
        self._move: asyncio.Task[None] | None = None
        self._rung: Rung = ""
        self._released = False
        self._began = 0.0

    @property
    def holds(self) -> bool:
        """Whether the keeper is to leave the guest alone although its record names the other host."""
        if self._progress is None:
            return True
        if self._leaves:
            return self._progress.state not in ("moved", "failed", "undone")
        return self._makes_room or self._progress.state != "preparing"

    async def run(self) -> None:
        """Follow it until its record is gone, or is another one's: the next migration of the same guest."""
        try:
            while (migration := self._of(self.id)) is not None and migration.job == self.job:
                self.wake.clear()
                try:
                    wait_s = await self._turn(migration)
                except (HypervisorError, VolumeError, StateError, OSError) as error:
                    _LOG.warning("migration waits", instance=self.id, job=migration.job, error=str(error))
                    wait_s = AGAIN_S
                except Exception:  # noqa: BLE001 — a fault in one move must not end the agent, and the others with it
                    _LOG.exception("migration failed to be followed", instance=self.id)
                    wait_s = IDLE_S
                try:
                    await asyncio.wait_for(self.wake.wait(), wait_s)
                except TimeoutError:
                    continue
        finally:
            if self._move is not None:
                # The daemons go on by themselves; the next agent finds out what became of it.
                self._move.cancel()
                await asyncio.gather(self._move, return_exceptions=True)

    async def _turn(self, migration: Migration) -> float:
        if self._progress is None:
            self._progress = await self._remembered(migration)
        if migration.source == self._tools.host:
            return await self._at_source(migration, self._progress)
        return await self._at_destination(migration, self._progress)

    async def _remembered(self, migration: Migration) -> MigrationProgress:
        blank = MigrationProgress(id=f"{self.id}.{self._tools.host}", job=migration.job, state="preparing")
        found = await self._tools.store.get(MigrationProgress, blank.id)
        return found.value if found is not None and found.value.job == migration.job else blank

    async def _report(self, **changes: Any) -> None:
        assert self._progress is not None  # noqa: S101 — set before any turn
        fresh = replace(self._progress, **changes)
        if fresh != self._progress:
            if fresh.state != self._progress.state:
                _LOG.info("migration", instance=self.id, job=fresh.job, state=fresh.state, error=fresh.error or None)
            # Control forgets the migration and the reports of it together: one that comes later would stay for ever.
            if not await self._tools.store.txn(compare=[Present(Migration, self.id)], put=[fresh]):
                raise NotFound(f"the migration of {self.id} has ended")
            self._progress = fresh

    # At the source.

    async def _at_source(self, migration: Migration, progress: MigrationProgress) -> float:
        if migration.phase == "undo":
            return await self._undo_source(progress)
        if migration.phase == "prepare" or progress.state in ("moved", "failed"):
            return IDLE_S
        if migration.phase == "finish" and progress.stage != "post-copy" and not self._released:
            await self._tools.hypervisor.migrations.release(self.id)
            self._released = True
        if self._move is None:
            if progress.state == "moving":
                return await self._adopt()
            if migration.phase == "finish":
                return IDLE_S
            await self._report(state="moving")
            self._move = asyncio.create_task(self._tools.hypervisor.migrations.migrate(self.id, migration.address))
            self._move.add_done_callback(lambda _: self.wake.set())
            self._began = self._tools.clock()
        if self._move.done():
            error = self._move.exception()
            self._move = None
            if error is not None and not isinstance(error, HypervisorError):
                raise error
            await self._report(state="failed" if error else "moved", error=str(error or ""), remaining_bytes=0)
            return IDLE_S
        await self._watch(migration)
        return POLL_S

    async def _watch(self, migration: Migration) -> None:
        """Report how far it is, cancel it if that is wanted, and help it along."""
        migrations = self._tools.hypervisor.migrations
        if migration.cancel and migration.phase == "move":
            await migrations.cancel(self.id)
        figures = await migrations.figures(self.id)
        if figures is None:
            return
        wanted = rung(figures, self._tools.clock() - self._began, post_copy=migration.post_copy)
        if wanted != self._rung:
            _LOG.info("migration takes longer", instance=self.id, rung=wanted, throttle=figures.throttle_percent)
            await migrations.help(self.id, wanted)
            self._rung = wanted
        await self._report(**_shown(figures), stage=self._rung)

    async def _adopt(self) -> float:
        """After a restart of the agent: the daemons went on; see what became of it."""
        figures = await self._tools.hypervisor.migrations.figures(self.id)
        if figures is not None:
            migration = self._of(self.id)
            if migration is not None and migration.cancel and migration.phase == "move":
                await self._tools.hypervisor.migrations.cancel(self.id)
            await self._report(**_shown(figures))
            return POLL_S
        guest = await self._tools.hypervisor.guest(self.id)
        gone = guest is None
        why = "" if gone else "the source's agent was started anew, and finds the guest where it was"
        await self._report(state="moved" if gone else "failed", error=why)
        return IDLE_S

    async def _undo_source(self, progress: MigrationProgress) -> float:
        hypervisor = self._tools.hypervisor
        if progress.state == "undone":
            return IDLE_S
        if self._move is not None and not self._move.done():
            await hypervisor.migrations.cancel(self.id)
            return POLL_S
        if await hypervisor.migrations.figures(self.id) is not None:
            await hypervisor.migrations.cancel(self.id)
            return POLL_S
        guest = await hypervisor.guest(self.id)
        if guest is not None and guest.state == "paused" and not guest.lost:
            # It had stopped to be switched over; the volumes are still its own. A lost one is its keeper's to start.
            await hypervisor.resume(self.id)
        await self._report(state="undone")
        return IDLE_S

    # At the destination.

    async def _at_destination(self, migration: Migration, progress: MigrationProgress) -> float:
        match migration.phase, progress.state:
            case ("undo", "undone") | ("finish", _):
                return IDLE_S
            case "undo", _:
                await self._clear()
                await self._report(state="undone")
                return IDLE_S
            case "prepare", "preparing":
                return await self._prepare(migration)
            case "move", "ready" | "moving":
                return await self._await_guest(migration)
            case _:
                return IDLE_S

    async def _prepare(self, migration: Migration) -> float:
        if not await self._is_empty():
            await self._report(waits_for=f"{self._tools.host} lets go of what an earlier stay of the guest has left")
            return POLL_S
        try:
            for volume in self._volumes():
                await self._tools.volumes.announce(volume, self._tools.host, migration.job)
            for path in self._paths():
                path.parent.mkdir(parents=True, exist_ok=True)
        except (VolumeError, OSError) as error:
            await self._report(state="failed", error=str(error))
            return IDLE_S
        await self._report(state="ready", waits_for="")
        return IDLE_S

    async def _is_empty(self) -> bool:
        """Tell whether nothing of the guest is here, and from then on keep the keeper away; else have it removed."""
        guest = await self._tools.hypervisor.guest(self.id)
        if self._kept(self.id):
            self._wake_keeper(self.id)
            return False
        if guest is not None:  # nobody looks after it
            await self._clear()
            return False
        self._makes_room = True
        return True

    async def _await_guest(self, migration: Migration) -> float:
        guest = await self._tools.hypervisor.guest(self.id)
        if guest is None or guest.state != "running":
            return POLL_S
        try:
            for volume in self._volumes():
                await self._tools.volumes.take(volume, self._tools.host, migration.job)
        except MovedError as error:
            # Called off: it is the source's guest that goes on, or one that was started elsewhere.
            await self._clear()
            await self._report(state="failed", error=str(error))
            return IDLE_S
        downtime_ms = await self._tools.hypervisor.migrations.downtime_ms(self.id)
        await self._report(state="moved", downtime_ms=downtime_ms)
        return IDLE_S

    async def _clear(self) -> None:
        """Leave nothing of a guest that is not to be here."""
        hypervisor = self._tools.hypervisor
        if await hypervisor.guest(self.id) is not None:
            await hypervisor.destroy(self.id)
            await hypervisor.forget(self.id)
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _volumes(self) -> list[str]:
        instance = self._tools.records.any_instance(self.id)
        if instance is None:
            raise VolumeError(f"instance {self.id} has no record: nothing of it can be taken here")
        return volumes_of(instance, self._tools.records.disk)

    def _paths(self) -> tuple[Any, Any]:
        return console.log_path(self._tools.log_dir, self.id), console.socket_path(self._tools.run_dir, self.id)


def volumes_of(instance: Instance, disk: Callable[[str], Any]) -> list[str]:
    """Return the volumes of an instance's disks; raise :class:`VolumeError` if one has no record."""
    volumes = []
    for disk_id in instance.disks or (instance.system_disk,):
        record = disk(disk_id)
        if record is None:
            raise VolumeError(f"disk {disk_id} of instance {instance.id} has no record")
        volumes.append(record.volume)
    return volumes


def _shown(figures: Figures) -> dict[str, Any]:
    return {
        "transferred_bytes": figures.transferred_bytes,
        "remaining_bytes": figures.remaining_bytes,
        "dirty_bytes_per_s": figures.dirty_bytes_per_s,
        "eta_s": round(eta_s(figures), 1),
        "throttle_percent": figures.throttle_percent,
    }
