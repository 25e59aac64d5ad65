"""Writes a snapshot into an archive: what changed since one that is there already, or all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from yuntai.archive import format as form
from yuntai.archive import runs
from yuntai.archive.crowd import side_by_side
from yuntai.archive.errors import ArchiveError, NoBaseError, UnusableError
from yuntai.archive.format import BLOCK_BYTES, REGION_BLOCKS, REGION_BYTES, Index, Manifest, Region, Stored
from yuntai.archive.repository import Repository

Progress = Callable[[int, int], None]
"""Called with the bytes of the disk that are done and its size."""

_ZEROS = bytes(BLOCK_BYTES)


class Change(NamedTuple):
    """Blocks of a region that may differ; ``data`` is false where they are known to be zeros."""

    block: int
    blocks: int
    data: bool = True


class Source(Protocol):
    """A frozen snapshot of a volume."""

    async def changes(self, since: int | None, region: int) -> Sequence[Change]:
        """Return what may differ from node ``since`` of the volume in a region; without it, all that may be data.

        Raise :class:`NoBaseError` if nobody knows what that node was.
        """

    async def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a manifest says of its snapshot; see :class:`~yuntai.archive.format.Manifest`."""

    snapshot: str
    volume: str
    node: int
    size_bytes: int
    name: str = ""
    disk: str = ""
    kind: str = "data"
    taken: str = ""


def quiet(_done_bytes: int, _size_bytes: int) -> None:
    """Take progress and say nothing."""


async def export(
    repository: Repository, source: Source, about: About, *, again: bool = False, progress: Progress = quiet
) -> Manifest:
    """Write a snapshot and return its manifest; if it is there already, return that.

    ``again`` trusts nothing that is there: everything is read and written anew, which also heals a damaged archive.
    """
    form.check_name(about.snapshot)
    there, _ = await repository.manifests()
    if not again:
        for manifest in there:
            if manifest.snapshot == about.snapshot:
                return _same(manifest, about)
    bases = [one for one in reversed(there) if one.volume == about.volume and one.node != about.node and not again]
    for base in bases:
        try:
            return await _Export(repository, source, about, base, progress).run()
        except NoBaseError:
            continue
    return await _Export(repository, source, about, None, progress, again=again).run()


def _same(manifest: Manifest, about: About) -> Manifest:
    if (manifest.volume, manifest.node) != (about.volume, about.node):
        raise ArchiveError(
            f"the archive has a snapshot {about.snapshot} of {manifest.volume}, node {manifest.node}, which is another "
            f"one than node {about.node} of {about.volume}; use another folder or prefix for this cloud"
        )
    return manifest


@dataclass(slots=True)
class _Export:
    repository: Repository
    source: Source
    about: About
    base: Manifest | None
    progress: Progress
    again: bool = False
    written_bytes: int = 0
    stored_bytes: int = 0

    async def run(self) -> Manifest:
        about, base = self.about, self.base
        had = {region.number: region for region in base.regions} if base else {}
        regions: list[Region] = []
        for number in range(-(-about.size_bytes // REGION_BYTES)):
            region = await self._region(number, had.get(number))
            if region is not None:
                regions.append(region)
            self.progress(min((number + 1) * REGION_BYTES, about.size_bytes), about.size_bytes)
        manifest = Manifest(
            snapshot=about.snapshot,
            name=about.name,
            disk=about.disk,
            kind=about.kind,
            taken=about.taken,
            exported=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            volume=about.volume,
            node=about.node,
            parent=base.snapshot if base else "",
            size_bytes=about.size_bytes,
            written_bytes=self.written_bytes,
            stored_bytes=self.stored_bytes,
            regions=tuple(regions),
        )
        await self.repository.put_manifest(manifest)
        return manifest

    async def _region(self, number: int, had: Region | None) -> Region | None:
        """Bring one region into the archive; None if it is all zeros."""
        end = min(REGION_BLOCKS, self.about.size_bytes // BLOCK_BYTES - number * REGION_BLOCKS)
        listed = await self.source.changes(self.base.node if self.base else None, number)
        changed = [(one.block, min(one.blocks, end - one.block)) for one in listed]
        # A disk that was larger when the base was taken: beyond this one's end there is nothing.
        gone = [(end, REGION_BLOCKS - end)] if self.base and self.base.size_bytes > self.about.size_bytes else []
        if not runs.merged(changed + gone):
            if had is not None and not await self.repository.has(had.sha256, had.stored_bytes):
                raise NoBaseError
            return had
        before = await self._index(had) if had else Index()
        data = runs.merged((one.block, min(one.blocks, end - one.block)) for one in listed if one.data)
        written = await self._write(number, data)
        index = runs.overlay(before, runs.merged(changed + gone), written)
        if not index.runs:
            return None
        packed = await asyncio.to_thread(form.encode_index, index)
        stored = await self._put(packed)
        return Region(number, stored.sha256, stored.stored_bytes)

    async def _index(self, had: Region) -> Index:
        try:
            packed = await self.repository.get(had.sha256, form.INDEX_BYTES_MAX)
            return await asyncio.to_thread(form.decode_index, packed)
        except UnusableError as error:
            raise NoBaseError from error

    async def _write(self, number: int, data: Sequence[runs.Range]) -> list[tuple[Stored, list[runs.Range]]]:
        planned = runs.pieces(data)
        done = 0

        async def one(piece: list[runs.Range]) -> tuple[Stored, list[runs.Range]] | None:
            nonlocal done
            try:
                return await self._object(number * REGION_BYTES, piece)
            finally:
                done += 1
                part = number * REGION_BYTES + REGION_BYTES * done // len(planned)
                self.progress(min(part, self.about.size_bytes), self.about.size_bytes)

        made = await side_by_side(planned, one)
        return [written for written in made if written is not None]

    async def _object(self, start: int, piece: list[runs.Range]) -> tuple[Stored, list[runs.Range]] | None:
        """Read one object's blocks and write those that are not zeros; None if all are."""
        parts: list[bytes] = []
        kept: list[runs.Range] = []
        for block, blocks in piece:
            data = await self.source.read(start + block * BLOCK_BYTES, blocks * BLOCK_BYTES)
            for first, count in _not_zero(data):
                parts.append(data[first * BLOCK_BYTES : (first + count) * BLOCK_BYTES])
                kept.append((block + first, count))
        if not kept:
            return None
        whole = b"".join(parts)
        self.written_bytes += len(whole)
        return await self._put(await asyncio.to_thread(form.compress, whole)), kept

    async def _put(self, packed: bytes) -> Stored:
        name = await asyncio.to_thread(form.sha256, packed)
        if self.again or not await self.repository.has(name, len(packed)):
            await self.repository.put(packed)
            self.stored_bytes += len(packed)
        return Stored(name, len(packed))


def _not_zero(data: bytes) -> list[runs.Range]:
    """Return the runs of blocks that are not all zeros."""
    out: list[runs.Range] = []
    for block in range(len(data) // BLOCK_BYTES):
        if data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] == _ZEROS:
            continue
        if out and sum(out[-1]) == block:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((block, 1))
    return out
