"""Who still needs whom among volumes: pure questions on the records, asked before something is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.model.cluster import Volume
from yuntai.model.compute import Disk, Image, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.control.unit import Unit

CHUNK_BYTES = 64 * 1024 * 1024
GIB = 1024 * 1024 * 1024


def chunk_count(size_bytes: int) -> int:
    """Return how many chunks a volume has."""
    return -(-size_bytes // CHUNK_BYTES)


def needs_source(volume: Volume) -> bool:
    """Tell whether some chunk still reads from the volume's source."""
    return volume.source is not None and volume.hydrated_chunks < chunk_count(volume.size_bytes)


def hydrated_percent(volume: Volume | None) -> int:
    """Return how much of a volume is its own; 0 for one that is not there yet."""
    if volume is None:
        return 0
    if not needs_source(volume):
        return 100
    return 100 * volume.hydrated_chunks // chunk_count(volume.size_bytes)


def readers(volumes: Iterable[Volume], disks: Iterable[Disk], node: tuple[str, int], *, image: str = "") -> list[str]:
    """Return the disks that still read node ``(volume, node)``, or are being made of the image."""
    known = list(disks)
    by_volume = {disk.volume: disk.id for disk in known}
    reading = [
        by_volume.get(volume.id, volume.id)
        for volume in volumes
        if volume.source is not None and (volume.source.volume, volume.source.node) == node and needs_source(volume)
    ]
    return sorted({*reading, *makers_of(known, image=image)})


def makers_of(disks: Iterable[Disk], snapshot: str = "", *, image: str = "") -> list[str]:
    """Return the disks that are being made of a snapshot or an image."""
    return sorted(
        disk.id
        for disk in disks
        if disk.status == "Creating"
        and ((snapshot and disk.source_snapshot == snapshot) or (image and disk.source_image == image))
    )


async def readers_of_image(unit: Unit, image: Image) -> list[str]:
    """Return the disks that need an image."""
    return readers(await unit.list(Volume), await unit.list(Disk), (image.volume, image.node), image=image.id)


async def holders(unit: Unit, volume_id: str) -> list[str]:
    """Return the records for which a volume must stay: its disk, its snapshots, its images, clones that read it."""
    held = [disk.id for disk in await unit.list(Disk) if disk.volume == volume_id]
    held += [s.id for s in await unit.list(Snapshot) if s.volume == volume_id and s.status != "failed"]
    held += [
        i.id
        for i in await unit.list(Image)
        if i.status != "CreateFailed" and volume_id in (i.volume, *(disk.volume for disk in i.data_disks))
    ]
    held += [
        v.id
        for v in await unit.list(Volume)
        if v.source is not None and v.source.volume == volume_id and needs_source(v)
    ]
    return held
