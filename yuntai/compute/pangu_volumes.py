"""The agent's view of the real block store: its client's calls and errors in the terms of the seam."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from yuntai.compute.volumes import Export, MovedError, VolumeError
from yuntai.pangu import handing
from yuntai.pangu.client import PanguClient
from yuntai.pangu.errors import Conflict, NotFound, PanguError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from yuntai.config import Config


class PanguVolumes:
    """See :class:`yuntai.compute.volumes.Volumes`. Use it with ``async with``."""

    def __init__(self, config: Config) -> None:
        self._client = PanguClient.from_config(config)

    async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
        """Attach through the master."""
        try:
            attached = await self._client.attach(volume, host, if_generation=if_generation)
        except Conflict as error:
            kind = MovedError if if_generation != -1 else VolumeError
            raise kind(f"volume {volume} is not attached to {host}: {error}") from error
        except PanguError as error:
            raise VolumeError(f"volume {volume} is not attached to {host}: {error}") from error
        name = unquote(urlsplit(attached.uri).path.removeprefix("/"))
        return Export(socket=attached.socket, name=name, generation=attached.generation)

    async def detach(self, volume: str, host: str) -> None:
        """Detach through the master; a volume that is gone, or is another host's by now, is detached."""
        try:
            if (await self._client.volume(volume)).host in ("", host):
                await self._client.detach(volume, host)
        except NotFound:
            return
        except PanguError as error:
            raise VolumeError(f"volume {volume} is not detached from {host}: {error}") from error

    async def announce(self, volume: str, host: str, ticket: str) -> None:
        """Announce to the master."""
        try:
            await handing.announce(self._client, volume, host, ticket)
        except PanguError as error:
            raise VolumeError(f"no place is kept for volume {volume} at {host}: {error}") from error

    async def take(self, volume: str, host: str, ticket: str) -> None:
        """Take from the master."""
        try:
            await handing.take(self._client, volume, host, ticket)
        except (Conflict, NotFound) as error:
            raise MovedError(f"volume {volume} does not come to {host}: {error}") from error
        except PanguError as error:
            raise VolumeError(f"volume {volume} is not taken by {host}: {error}") from error

    async def renew(self, volume: str) -> None:
        """Ask the master to have the gateway's clients come again."""
        try:
            await self._client.renew(volume)
        except PanguError as error:
            raise VolumeError(f"the clients of volume {volume} are not renewed: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
