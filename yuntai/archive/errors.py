"""What can be wrong with an archive, in words that name the snapshot and the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ArchiveError(Exception):
    """An archive cannot be read or written; the text says what and why."""


class UnusableError(ArchiveError):
    """One object is missing or damaged; the text goes behind its name. The archive as a whole answers."""


@dataclass(frozen=True, slots=True)
class Damage:
    """An object of a snapshot is missing, or is not what it was."""

    snapshot: str
    object: str
    reason: str
    ranges: tuple[tuple[int, int], ...]
    """What of the disk it held: (first byte, bytes), neighbours merged."""

    def __str__(self) -> str:
        shown = ", ".join(f"{start}-{start + length - 1}" for start, length in self.ranges[:8])
        more = f" and {len(self.ranges) - 8} more ranges" if len(self.ranges) > 8 else ""
        return f"snapshot {self.snapshot}: object {self.object} {self.reason}; it holds bytes {shown}{more}"


class DamagedError(ArchiveError):
    """Something that was to be read is damaged."""

    def __init__(self, damages: Sequence[Damage]) -> None:
        super().__init__("; ".join(str(damage) for damage in damages))
        self.damages = tuple(damages)


class NoBaseError(Exception):
    """The source cannot say what changed since that snapshot; everything must be read."""
