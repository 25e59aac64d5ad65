"""Looks after an archive: is everything there and whole, and what may go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from yuntai.archive import runs
from yuntai.archive.crowd import side_by_side
from yuntai.archive.errors import ArchiveError, Damage
from yuntai.archive.export import Progress, quiet
from yuntai.archive.format import Index, Manifest, Run, Stored
from yuntai.archive.repository import Repository
from yuntai.archive.restore import byte_ranges, load_index, load_object, region_ranges

KEEP_FOR = timedelta(days=1)
"""An object without a manifest may belong to an export that is under way for so long."""


class Pruned(NamedTuple):
    """What a pruning did."""

    objects: int
    stored_bytes: int
    kept_young: int


async def verify(repository: Repository, manifests: Sequence[Manifest], *, progress: Progress = quiet) -> list[Damage]:
    """Read everything that snapshots stand on, each object once, and return all that is wrong with any of them."""
    state: dict[str, str] = {}  # object → what is wrong with it, "" if nothing
    whole: set[str] = set()  # indices without a fault
    damages: list[Damage] = []
    steps, step = sum(len(one.regions) for one in manifests), 0
    for manifest in manifests:
        for region in manifest.regions:
            if region.sha256 not in whole:
                index = await load_index(repository, region)
                if isinstance(index, str):
                    damages.append(Damage(manifest.snapshot, region.sha256, index, region_ranges(manifest, region)))
                else:
                    await _check(repository, index, state)
                    bad = [
                        Damage(manifest.snapshot, stored.sha256, state[stored.sha256], byte_ranges(region, needed))
                        for stored, needed in zip(index.objects, runs.by_object(index), strict=True)
                        if state[stored.sha256]
                    ]
                    damages += bad
                    if not bad:
                        whole.add(region.sha256)
            step += 1
            progress(step, steps)
    return damages


async def _check(repository: Repository, index: Index, state: dict[str, str]) -> None:
    async def one(item: tuple[Stored, list[Run]]) -> None:
        stored, needed = item
        data = await load_object(repository, stored, needed)
        state[stored.sha256] = data if isinstance(data, str) else ""

    everything = zip(index.objects, runs.by_object(index), strict=True)
    await side_by_side((item for item in everything if item[0].sha256 not in state), one)


async def prune(
    repository: Repository, *, remove: Sequence[str] = (), keep_for: timedelta = KEEP_FOR, progress: Progress = quiet
) -> Pruned:
    """Forget the snapshots ``remove``, then delete every object that no manifest names and that is old enough.

    Refused while a manifest or an index cannot be read: nobody could say then what it needs.
    """
    known, bad = await repository.manifests()
    there = {one.snapshot for one in known} | {one.snapshot for one in bad}
    for snapshot in remove:
        if snapshot not in there:
            raise ArchiveError(f"{repository.url} has no snapshot {snapshot!r}")
    for broken in bad:
        if broken.snapshot not in remove:
            raise ArchiveError(f"snapshot {broken.snapshot}: {broken.reason}; remove it or export it again first")
    keep = [one for one in known if one.snapshot not in remove]
    needed = await _needed(repository, keep, progress)
    for snapshot in remove:
        await repository.delete_manifest(snapshot)
    before = datetime.now(UTC) - keep_for
    objects = stored_bytes = young = 0
    async for some in repository.objects():
        loose = [one for one in some if one.sha256 not in needed]
        old = [one for one in loose if one.modified <= before]
        await repository.delete([one.sha256 for one in old])
        objects += len(old)
        young += len(loose) - len(old)
        stored_bytes += sum(one.stored_bytes for one in old)
    return Pruned(objects, stored_bytes, young)


async def _needed(repository: Repository, manifests: Sequence[Manifest], progress: Progress) -> set[str]:
    needed: set[str] = set()
    steps, step = sum(len(one.regions) for one in manifests), 0
    for manifest in manifests:
        for region in manifest.regions:
            if region.sha256 not in needed:
                index = await load_index(repository, region)
                if isinstance(index, str):
                    raise ArchiveError(
                        f"snapshot {manifest.snapshot}: index {region.sha256} {index}; "
                        "remove the snapshot or export it again first"
                    )
                needed.add(region.sha256)
                needed.update(one.sha256 for one in index.objects)
            step += 1
            progress(step, steps)
    return needed
