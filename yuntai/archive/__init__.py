"""Snapshots in an object store or a folder: written incrementally, verified, and restored into another cloud.

An archive holds objects whose name is the SHA-256 of their bytes, and one manifest for each snapshot::

    objects/ab/abcdef…                 data or an index, as stored; `sha256sum` of the file is its name
    snapshots/<snapshot>.<sha256>.json the manifest of a snapshot, with the SHA-256 of its own bytes in its name

**Format 1.** A block has 4,096 bytes, a region 1,048,576 blocks (4 GiB). A *manifest* is JSON (:class:`Manifest`):
what the snapshot is, and for each region that is not all zeros the SHA-256 and size of its index. An *index* is JSON
(:class:`Index`), compressed with zstd: the data objects of the region, and *runs* ``[block, blocks, object, at]``:
these blocks of the region stand in that object from its block ``at`` on. What no run names is zeros. A *data object*
is up to 1,024 blocks, one behind the other, compressed with zstd.

So a manifest is whole by itself: restoring reads no other manifest, and any snapshot can be removed from the archive
at any time. It is incremental all the same: regions without a change keep the index that they had, and a changed one
keeps the objects of the blocks that did not change. Only changed blocks are read and written.

Objects are written before the index that names them, indices before the manifest: an export that was interrupted has
left nothing that counts, and doing it again skips every object that is there with its right size. What no manifest
names is removed by :func:`yuntai.archive.upkeep.prune`, when it is old enough to belong to no export under way.

Nothing here knows the cloud: data comes from a :class:`~yuntai.archive.export.Source` and goes to a
:class:`~yuntai.archive.restore.Target`; :mod:`yuntai.archive.nbd` is both.
"""

from yuntai.archive.errors import ArchiveError, Damage, DamagedError
from yuntai.archive.export import export
from yuntai.archive.format import Index, Manifest
from yuntai.archive.repository import Repository
from yuntai.archive.restore import restore
from yuntai.archive.upkeep import prune, verify

__all__ = [
    "ArchiveError",
    "Damage",
    "DamagedError",
    "Index",
    "Manifest",
    "Repository",
    "export",
    "prune",
    "restore",
    "verify",
]
