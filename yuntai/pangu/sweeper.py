"""Frees what dead layers hold: tells every server of a volume which layers live, until each has swept.

What is done is in the volume's record (``swept``), so after a crash the next master asks only those that are missing,
and a server that has a replica since then is asked too. A question that comes twice, or late, does no harm: what was
dead when it was asked is dead for ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from yuntai import log
from yuntai.pangu import layout, snapshot_rules, wire
from yuntai.pangu.errors import NotFound, PanguError, Unavailable
from yuntai.pangu.units import volume_number
from yuntai.state import StateError

if TYPE_CHECKING:
    from yuntai.model.cluster import Volume
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers

EVERY_S = 10.0
AGAIN_S = 1.0
"""While a sweep runs somewhere."""
QUIET_S = 10.0
"""A layer is dead for so long before it is swept: a read of it that is on its way is over by then."""
SWEEP_TIMEOUT_S = 15.0
LOOK_AGAIN_S = 600.0
"""Replicas move: a server that has one since then is to sweep too."""
AT_ONCE_MAX = 4

_log = log.get("sweeper")


class Progress(msgspec.Struct, frozen=True):
    """A chunk server's answer."""

    done: bool
    freed_bytes: int = 0


@dataclass(slots=True)
class Sweep:
    """One volume that is being swept: how many layers were dead, what is asked, and what each server said."""

    count: int
    request: dict[str, Any]
    servers: int = 0
    said: dict[int, Progress] = field(default_factory=dict)
    waiting: str = ""

    @property
    def busy(self) -> bool:
        """Whether some server has begun and is not done."""
        return not all(said.done for said in self.said.values())

    @property
    def freed_bytes(self) -> int:
        """What all servers together have freed so far."""
        return sum(said.freed_bytes for said in self.said.values())


class Sweeper:
    """A loop over the volumes with dead layers that some server has not swept."""

    def __init__(self, office: Office, servers: Servers, atlas: Atlas, *, quiet_s: float = QUIET_S) -> None:
        self._office = office
        self._servers = servers
        self._atlas = atlas
        self._quiet_s = quiet_s
        self._wake = asyncio.Event()
        self._dead_since: dict[str, dict[int, float]] = {}
        self._swept_at: dict[str, tuple[float, int]] = {}  # when everybody had swept, and so many dead layers
        self._at_work: dict[str, Sweep] = {}
        self.enabled = True

    def wake(self) -> None:
        """Look now rather than at the next turn."""
        self._wake.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            self._wake.clear()
            soon = False
            try:
                soon = await self.turn()
            except StateError as error:
                _log.info("sweeping waits", error=str(error))
            try:
                async with asyncio.timeout(AGAIN_S if soon else EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def turn(self) -> bool:
        """Go once over all volumes; return whether to come back soon."""
        # A view that is a moment behind does no harm: what was dead then is dead now.
        await self._atlas.ready()
        volumes = list(self._atlas.volumes.values())
        stood = snapshot_rules.stood_on(volumes)
        due = [volume for volume in volumes if volume.state != "deleting" and self._is_due(volume, stood)]
        for gone in set(self._at_work) - {volume.id for volume in due}:
            del self._at_work[gone]
        for gone in set(self._dead_since) - {volume.id for volume in volumes}:
            del self._dead_since[gone]
            self._swept_at.pop(gone, None)
        slots = asyncio.Semaphore(AT_ONCE_MAX)
        again = await asyncio.gather(*(self._one(slots, volume, stood.get(volume.id, {})) for volume in due))
        return any(again)

    def _is_due(self, volume: Volume, stood: snapshot_rules.Stood) -> bool:
        count = len(snapshot_rules.dead(volume, stood.get(volume.id, ())))
        at, known = self._swept_at.get(volume.id, (0.0, 0))
        old = asyncio.get_running_loop().time() - at > LOOK_AGAIN_S
        return count > 0 and self.enabled and (count > known or old)

    async def _one(self, slots: asyncio.Semaphore, volume: Volume, stood: dict[int, list[str]]) -> bool:
        async with slots:
            try:
                return await self._sweep(volume, stood)
            except (PanguError, StateError) as error:
                _log.info("volume not swept yet", volume=volume.id, error=str(error))
                return False

    def _ripe(self, volume: Volume, stood: dict[int, list[str]]) -> tuple[list[int], list[int]]:
        """Return the dead layers that were dead for a while, and all other layers that count as live."""
        now = asyncio.get_running_loop().time()
        dead = snapshot_rules.dead(volume, stood)
        before = self._dead_since.get(volume.id, {})
        since = self._dead_since[volume.id] = {layer: before.get(layer, now) for layer in dead}
        ripe = [layer for layer in dead if now - since[layer] >= self._quiet_s]
        young = set(dead) - set(ripe)
        return ripe, sorted({*snapshot_rules.live(volume, stood), *young})

    def _work_on(self, volume: Volume, stood: dict[int, list[str]]) -> Sweep | None:
        """Return what to ask the servers: while one is at work the same as before, so that it need not begin anew.

        That question is as good as a newer one: layers that came since are not in it, and are left alone.
        """
        dead, live = self._ripe(volume, stood)
        work = self._at_work.get(volume.id)
        if work is not None and (work.busy or work.count == len(dead)):
            return work
        if not dead:
            return None
        request = {
            "op": "sweep",
            "volume": volume_number(volume.id),
            "parents": list(volume.parents),
            "live": live,
        }
        work = self._at_work[volume.id] = Sweep(len(dead), request)
        return work

    async def _sweep(self, volume: Volume, stood: dict[int, list[str]]) -> bool:
        work = self._work_on(volume, stood)
        if work is None:
            return True
        chunks = await layout.load_chunks(self._office.store, volume)
        holders = sorted({number for replicas in chunks for number in replicas})
        missing = [number for number in holders if volume.swept.get(str(number), 0) < work.count]
        work.servers, work.waiting = len(holders), ""
        answers = await asyncio.gather(*(self._ask(number, work) for number in missing))
        done = [number for number, answer in zip(missing, answers, strict=True) if answer]
        if done or set(volume.swept) - {str(number) for number in holders}:
            await self._office.change(
                volume.id, lambda current: snapshot_rules.swept(current, done, work.count, holders, stood)
            )
        if len(done) < len(missing):
            return work.busy or not work.waiting
        if missing:
            _log.info("volume swept", volume=volume.id, dead=work.count, freed_bytes=work.freed_bytes)
        del self._at_work[volume.id]
        self._swept_at[volume.id] = (asyncio.get_running_loop().time(), work.count)
        return len(snapshot_rules.dead(volume, stood)) > work.count

    async def _ask(self, number: int, work: Sweep) -> bool:
        """Ask one server; return whether it has nothing left to free."""
        request = {**work.request, "term": self._office.term}
        try:
            said = msgspec.convert(await self._servers.call(number, request, SWEEP_TIMEOUT_S), Progress)
        except NotFound:
            return True  # the operator removed the server, and its disk with it
        except (Unavailable, wire.Refused, msgspec.ValidationError) as error:
            work.waiting = str(error)
            work.said.pop(number, None)
            return False
        work.said[number] = said
        return said.done

    def workers(self) -> list[dict[str, Any]]:
        """Return what is being swept, as :class:`WorkerStatus` in crates/proto has it."""
        return [
            {
                "name": "sweep",
                "volume": volume_number(volume),
                "state": "waiting" if work.waiting else "running",
                "done": sum(said.done for said in work.said.values()),
                "total": work.servers,
                "unit": "servers",
                "bytes_per_s": 0,
                "limit_bytes_per_s": 0,
                "note": work.waiting
                or f"{work.count} of {len(work.request['parents'])} layers are dead; "
                f"{work.freed_bytes >> 20} MiB freed so far",
            }
            for volume, work in sorted(self._at_work.items())
        ]
