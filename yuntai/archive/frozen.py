"""A snapshot that a gateway serves, as an export reads it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from yuntai.archive.errors import ArchiveError
from yuntai.archive.export import Change
from yuntai.archive.nbd import NbdClient

_CHANGE = re.compile(r"(\d+)\+(\d+)(z?)")


@dataclass(frozen=True, slots=True)
class Frozen:
    """A :class:`~yuntai.archive.export.Source`: bytes over NBD, changes from whoever can tell."""

    nbd: NbdClient
    ask: Callable[[int | None, int], Awaitable[Sequence[Change]]]

    async def changes(self, since: int | None, region: int) -> Sequence[Change]:
        """See :class:`~yuntai.archive.export.Source`."""
        return await self.ask(since, region)

    async def read(self, offset: int, length: int) -> bytes:
        """See :class:`~yuntai.archive.export.Source`."""
        return await self.nbd.read(offset, length)


def parse_changes(text: str) -> list[Change]:
    """Return what the API's ``DescribeSnapshotChanges`` says."""
    out = []
    for word in text.split():
        found = _CHANGE.fullmatch(word)
        if found is None:
            raise ArchiveError(f"the API's list of changes has {word!r}; do the versions differ?")
        out.append(Change(int(found[1]), int(found[2]), not found[3]))
    return out
