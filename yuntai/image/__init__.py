"""Image files: what they are, into a volume, out of a volume.

Blocking, for a command: :func:`inspect`, :func:`checksum`, :func:`write`, :func:`export`. Whole operations with records
and volumes, for asyncio: :mod:`yuntai.image.library`.
"""

from yuntai.image.errors import ImageError
from yuntai.image.files import checksum, export, write
from yuntai.image.probe import ImageFile, inspect

__all__ = ["ImageError", "ImageFile", "checksum", "export", "inspect", "write"]
