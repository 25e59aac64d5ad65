"""Tells gateways which replicas a scrubber found damaged, so that they are brought level again from the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from yuntai import log
from yuntai.pangu import rules, wire
from yuntai.pangu.errors import PanguError
from yuntai.pangu.units import volume_id, volume_number

if TYPE_CHECKING:
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.servers import Servers

EVERY_S = 2.0
AGAIN_S = 60.0
"""What is damaged still after this is asked for again: the gateway may have been busy, or restarted."""
CHUNKS_MAX = 256
HEAL_TIMEOUT_S = 10.0

_log = log.get("healing")


class Lost(NamedTuple):
    """A block that is damaged on every replica that counts and answers."""

    volume: str
    chunk: int
    block: int
    others: tuple[int, ...]
    """Servers of the chunk that do not count or do not answer: they may have it, and are waited for.

    Not so those that were given up."""


class Healing:
    """A loop over what the chunk servers say is damaged."""

    def __init__(self, atlas: Atlas, servers: Servers, gateways: Gateways) -> None:
        self._atlas = atlas
        self._servers = servers
        self._gateways = gateways
        self._asked: dict[tuple[str, int], tuple[float, int, frozenset[int]]] = {}
        self.sent = 0

    def damaged(self) -> dict[tuple[str, int], frozenset[int]]:
        """Return (volume, server) → chunks with damaged blocks there, of replicas that are placed there."""
        found: dict[tuple[str, int], set[int]] = {}
        for number, status in self._servers.statuses().items():
            for one in status.damaged:
                chunks = self._atlas.chunks(volume_id(one.volume))
                if one.chunk < len(chunks) and number in chunks[one.chunk]:
                    found.setdefault((volume_id(one.volume), number), set()).add(one.chunk)
        return {key: frozenset(chunks) for key, chunks in found.items()}

    def lost(self) -> list[Lost]:
        """Return what every in-sync replica that answers says to be damaged, in order.

        Of a replica with very many damaged blocks only the first are named, so that some may be missing here.
        """
        named: dict[tuple[str, int], dict[int, frozenset[int]]] = {}
        answering = self._servers.statuses()
        given_up = {number for number, one in self._servers.by_number().items() if one.given_up} - answering.keys()
        for number, status in answering.items():
            for one in status.damaged:
                named.setdefault((volume_id(one.volume), one.chunk), {})[number] = frozenset(one.named)
        found: list[Lost] = []
        for (volume, chunk), by_server in named.items():
            record, chunks = self._atlas.volumes.get(volume), self._atlas.chunks(volume)
            if record is None or chunk >= len(chunks):
                continue
            counting = [number for number in rules.in_sync(chunks[chunk], record.stale) if number in answering]
            out = {int(number) for number in record.stale}
            if counting and all(number in by_server for number in counting):
                blocks = frozenset.intersection(*(by_server[number] for number in counting))
                others = tuple(sorted(set(chunks[chunk]) - set(counting) - (given_up & out)))
                found += [Lost(volume, chunk, block, others) for block in blocks]
        return sorted(found)

    async def run(self) -> None:
        """Heal until cancelled."""
        await self._atlas.ready()
        while True:
            damaged = self.damaged()
            self._asked = {key: asked for key, asked in self._asked.items() if key in damaged}
            for (volume, number), chunks in damaged.items():
                await self._heal(volume, number, chunks)
            await asyncio.sleep(EVERY_S)

    async def _heal(self, volume: str, number: int, chunks: frozenset[int]) -> None:
        record = self._atlas.volumes.get(volume)
        if record is None:
            return
        host, now = rules.holder(record), asyncio.get_running_loop().time()
        if not host or record.state == "deleting":
            return
        at, generation, asked = self._asked.get((volume, number), (float("-inf"), 0, frozenset()))
        if now - at < AGAIN_S and chunks <= asked and generation == record.generation:
            return
        if self._gateways.generation_open(host, volume_number(volume)) != record.generation:
            return
        request = {
            "op": "heal",
            "volume": volume_number(volume),
            "generation": record.generation,
            "server": number,
            "chunks": sorted(chunks)[:CHUNKS_MAX],
        }
        try:
            await self._gateways.call(host, request, HEAL_TIMEOUT_S)
        except (PanguError, wire.Refused) as error:
            _log.info("not healed yet", volume=volume, server=f"cs-{number}", error=str(error))
            return
        self._asked[(volume, number)] = (now, record.generation, chunks)
        self.sent += 1
        _log.info("healing asked for", volume=volume, server=f"cs-{number}", chunks=len(chunks))
