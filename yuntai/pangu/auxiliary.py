"""Deletes auxiliary volumes that nobody asks to keep any more: whoever made them, to read one say, was killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.model.base import now_utc
from yuntai.pangu.errors import PanguError
from yuntai.state import StateError

if TYPE_CHECKING:
    from yuntai.model.cluster import Volume
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.office import Office
    from yuntai.pangu.volumes import Volumes

KEEP_S = 300
"""Whoever needs such a volume says so for this long at a time,"""
KEEP_EVERY_S = 5.0
"""and this often: a question may be lost, and a new leader asks for it soon."""
EVERY_S = 5.0
FIRST_S = 20.0
"""While no master led nobody could ask; whoever is alive does so within this."""

_log = log.get("auxiliary")


class Auxiliary:
    """A loop over the volumes that are kept for a time only."""

    def __init__(self, office: Office, atlas: Atlas, volumes: Volumes) -> None:
        self._office = office
        self._atlas = atlas
        self._volumes = volumes

    async def run(self) -> None:
        """Look until cancelled."""
        await self._atlas.ready()
        await asyncio.sleep(FIRST_S)
        while True:
            now = now_utc()
            for volume in [one for one in self._atlas.volumes.values() if is_over(one, now)]:
                await self._delete(volume.id)
            await asyncio.sleep(EVERY_S)

    async def _delete(self, volume_id: str) -> None:
        try:
            volume = (await self._office.volume(volume_id)).value
            if not is_over(volume, now_utc()):
                return
            _log.info("nobody keeps it any more", volume=volume_id, kept_until=volume.kept_until)
            if volume.state == "attached":
                await self._volumes.detach(volume_id, volume.host, force=True)
            await self._volumes.delete(volume_id)
        except (PanguError, StateError) as error:
            _log.info("auxiliary volume not deleted yet", volume=volume_id, error=str(error))


def is_over(volume: Volume, now: str) -> bool:
    """Return whether a volume was to be kept for a time, and that is over."""
    return "" < volume.kept_until < now and volume.state != "deleting"
