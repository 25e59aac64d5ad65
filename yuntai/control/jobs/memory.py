"""The block store in memory, for tests of jobs: it counts what exists, so that a leak shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from yuntai.control.jobs.volumes import VolumesRefused


@dataclass(slots=True)
class MemoryVolume:
    """One volume: its size, what it was made over, and its snapshots by token."""

    size_bytes: int
    source: tuple[str, int] | None = None
    snapshots: dict[str, int] = field(default_factory=dict)
    head: int = 1
    based_on: str = ""  # the snapshot that its contents were last rolled back to
    rolled_back: list[str] = field(default_factory=list)


class MemoryVolumes:
    """A :class:`~yuntai.control.jobs.volumes.Volumes` with the idempotence of the real one."""

    def __init__(self) -> None:
        self.volumes: dict[str, MemoryVolume] = {}
        self.taken_by: dict[str, str] = {}  # volume → the host that took it when its guest was moved there

    async def create_volume(self, volume: str, size_bytes: int, source: tuple[str, int] | None) -> None:
        """See the protocol."""
        if source is not None and source[0] not in self.volumes:
            raise VolumesRefused(f"the source {source[0]} does not exist")
        there = self.volumes.setdefault(volume, MemoryVolume(size_bytes, source))
        if (there.size_bytes, there.source) != (size_bytes, source):
            raise VolumesRefused(f"{volume} exists with another size or source")

    async def delete_volume(self, volume: str) -> None:
        """See the protocol."""
        self.volumes.pop(volume, None)

    async def resize_volume(self, volume: str, size_bytes: int) -> None:
        """See the protocol."""
        there = self._need(volume)
        there.size_bytes = max(there.size_bytes, size_bytes)

    async def take_snapshot(self, volume: str, token: str) -> int:
        """See the protocol."""
        there = self._need(volume)
        if token not in there.snapshots:
            there.snapshots[token] = there.head
            there.head += 1
        return there.snapshots[token]

    async def take_group(self, tokens: dict[str, str]) -> dict[str, int]:
        """See the protocol."""
        for volume in tokens:
            self._need(volume)
        return {volume: await self.take_snapshot(volume, token) for volume, token in tokens.items()}

    async def roll_back(self, volume: str, snapshot: str, token: str) -> None:
        """See the protocol."""
        there = self._need(volume)
        if token in there.rolled_back:
            return
        if snapshot not in there.snapshots:
            raise VolumesRefused(f"{volume} has no snapshot {snapshot}")
        there.rolled_back.append(token)
        there.based_on = snapshot
        there.head += 1

    async def call_off(self, volumes: list[str], host: str, ticket: str) -> bool:
        """See the protocol."""
        del ticket
        return any(self.taken_by.get(volume) == host for volume in volumes)

    async def delete_snapshot(self, volume: str, token: str) -> None:
        """See the protocol."""
        there = self.volumes.get(volume)
        if there is not None:
            there.snapshots.pop(token, None)

    def _need(self, volume: str) -> MemoryVolume:
        if volume not in self.volumes:
            raise VolumesRefused(f"{volume} does not exist")
        return self.volumes[volume]
