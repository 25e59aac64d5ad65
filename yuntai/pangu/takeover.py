"""Hands volumes over while their guest moves: places kept at the destination's gateway, and who gets them in the end.

The rules are in :mod:`yuntai.pangu.takeover_rules`, the gateway's side in ``crates/volume/src/gateway/standby.rs``.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from yuntai import log
from yuntai.model.cluster import Volume
from yuntai.pangu import rules, takeover_rules, wire
from yuntai.pangu.errors import Conflict, Invalid, NotFound, PanguError, Unavailable
from yuntai.pangu.requests import Attached, nbd_uri
from yuntai.pangu.units import volume_id, volume_number
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.gateways import Gateways
    from yuntai.pangu.office import Office
    from yuntai.pangu.serving import Serving

GATEWAY_TIMEOUT_S = 5.0
CALL_OFF_ATTEMPTS = 16

_log = log.get("takeover")


class Takeover:
    """Operations of the HTTP API, and the answer to a gateway whose client wants a volume that is to come."""

    def __init__(self, office: Office, atlas: Atlas, gateways: Gateways, serving: Serving) -> None:
        self._office = office
        self._atlas = atlas
        self._gateways = gateways
        self._serving = serving

    async def announce(self, volume: str, host: str, ticket: str) -> Attached:
        """Have the gateway of ``host`` keep a place for the volume, which its present holder goes on writing."""
        if not host or not ticket:
            raise Invalid("`host` and `ticket` must not be empty: who is to take the volume, in which migration?")
        self._gateways.record(host)
        async with self._office.lock(volume):
            announced = await self._office.change(volume, lambda now: takeover_rules.announce(now, host, ticket))
            socket = await self._keep_place(announced)
        _log.info("hand-over announced", volume=volume, source=announced.host, destination=host, ticket=ticket)
        return Attached(volume=volume, generation=0, socket=socket, uri=nbd_uri(volume, socket))

    async def take(self, volume: str, host: str, ticket: str) -> Attached:
        """Give the volume to the destination under a new generation; the source is fenced, and told."""
        async with AsyncExitStack() as held:
            former = rules.holder((await self._office.volume(volume)).value)
            leaving = self._gateways.handover.leave(former, volume_number(volume)) if former != host else nullcontext()
            with leaving:
                await held.enter_async_context(self._office.lock(volume))
            was = (await self._office.volume(volume)).value
            granted = await self._office.change(volume, lambda now: takeover_rules.take(now, host, ticket))
            if granted.generation != was.generation:
                _log.info("volume handed over", volume=volume, source=was.host, destination=host, ticket=ticket)
                self._serving.dismiss_soon(was)
            socket = await self._serving.open(granted)
        return Attached(volume=volume, generation=granted.generation, socket=socket, uri=nbd_uri(volume, socket))

    async def wanted(self, host: str, number: int, ticket: str) -> dict[str, Any]:
        """Answer a gateway: its guest reads or writes, so it runs there."""
        try:
            await self.take(volume_id(number), host, ticket)
        except (Conflict, NotFound) as error:
            _log.warning("volume not handed over", volume=volume_id(number), host=host, error=str(error))
            return {"answer": "fenced"}
        return {"answer": "ok"}

    async def call_off(self, volumes: Sequence[str], host: str, ticket: str) -> bool:
        """End a migration that was not made; return whether it is too late because the destination has a volume."""
        for _ in range(CALL_OFF_ATTEMPTS):
            found = [await self._office.volume(volume) for volume in volumes]
            ended = takeover_rules.call_off([one.value for one in found], host, ticket)
            if ended is None:
                return True
            # All are compared, the unchanged too: none of them may be taken while the others are called off.
            if await self._office.write(found, ended):
                _log.info("hand-over called off", volumes=list(volumes), destination=host, ticket=ticket)
                for volume in volumes:
                    await self._end_place(host, volume, ticket)
                return False
        raise Unavailable(f"the volumes {', '.join(volumes)} kept changing; try again")

    async def reconcile(self, host: str) -> None:
        """Make the places that a gateway keeps those of the records: it, or this master, may have started anew."""
        status = await self._gateways.refresh(host)
        there = {volume_id(int(one["volume"])): str(one["ticket"]) for one in status.get("standbys", ())}
        announced = {one.id for one in self._atlas.volumes.values() if one.handover_to == host}
        for volume in sorted(announced | set(there)):
            try:
                async with self._office.lock(volume):
                    await self._match(host, volume, there.get(volume, ""))
            except (PanguError, StateError) as error:
                _log.warning("place of a volume not kept yet", gateway=host, volume=volume, error=str(error))

    async def _match(self, host: str, volume: str, ticket: str) -> None:
        found = await self._office.store.get(Volume, volume)
        record = found.value if found else None
        if record is None or record.handover_to != host:
            if ticket:
                await self._end_place(host, volume, ticket)
        elif record.handover_ticket != ticket:
            await self._keep_place(record)

    async def _keep_place(self, volume: Volume) -> str:
        request = {
            "op": "standby",
            "volume": volume_number(volume.id),
            "ticket": volume.handover_ticket,
            "size_bytes": volume.size_bytes,
            "export": volume.id,
        }
        try:
            opened = await self._gateways.call(volume.handover_to, request, GATEWAY_TIMEOUT_S)
        except wire.Refused as error:
            raise Conflict(f"the gateway of {volume.handover_to} keeps no place for {volume.id}: {error}") from error
        return str(opened["socket"])

    async def _end_place(self, host: str, volume: str, ticket: str) -> None:
        """Tell a gateway; one that does not hear is told when it is connected again."""
        request = {"op": "end_standby", "volume": volume_number(volume), "ticket": ticket}
        try:
            await self._gateways.call(host, request, GATEWAY_TIMEOUT_S)
        except (wire.Refused, Unavailable, NotFound) as error:
            _log.info("gateway not told that a volume will not come", gateway=host, volume=volume, error=str(error))
