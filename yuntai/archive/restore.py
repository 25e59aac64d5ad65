"""Reads a snapshot out of an archive, into a blank volume."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from yuntai.archive import format as form
from yuntai.archive import runs
from yuntai.archive.crowd import side_by_side
from yuntai.archive.errors import ArchiveError, Damage, DamagedError, UnusableError
from yuntai.archive.export import Progress, quiet
from yuntai.archive.format import BLOCK_BYTES, OBJECT_BLOCKS, REGION_BYTES, Index, Manifest, Region, Run, Stored
from yuntai.archive.repository import Repository


class Target(Protocol):
    """A volume that reads as zeros wherever nothing was written."""

    async def write(self, offset: int, data: bytes) -> None:
        """Write bytes."""

    async def flush(self) -> None:
        """Make what was written durable."""


async def find(repository: Repository, snapshot: str = "") -> Manifest:
    """Return the manifest of a snapshot, by id or name; without one that of the newest."""
    there, bad = await repository.manifests()
    for broken in bad:
        if snapshot in ("", broken.snapshot):
            raise ArchiveError(f"{repository.url}: snapshot {broken.snapshot}: {broken.reason}")
    found = [one for one in there if snapshot in ("", one.snapshot, one.name)]
    if not found:
        known = ", ".join(one.snapshot for one in there) or "none at all"
        raise ArchiveError(f"{repository.url} has no snapshot {snapshot!r}; it has {known}".replace(" ''", ""))
    return found[-1]


async def restore(
    repository: Repository,
    manifest: Manifest,
    target: Target,
    *,
    skip_damaged: bool = False,
    progress: Progress = quiet,
) -> list[Damage]:
    """Write a snapshot into ``target``, every object checked before a byte of it is written, and flush.

    Damage ends it with :class:`DamagedError`, or, with ``skip_damaged``, leaves zeros in its place and is returned.
    """
    damages: list[Damage] = []

    def damaged(damage: Damage) -> None:
        damages.append(damage)
        if not skip_damaged:
            raise DamagedError(damages)

    for region in manifest.regions:
        index = await load_index(repository, region)
        if isinstance(index, str):
            damaged(Damage(manifest.snapshot, region.sha256, index, region_ranges(manifest, region)))
            continue
        await _region(repository, manifest, region, index, target, damaged, progress)
    await target.flush()
    progress(manifest.size_bytes, manifest.size_bytes)
    return damages


async def _region(
    repository: Repository,
    manifest: Manifest,
    region: Region,
    index: Index,
    target: Target,
    damaged: Callable[[Damage], None],
    progress: Progress,
) -> None:
    done = 0

    async def one(item: tuple[Stored, list[Run]]) -> None:
        nonlocal done
        stored, needed = item
        data = await load_object(repository, stored, needed)
        if isinstance(data, str):
            damaged(Damage(manifest.snapshot, stored.sha256, data, byte_ranges(region, needed)))
        else:
            for block, blocks, _, at in needed:
                part = data[at * BLOCK_BYTES : (at + blocks) * BLOCK_BYTES]
                await target.write(region.number * REGION_BYTES + block * BLOCK_BYTES, part)
        done += 1
        position = region.number * REGION_BYTES + REGION_BYTES * done // len(index.objects)
        progress(min(position, manifest.size_bytes), manifest.size_bytes)

    await side_by_side(zip(index.objects, runs.by_object(index), strict=True), one)


async def load_index(repository: Repository, region: Region) -> Index | str:
    """Return a region's index, or what is wrong with it."""
    try:
        packed = await repository.get(region.sha256, form.INDEX_BYTES_MAX)
        return await asyncio.to_thread(form.decode_index, packed)
    except UnusableError as error:
        return str(error)


async def load_object(repository: Repository, stored: Stored, needed: Sequence[Run]) -> bytes | str:
    """Return the blocks of a data object, or what is wrong with it."""
    try:
        packed = await repository.get(stored.sha256, 2 * OBJECT_BLOCKS * BLOCK_BYTES)
        data = await asyncio.to_thread(form.decompress, packed, OBJECT_BLOCKS * BLOCK_BYTES)
    except UnusableError as error:
        return str(error)
    if len(data) < BLOCK_BYTES * max(at + blocks for _, blocks, _, at in needed):
        return "is shorter than its index says"
    return data


def byte_ranges(region: Region, needed: Iterable[Run]) -> tuple[tuple[int, int], ...]:
    """Return the bytes of the disk that runs of a region are."""
    start = region.number * REGION_BYTES
    blocks = runs.merged((block, blocks) for block, blocks, _, _ in needed)
    return tuple((start + block * BLOCK_BYTES, count * BLOCK_BYTES) for block, count in blocks)


def region_ranges(manifest: Manifest, region: Region) -> tuple[tuple[int, int], ...]:
    """Return the bytes of the disk that a region is."""
    start = region.number * REGION_BYTES
    return ((start, min(REGION_BYTES, manifest.size_bytes - start)),)
