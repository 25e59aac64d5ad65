"""The jobs' view of the real block store: its client's calls and errors in the terms of the protocol."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from yuntai.control.jobs.volumes import VolumesRefused, VolumesUnavailable
from yuntai.model.cluster import VolumeSource
from yuntai.pangu import handing
from yuntai.pangu.errors import Invalid, NotFound, PanguError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.pangu.client import PanguClient


class PanguVolumes:
    """A :class:`~yuntai.control.jobs.volumes.Volumes` on the master's HTTP API."""

    def __init__(self, client: PanguClient) -> None:
        self._client = client

    async def create_volume(self, volume: str, size_bytes: int, source: tuple[str, int] | None) -> None:
        """See the protocol."""
        origin = VolumeSource(volume=source[0], node=source[1]) if source else None
        with _told(f"creating the volume {volume}"):
            await self._client.create_volume(size_bytes, volume_id=volume, source=origin)

    async def delete_volume(self, volume: str) -> None:
        """See the protocol."""
        with _told(f"deleting the volume {volume}"):
            await self._client.delete_volume(volume)

    async def resize_volume(self, volume: str, size_bytes: int) -> None:
        """See the protocol."""
        with _told(f"resizing the volume {volume}"):
            # A resize that was given up may have happened all the same, and a volume does not shrink.
            present = await self._client.volume(volume)
            await self._client.resize(volume, max(size_bytes, present.size_bytes))

    async def take_snapshot(self, volume: str, token: str) -> int:
        """See the protocol."""
        with _told(f"taking a snapshot of the volume {volume}"):
            return await self._client.snapshot(volume, token)

    async def take_group(self, tokens: dict[str, str]) -> dict[str, int]:
        """See the protocol."""
        with _told(f"taking snapshots of the volumes {', '.join(tokens)}"):
            return await self._client.snapshot_group(tokens)

    async def roll_back(self, volume: str, snapshot: str, token: str) -> None:
        """See the protocol."""
        with _told(f"rolling the volume {volume} back"):
            await self._client.rollback(volume, snapshot, token)

    async def call_off(self, volumes: list[str], host: str, ticket: str) -> bool:
        """See the protocol."""
        with _told(f"calling off the hand-over of {', '.join(volumes)}"):
            return await handing.call_off(self._client, volumes, host, ticket)

    async def delete_snapshot(self, volume: str, token: str) -> None:
        """See the protocol."""
        with _told(f"deleting a snapshot of the volume {volume}"):
            await self._client.delete_snapshot(volume, token)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what was being done, and whether another try may help."""
    try:
        yield
    except (Invalid, NotFound) as error:
        raise VolumesRefused(f"{what}: {error}") from error
    except PanguError as error:
        raise VolumesUnavailable(f"{what}: {error}") from error
