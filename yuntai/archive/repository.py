"""The archive's objects and manifests, over an object store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from yuntai.archive import format as form
from yuntai.archive.errors import ArchiveError, UnusableError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

OBJECTS, SNAPSHOTS = "objects/", "snapshots/"


class Listed(NamedTuple):
    """An object that is there."""

    sha256: str
    stored_bytes: int
    modified: datetime


class Unreadable(NamedTuple):
    """A manifest that cannot be used."""

    snapshot: str
    reason: str


class Repository:
    """An archive at one place. Every error of the store comes as :class:`ArchiveError` with the place in it."""

    def __init__(self, store: ObjectStore, url: str = "memory:///") -> None:
        self._store = store
        self.url = url

    @classmethod
    def open(cls, url: str) -> Repository:
        """Return the archive at ``file:///…``, or ``s3://bucket/…`` with credentials from ``AWS_…``, or the like."""
        parts = urlsplit(url)
        try:
            if parts.scheme == "file":
                if parts.netloc or not parts.path.strip("/"):
                    raise ArchiveError(f"{url}: write file:///folder, with three slashes")
                return cls(LocalStore(unquote(parts.path), mkdir=True), url)
            if not parts.scheme:
                raise ArchiveError(f"{url!r} is no URL; write file:///folder or s3://bucket/prefix")
            return cls(from_url(url), url)
        except (BaseError, OSError, ValueError) as error:
            raise ArchiveError(f"{url}: {_words(error)}") from error

    async def has(self, sha256: str, stored_bytes: int) -> bool:
        """Return whether an object is there with its right size."""
        try:
            found = await obstore.head_async(self._store, _object_path(sha256))
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise self._error(error) from error
        return found["size"] == stored_bytes

    async def put(self, data: bytes) -> str:
        """Write an object and return its name."""
        name = form.sha256(data)
        await self._put(_object_path(name), data)
        return name

    async def get(self, sha256: str, bytes_max: int) -> bytes:
        """Return an object's bytes. What is missing, or not what its name says, raises :class:`UnusableError`."""
        data = await self._get(_object_path(sha256), bytes_max)
        if form.sha256(data) != sha256:
            raise UnusableError("is damaged: its bytes are not those that its name is the SHA-256 of")
        return data

    async def delete(self, sha256: list[str]) -> None:
        """Remove objects."""
        await self._delete([_object_path(name) for name in sha256])

    async def objects(self) -> AsyncIterator[list[Listed]]:
        """Yield every object there is, some at a time."""
        try:
            async for some in obstore.list(self._store, OBJECTS, chunk_size=1000):
                yield [
                    Listed(name, one["size"], one["last_modified"])
                    for one in some
                    if (name := one["path"].rpartition("/")[2]) and one["path"] == _object_path(name)
                ]
        except (BaseError, OSError) as error:
            raise self._error(error) from error

    async def manifests(self) -> tuple[list[form.Manifest], list[Unreadable]]:
        """Return the manifests, those exported first in front, and those that are damaged."""
        good: list[form.Manifest] = []
        bad: list[Unreadable] = []
        for path in await self._manifest_paths():
            snapshot, sha256 = _split(path)
            try:
                data = await self._get(path, form.MANIFEST_BYTES_MAX)
                if form.sha256(data) != sha256:
                    raise UnusableError("is damaged: its bytes are not those that its name is the SHA-256 of")
                good.append(form.decode_manifest(data))
            except ArchiveError as error:
                bad.append(Unreadable(snapshot, f"manifest {path} {error}"))
        # Of a snapshot that was exported twice the newer export counts.
        newest = {one.snapshot: one for one in sorted(good, key=lambda one: one.exported)}
        return sorted(newest.values(), key=lambda one: one.exported), [one for one in bad if one.snapshot not in newest]

    async def put_manifest(self, manifest: form.Manifest) -> None:
        """Make a snapshot count, after everything that it names is durable; an older manifest of it goes."""
        await self._settle()
        data = form.encode_manifest(manifest)
        path = f"{SNAPSHOTS}{manifest.snapshot}.{form.sha256(data)}.json"
        await self._put(path, data)
        await self._settle()
        before = [old for old in await self._manifest_paths() if _split(old)[0] == manifest.snapshot and old != path]
        await self._delete(before)

    async def delete_manifest(self, snapshot: str) -> bool:
        """Forget a snapshot; return whether there was one. Its objects go with the next pruning."""
        paths = [path for path in await self._manifest_paths() if _split(path)[0] == snapshot]
        await self._delete(paths)
        return bool(paths)

    async def _manifest_paths(self) -> list[str]:
        found: list[str] = []
        try:
            async for some in obstore.list(self._store, SNAPSHOTS, chunk_size=1000):
                found += [one["path"] for one in some if one["path"].endswith(".json")]
        except (BaseError, OSError) as error:
            raise self._error(error) from error
        return sorted(found)

    async def _put(self, path: str, data: bytes) -> None:
        try:
            await obstore.put_async(self._store, path, data, use_multipart=False)
        except (BaseError, OSError) as error:
            raise self._error(error) from error

    async def _get(self, path: str, bytes_max: int) -> bytes:
        try:
            answer = await obstore.get_async(self._store, path)
            if answer.meta["size"] > bytes_max:
                raise UnusableError(f"has {answer.meta['size']} bytes, more than {bytes_max}")
            return bytes(await answer.bytes_async())
        except FileNotFoundError as error:
            raise UnusableError("is missing") from error
        except (BaseError, OSError) as error:
            if isinstance(self._store, LocalStore):  # one file on a bad sector: the others may well be read
                raise UnusableError(f"cannot be read: {_words(error)}") from error
            raise self._error(error) from error

    async def _delete(self, paths: list[str]) -> None:
        for start in range(0, len(paths), 1000):
            try:
                await obstore.delete_async(self._store, paths[start : start + 1000])
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise self._error(error) from error

    async def _settle(self) -> None:
        """Have a folder's files on the disk: nothing but this keeps a power cut from leaving empty ones."""
        if isinstance(self._store, LocalStore):
            await asyncio.to_thread(os.sync)

    def _error(self, error: Exception) -> ArchiveError:
        return ArchiveError(f"{self.url}: {_words(error)}")


def _words(error: Exception) -> str:
    """Return what a person needs of the store's error, which has pages of internals behind it."""
    return str(error).partition("\n")[0] or type(error).__name__


def _object_path(sha256: str) -> str:
    return f"{OBJECTS}{sha256[:2]}/{sha256}"


def _split(path: str) -> tuple[str, str]:
    snapshot, _, sha256 = path.rpartition("/")[2].removesuffix(".json").rpartition(".")
    return snapshot, sha256
