"""What jobs need of the block store, as a protocol: the real client is behind :mod:`yuntai.control.jobs.pangu`."""

from __future__ import annotations

from typing import Protocol


class VolumesUnavailable(Exception):  # noqa: N818 — says what is, as the store's errors do
    """The block store did not answer, or could not do it now. Worth another try."""


class VolumesRefused(Exception):  # noqa: N818
    """The block store will not do it, however often it is asked."""


class Volumes(Protocol):
    """Every call is idempotent: after a crash it is made again with the same arguments."""

    async def create_volume(self, volume: str, size_bytes: int, source: tuple[str, int] | None) -> None:
        """Make a volume with this id, blank or over a node of another volume; one that is there is left as it is."""

    async def delete_volume(self, volume: str) -> None:
        """Delete a volume; one that is not there is no error."""

    async def resize_volume(self, volume: str, size_bytes: int) -> None:
        """Let a volume be at least this large."""

    async def take_snapshot(self, volume: str, token: str) -> int:
        """Freeze the volume's present contents; return the node. The same token gives the same node."""

    async def take_group(self, tokens: dict[str, str]) -> dict[str, int]:
        """Freeze several volumes (volume → token) at one moment; return volume → node. The same tokens, the same."""

    async def roll_back(self, volume: str, snapshot: str, token: str) -> None:
        """Let a volume go on from the node that was taken with the token ``snapshot``; done once for each ``token``."""

    async def call_off(self, volumes: list[str], host: str, ticket: str) -> bool:
        """End the announced hand-over of volumes to ``host``; return whether it is too late: ``host`` has taken one."""

    async def delete_snapshot(self, volume: str, token: str) -> None:
        """Let go of the node that was taken with this token; none is no error."""
