"""What chunk servers hold, and what of it nothing names any more: found by comparing, dropped with care.

A replica is dropped only if all of this holds:

1. the server said that it has it (:data:`Inventory`), *then* the volume and its placement were read from etcd, and
   they do not name the server for that chunk. Read the other way round, a replica that was placed in between would
   look like one that nothing names;
2. no move to the server is wanted, and the gateway that has the volume open, after it got this master's own list, does
   not name one as under way, to it or from it: nothing of a move is in etcd until a ``Moved`` makes the replica count,
   and until the gateway has heard that it does it reads from the one that is left;
3. from the reading until the server has answered this master commits no move of the volume (the volume's lock);
4. no other master does: each tells every server its term before it wants a move to it, and a server refuses to drop
   for a lower term. A dead master's request that is still in the network comes too late; and so does one of this
   master's own that was not answered, as it takes a higher term then;
5. the replica has not moved on since the server said so: the server compares its position;
6. clones that still read from the volume know the present placement: they would take a dropped replica for an empty
   one, and zeros for data;
7. all this was so :data:`QUIET_S` ago too: a read that was sent to the replica before is over, or given up, by now.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from yuntai import log
from yuntai.model.cluster import Volume
from yuntai.pangu import layout, rules, wire
from yuntai.pangu.errors import NotFound, PanguError, Unavailable
from yuntai.pangu.units import volume_id, volume_number
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.pangu.mover import Mover
    from yuntai.pangu.office import Office
    from yuntai.pangu.planner import Need
    from yuntai.pangu.servers import Servers
    from yuntai.pangu.serving import Serving
    from yuntai.pangu.tuning import Tuning

ASK_TIMEOUT_S = 10.0
INVENTORY_KEPT_S = 30.0
CHUNKS_PER_DROP = 256
CHECK_EVERY_S = 2.0
QUIET_S = 10.0

_log = log.get("holdings")


class Holdings:
    """Asks servers what they hold, and frees what nobody needs."""

    def __init__(self, office: Office, servers: Servers, serving: Serving, tuning: Tuning) -> None:
        self._office = office
        self._servers = servers
        self._serving = serving
        self._tuning = tuning
        self.mover: Mover  # set by the session: it and this know each other
        self._held: dict[int, tuple[float, frozenset[tuple[str, int]]]] = {}
        self._surveyed: dict[int, float] = {}
        self._since: dict[str, float] = {}
        self._spare: dict[tuple[str, int], dict[int, float]] = {}  # volume, server → chunk → since when it is spare
        self._burnt: dict[int, int] = {}  # server → the term of a request to drop that it did not answer
        self.announced: frozenset[int] = frozenset()
        """Servers that know this master's term."""
        self.deleted: set[str] = set()
        """Volumes that this master deleted: what turns up of them is garbage for sure."""
        self.unknown: dict[str, set[int]] = {}
        """Volumes that no record knows → the servers that hold parts of them."""
        self.dropped = 0

    async def announce(self, answering: Iterable[int]) -> None:
        """Tell servers this master's term, so that nobody drops for an older one any more."""
        news = sorted(set(answering) - self.announced)
        if any(self._burnt.get(number, 0) >= self._office.term for number in news):
            await self._office.raise_term()
        news = [number for number in news if self._burnt.get(number, 0) < self._office.term]
        told = await asyncio.gather(*(self._announce(number) for number in news))
        self.announced |= {number for number, heard in zip(news, told, strict=True) if heard}

    async def _announce(self, number: int) -> bool:
        try:
            await self._servers.call(number, self._drop_request(0, []), ASK_TIMEOUT_S)
        except wire.Refused as error:
            # A program that cannot drop needs no fence.
            _log.info("a server does not take terms", server=f"cs-{number}", error=str(error))
        except (Unavailable, NotFound):
            return False
        return True

    def _drop_request(self, volume: int, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        return {"op": "drop_chunks", "volume": volume, "term": self._office.term, "chunks": chunks}

    def has(self, need: Need) -> bool:
        """Return whether a replica holds data, as far as was heard; an empty one makes no disk emptier."""
        held = self._held.get(need.from_)
        return held is not None and (need.volume, need.chunk) in held[1]

    async def refresh(self, numbers: Iterable[int]) -> None:
        """Ask servers which chunks they hold, unless that was done just now."""
        now = time.monotonic()
        for number in numbers:
            if number in self._held and now - self._held[number][0] < INVENTORY_KEPT_S:
                continue
            try:
                held = [
                    (volume, int(state["chunk"]))
                    for volume in await self._volumes(number)
                    for state in await self._inventory(number, volume)
                ]
            except (Unavailable, NotFound, wire.Refused) as error:
                _log.info("no inventory", server=f"cs-{number}", error=str(error))
                continue
            self._held[number] = (now, frozenset(held))

    async def _volumes(self, number: int) -> list[str]:
        return [volume_id(int(one)) for one in await self._servers.call(number, {"op": "volumes"}, ASK_TIMEOUT_S)]

    async def _inventory(self, number: int, volume: str) -> list[dict[str, Any]]:
        request = {"op": "inventory", "volume": volume_number(volume)}
        return [dict(state) for state in await self._servers.call(number, request, ASK_TIMEOUT_S)]

    async def run(self) -> None:
        """Survey server after server, each once in a period, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            period_s = self._tuning.of("garbage_every_s")
            for number in sorted(self.announced & frozenset(self._servers.statuses())):
                if time.monotonic() - self._surveyed.setdefault(number, time.monotonic()) < period_s:
                    continue
                try:
                    await self.survey(number)
                except (PanguError, StateError, wire.Refused) as error:
                    _log.info("survey not ended", server=f"cs-{number}", error=str(error))
                self._surveyed[number] = time.monotonic()

    async def survey(self, number: int) -> None:
        """Compare what one server holds with the records, and have it drop what nothing names."""
        for volume in await self._volumes(number):
            held = await self._inventory(number, volume)
            found = await self._office.store.get(Volume, volume)
            if found is None:
                await self._no_record(number, volume)
                continue
            self.unknown.pop(volume, None)
            if found.value.state == "deleting" or not self._unnamed(number, held, await self._chunks(found.value)):
                continue
            try:
                await self._drop(number, volume, held)
            except (PanguError, StateError, wire.Refused) as error:
                _log.info("replicas not dropped yet", server=f"cs-{number}", volume=volume, error=str(error))

    async def _chunks(self, volume: Volume) -> layout.Chunks:
        return await layout.load_chunks(self._office.store, volume)

    @staticmethod
    def _unnamed(number: int, held: list[dict[str, Any]], chunks: layout.Chunks) -> list[dict[str, Any]]:
        # Beyond the known end nothing is dropped: the volume may just have grown.
        return [s for s in held if int(s["chunk"]) < len(chunks) and number not in chunks[int(s["chunk"])]]

    async def _drop(self, number: int, volume: str, held: list[dict[str, Any]]) -> None:
        await self._serving.refresh_users(volume)
        async with self._office.lock(volume):
            found = await self._office.volume(volume)
            joining = await self._joining(found.value)
            if joining is None:
                return
            joining |= {(move.chunk, move.to) for move in self.mover.moves_of(volume)}
            unnamed = self._unnamed(number, held, await self._chunks(found.value))
            spare = [state for state in unnamed if (int(state["chunk"]), number) not in joining]
            doomed = self._ripe(volume, number, spare)
            for start in range(0, len(doomed), CHUNKS_PER_DROP):
                request = self._drop_request(volume_number(volume), doomed[start : start + CHUNKS_PER_DROP])
                gone = await self._ask_to_drop(number, request)
                self.dropped += len(gone)
                _log.info("replicas dropped", server=f"cs-{number}", volume=volume, chunks=len(gone))

    def _ripe(self, volume: str, number: int, spare: list[dict[str, Any]]) -> list[dict[str, Any]]:
        now, before = time.monotonic(), self._spare.get((volume, number), {})
        since = {int(state["chunk"]): before.get(int(state["chunk"]), now) for state in spare}
        self._spare[(volume, number)] = since
        return [state for state in spare if now - since[int(state["chunk"])] >= QUIET_S]

    async def _ask_to_drop(self, number: int, request: dict[str, Any]) -> list[int]:
        try:
            return list(await self._servers.call(number, request, ASK_TIMEOUT_S))
        except Unavailable:
            # It may be done later. Until the server knows a higher term nothing may move there.
            self.announced -= {number}
            self._burnt[number] = int(request["term"])
            raise

    async def _joining(self, volume: Volume) -> set[tuple[int, int]] | None:
        """Return (chunk, server) of replicas that join or are left; ``None`` if that cannot be told now."""
        if not rules.holder(volume):
            # Whoever had it open is of an older generation, and what it says of moves is not believed.
            return set()
        under_way = await self.mover.tell(volume)
        if under_way is None:
            return None
        return {(move.chunk, number) for move in under_way for number in (move.to, move.from_)}

    async def _no_record(self, number: int, volume: str) -> None:
        """Delete what is left of a deleted volume; of one that was never heard of, only after a long while.

        Its record may be missing because etcd was restored from an older copy.
        """
        since = self._since.setdefault(volume, time.monotonic())
        waited = time.monotonic() - since >= self._tuning.of("unknown_volume_after_s")
        if volume not in self.deleted and not waited:
            self.unknown.setdefault(volume, set()).add(number)
            return
        await self._servers.call(number, {"op": "delete_volume", "volume": volume_number(volume)}, ASK_TIMEOUT_S)
        self.unknown.get(volume, set()).discard(number)
        _log.info("left-over volume deleted", server=f"cs-{number}", volume=volume)
