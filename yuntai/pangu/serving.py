"""Makes gateways serve what the records say: open, close, and again after a gateway or a master was restarted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from yuntai import log
from yuntai.model.cluster import Volume
from yuntai.pangu import layout, rules, wire
from yuntai.pangu.errors import Conflict, NotFound, PanguError, Unavailable
from yuntai.pangu.tokens import REFRESH_S
from yuntai.pangu.units import is_hydrated, volume_id, volume_number
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from yuntai.model.cluster import ChunkServer
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.mover import Mover
    from yuntai.pangu.office import Office
    from yuntai.pangu.servers import Servers

OPEN_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 15.0
REOPENS_AT_ONCE_MAX = 8

_log = log.get("serving")


class Serving:
    """Opens and closes volumes at gateways. Callers hold the volume's lock."""

    def __init__(self, office: Office, servers: Servers) -> None:
        self._office = office
        self._servers = servers
        self.gateways: Gateways  # set by the session: gateways and this know each other
        self.mover: Mover  # likewise
        self.atlas: Atlas
        self._slots = asyncio.Semaphore(REOPENS_AT_ONCE_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._told_at: dict[str, float] = {}  # volume → when its gateway last got tokens and addresses
        self._told_servers: dict[str, dict[int, tuple[str, str]]] = {}

    async def open(self, volume: Volume) -> str:
        """Have the volume's holder serve it under its present generation; return the path of the NBD socket.

        Doing it again answers the same and brings fresh tokens and addresses.
        """
        number = volume_number(volume.id)
        servers = self._servers.by_number()
        host, moves = rules.holder(volume), self.mover.moves_of(volume.id)
        request = await layout.open_request(self._office.store, volume, servers, self._office.signer, moves)
        before = self.gateways.generation_open(host, number)
        if before not in (0, volume.generation):
            await self.close(host, volume.id, before)
        try:
            opened = await self.gateways.call(host, request, OPEN_TIMEOUT_S)
        except wire.Refused as error:
            raise Conflict(f"the gateway of {host} refuses to open {volume.id}: {error}") from error
        self.mover.noted(volume.id, volume.generation, moves)
        self._told_at[volume.id] = time.monotonic()
        self._told_servers[volume.id] = _told_of(servers)
        await self._settle(volume)
        return str(opened["socket"])

    async def _settle(self, volume: Volume) -> None:
        """Note what an open makes true: no older writer is left. Pending snapshots are told of besides.

        A gateway that had the volume open under this generation already takes tokens and addresses from an open, but
        goes on with the head that it knows.

        Whoever tends fences the last writer, too, but what that one left may still be on one replica only, and on none
        durably, and a tender may go before it is level. What is frozen then is shown from any one replica, and would
        change. A guest's gateway flushes before anything of it is called frozen, and before it lets go.
        """

        def settled(current: Volume) -> Volume:
            if current.generation != volume.generation or current.read_only or current.state != "attached":
                return current
            return replace(current, unfenced=False)

        await self.finish_snapshots(await self._office.change(volume.id, settled))

    async def close(self, host: str, volume: str, generation: int) -> bool:
        """Have a gateway flush and let go of a volume; fine if it does not serve it. Return whether all is durable.

        If not, writes may still be on their way to some replicas, as with a writer that nobody has fenced: also where
        the gateway was killed, and knows nothing of what it served before.
        """
        number = volume_number(volume)
        was_open = await self.gateways.serves(host, number, generation)
        request = {"op": "close", "volume": number, "generation": generation}
        try:
            closed = await self.gateways.call(host, request, CLOSE_TIMEOUT_S)
        except wire.Refused as error:
            await self.gateways.refresh(host)
            if self.gateways.generation_open(host, number) != generation:
                return False  # it was fenced while it was being closed
            raise Conflict(f"the gateway of {host} refuses to close {volume}: {error}") from error
        # A gateway that names no generation says of everything that is not open that it is durable.
        return bool(closed["flushed"]) and (was_open or closed.get("generation") == generation)

    async def reconcile(self, host: str) -> None:
        """Open what should be open at a gateway and is not, close what should not be, renew old tokens."""
        await self.atlas.ready()
        volumes = self.atlas.volumes.values()
        here = {one.id for one in volumes if one.state != "deleting" and rules.holder(one) == host}
        served = {volume_id(number) for number in self.gateways.all_open(host)}
        await asyncio.gather(*(self._one(host, volume) for volume in sorted(here | served)))

    def is_open(self, volume: Volume) -> bool:
        """Return whether the gateway that has a volume serves it under its present generation."""
        host = rules.holder(volume)
        return bool(host) and self.gateways.generation_open(host, volume_number(volume.id)) == volume.generation

    async def dismiss(self, was: Volume) -> None:
        """Tell whoever has a volume open to stop. Only a courtesy: it is fenced already, whether it hears or not."""
        host = rules.holder(was)
        generation = self.gateways.generation_open(host, volume_number(was.id)) if host else 0
        if generation:
            try:
                await self.close(host, was.id, generation)
            except (Unavailable, Conflict, NotFound) as error:
                _log.info("former host not told", volume=was.id, host=host, error=str(error))

    async def refresh_users(self, source: str) -> None:
        """Tell every gateway where the replicas of ``source`` are now, if it reads from it for a clone.

        Raise :class:`Unavailable` if one of them does not hear: it would go on reading where nothing is any more.
        """
        volumes = [one.value for one in await self._office.store.list(Volume)]
        pending = [one.id for one in volumes if one.state != "deleting" and not is_hydrated(one)]
        for user in rules.users_of(source, volumes, pending):
            async with self._office.lock(user):
                record = (await self._office.volume(user)).value
                if not rules.holder(record) or record.state == "deleting":
                    continue
                if not self.is_open(record):
                    raise Unavailable(f"{user}, a clone of {source}, is not open at {rules.holder(record)} yet")
                await self.open(record)

    def dismiss_soon(self, was: Volume) -> None:
        """Do the same in the background: one that hangs must not hold up whoever comes next."""
        self._begin(self.dismiss(was))

    def reopen_soon(self, host: str, volume: str) -> None:
        """Compare one volume with its record in the background: its gateway said that it lost it."""
        self._begin(self._one(host, volume))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what runs in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _one(self, host: str, volume: str) -> None:
        try:
            async with self._slots, self._office.lock(volume):
                await self._match(host, volume)
        except (PanguError, StateError, wire.WireError) as error:
            _log.warning("volume does not match its record yet", gateway=host, volume=volume, error=str(error))

    async def _match(self, host: str, volume: str) -> None:
        generation = self.gateways.generation_open(host, volume_number(volume))
        found = await self._office.store.get(Volume, volume)
        record = found.value if found else None
        if record is None or record.state == "deleting" or rules.holder(record) != host:
            if generation:
                _log.info("closing what should not be open", gateway=host, volume=volume, generation=generation)
                await self.close(host, volume, generation)
            return
        if generation == record.generation:
            if self._is_old(record):
                await self.open(record)
            else:
                await self.finish_snapshots(record)
            return
        if record.tended_by:
            # It lost the volume, or never got it. Whether it is to be tended still is looked at anew.
            await self._office.change(volume, rules.untended)
            return
        # Whatever served it before is gone or of another generation: only a new one is sure to be let in.
        granted = await self._office.change(volume, rules.reopen)
        _log.info("opening again", gateway=host, volume=volume, generation=granted.generation)
        await self.open(granted)

    def _is_old(self, record: Volume) -> bool:
        told = self._told_servers.get(record.id)
        if told is None:
            # Another master opened it; when it comes to telling again is not known, so now.
            return True
        return (
            _told_of(self._servers.by_number()) != told
            or time.monotonic() - self._told_at.get(record.id, 0.0) > REFRESH_S
        )

    async def finish_snapshots(self, volume: Volume) -> Volume:
        """Tell the gateway about a head that it may not know, and mark the snapshots below it done."""
        if "pending" not in volume.snapshots.values():
            return volume
        if volume.group:
            return await self._finish_group(volume.id)
        if volume.state == "attached" and not volume.read_only:
            await self._tell_heads(volume.host, {"op": "snapshot", **_head(volume)})
        elif volume.unfenced:
            return volume  # the last writer may still write to what is to be frozen, or not all of it be durable
        return await self._office.change(volume.id, lambda current: rules.snapshots_done(current, volume.head))

    async def _finish_group(self, volume_id: str) -> Volume:
        """Switch all volumes of a group with one request: one after another, their snapshots would not fit together."""
        async with self._office.together:
            volume = (await self._office.volume(volume_id)).value
            if volume.group:
                found = [await self._office.store.get(Volume, other) for other in volume.group]
                same = [
                    one.value
                    for one in found
                    if one is not None
                    and (one.value.group, one.value.state, one.value.host) == (volume.group, "attached", volume.host)
                ]
                if same:
                    request = {"op": "snapshot_group", "volumes": [_head(one) for one in same]}
                    await self._tell_heads(volume.host, request)
                for one in same:
                    await self._office.change(one.id, _done_below(one.head))
                volume = await self._office.change(volume_id, _done_below(volume.head))
        # What was frozen again meanwhile, alone, is pending still.
        return await self.finish_snapshots(volume)

    async def finish_groups(self, host: str) -> None:
        """Switch what was frozen together at a host and was not told yet, before a guest there gets another volume.

        It may be one of the same group that was not attached all the time. What the guest writes to it from now on is
        not in the snapshot; what it writes to the others after that must not be either.
        """
        for one in [one for one in self.atlas.volumes.values() if one.group and one.host == host]:
            try:
                await self.finish_snapshots(one)
            except (PanguError, StateError) as error:
                if self.is_open(one):
                    raise
                # One that is not served is switched when it is opened, and not written before.
                _log.warning("a group is not switched yet", gateway=host, volume=one.id, error=str(error))

    async def _tell_heads(self, host: str, request: dict[str, Any]) -> None:
        try:
            await self.gateways.call(host, request, OPEN_TIMEOUT_S)
        except wire.Refused as error:
            raise Unavailable(f"the gateway of {host} could not take the snapshot now: {error}") from error


def _told_of(servers: dict[int, ChunkServer]) -> dict[int, tuple[str, str]]:
    """Return what an open tells of the servers and a gateway must hear when it changes."""
    return {number: (server.address, server.given_up) for number, server in servers.items()}


def _done_below(head: int) -> Callable[[Volume], Volume]:
    return lambda volume: rules.snapshots_done(volume, head)


def _head(volume: Volume) -> dict[str, Any]:
    """Return what a gateway is told so that it writes to the head that the record has."""
    return {
        "volume": volume_number(volume.id),
        "generation": volume.generation,
        "parents": list(volume.parents),
        "head": volume.head,
    }
