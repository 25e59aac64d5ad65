"""Whole imports and exports: image record, volume, socket, file. Used where etcd and the masters can be reached."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, TypeVar

from msgspec.structs import replace

from yuntai import log
from yuntai.image import files
from yuntai.image.errors import ImageError
from yuntai.image.probe import inspect
from yuntai.model.base import new_id, now_utc
from yuntai.model.cluster import VolumeSource
from yuntai.model.compute import Image
from yuntai.pangu.auxiliary import KEEP_EVERY_S, KEEP_S
from yuntai.pangu.errors import NotFound, PanguError
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from yuntai.pangu.client import PanguClient
    from yuntai.state import Store

T = TypeVar("T")
GIB = 1 << 30

_log = log.get("image")


async def import_image(
    store: Store,
    pangu: PanguClient,
    path: Path,
    name: str,
    *,
    host: str,
    image_id: str = "",
    account: str = "",
    description: str = "",
    os_type: Literal["linux", "windows"] = "linux",
    os_name: str = "",
    architecture: str = "x86_64",
    locate: Callable[[str], str] = str,
    progress: files.Progress = files.quiet,
) -> Image:
    """Import a raw or qcow2 file as an image and return its record, ``Available``.

    ``host`` is whose gateway does the work; ``locate`` turns the socket's path there into one that this process can
    open. The volume is as large as the image, in whole GiB. ``progress`` counts the bytes of the checksum and then
    those of the copy, ``whole`` being both. Raise :class:`ImageError` for the file's faults, ``PanguError`` and
    ``StateError`` for the cluster's; then the record says ``CreateFailed`` and the volume is deleted.
    When this process is killed the block store deletes the volume, some minutes later.
    """
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = await asyncio.to_thread(inspect, descriptor)
        size_gib = -(-file.size_bytes // GIB)
        image = Image(
            id=image_id or new_id("m"),
            account=account,
            name=name,
            description=description,
            os_type=os_type,
            os_name=os_name,
            architecture=architecture,
            volume=new_id("vol"),
            size_gib=size_gib,
            owner_alias="self" if account else "system",
            created=now_utc(),
        )
        await store.create(image)
        whole = file.file_bytes + file.size_bytes
        try:
            checksum = await _in_thread(lambda stop: files.checksum(descriptor, _counting(progress, 0, whole, stop)))
            await pangu.create_volume(size_gib * GIB, volume_id=image.volume, keep_s=KEEP_S)
            async with _kept(pangu, image.volume):
                attached = await pangu.attach(image.volume, host)
                counting = file.file_bytes
                await _in_thread(
                    lambda stop: files.write(
                        descriptor,
                        file,
                        locate(attached.socket),
                        image.volume,
                        _counting(progress, counting, whole, stop),
                    )
                )
                await pangu.detach(image.volume, host)
                node = await pangu.snapshot(image.volume, image.id)
                await pangu.keep(image.volume, 0)
            return await store.update(
                Image,
                image.id,
                lambda now: replace(now, status="Available", progress=100, node=node, checksum=checksum),
            )
        except BaseException as error:
            await asyncio.shield(_give_up(store, pangu, image, host, error))
            raise
    finally:
        os.close(descriptor)


async def export_image(
    pangu: PanguClient,
    volume: str,
    node: int,
    path: Path,
    *,
    host: str,
    locate: Callable[[str], str] = str,
    compress: bool = False,
    progress: files.Progress = files.quiet,
) -> None:
    """Write snapshot ``node`` of a volume to a qcow2 file, also while the volume is in use.

    A clone is made, read, and deleted: so the volume's own attachment is left alone. If this process is killed the
    block store deletes it, some minutes later.
    """
    clone = await pangu.create_volume(
        (await pangu.volume(volume)).size_bytes, source=VolumeSource(volume=volume, node=node), keep_s=KEEP_S
    )
    try:
        async with _kept(pangu, clone.id):
            attached = await pangu.attach(clone.id, host, read_only=True)
            await _in_thread(
                lambda stop: files.export(
                    locate(attached.socket), clone.id, path, _counting(progress, 0, 100, stop), compress=compress
                )
            )
    finally:
        await asyncio.shield(_discard(pangu, clone.id, host))


@asynccontextmanager
async def _kept(pangu: PanguClient, volume: str) -> AsyncIterator[None]:
    """While inside, a volume of ours is not deleted; when this process is killed there it soon is."""
    keeping = asyncio.create_task(_keep(pangu, volume))
    try:
        yield
    finally:
        keeping.cancel()


async def _keep(pangu: PanguClient, volume: str) -> None:
    """Say now and then that a volume of ours is still needed."""
    while True:
        await asyncio.sleep(KEEP_EVERY_S)
        try:
            await pangu.keep(volume, KEEP_S)
        except PanguError as error:
            _log.info("could not ask to keep the volume", volume=volume, error=str(error))


async def _in_thread(work: Callable[[threading.Event], T]) -> T:
    """Run blocking work in a thread; when this task is cancelled, have the work stop and wait until it has."""
    stop = threading.Event()
    task = asyncio.create_task(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _counting(progress: files.Progress, before: int, whole: int, stop: threading.Event) -> files.Progress:
    """Return a callback that adds what was done before, and stops the work when it is to stop."""

    def count(done: int, _part: int) -> None:
        if stop.is_set():
            raise ImageError("stopped")
        progress(before + done, whole)

    return count


async def _give_up(store: Store, pangu: PanguClient, image: Image, host: str, why: BaseException) -> None:
    """Remove what a failed import leaves, and say so in its record."""
    reason = str(why) or type(why).__name__
    _log.warning("import failed", image=image.id, error=reason)
    await _discard(pangu, image.volume, host)
    try:
        await store.update(Image, image.id, lambda now: replace(now, status="CreateFailed", reason=reason))
    except StateError as error:
        _log.warning("failed import not recorded", image=image.id, error=str(error))


async def _discard(pangu: PanguClient, volume: str, host: str) -> None:
    """Detach and delete a volume of ours; what cannot be removed is named in the log."""
    try:
        await pangu.detach(volume, host)
        await pangu.delete_volume(volume)
    except NotFound:
        return
    except PanguError as error:
        _log.warning("volume is left behind; delete it", volume=volume, error=str(error))
