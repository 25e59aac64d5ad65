"""Console logs: one file per instance, appended to by QEMU, bounded by us, read for the API.

QEMU opens the log with ``O_APPEND``, so its next byte always goes to the present end. When a log has grown past
:data:`LOG_BYTES_MAX` its oldest part is cut away in place and the newest :data:`KEPT_BYTES` stay, in the same file. On
ext4 and XFS the cut is ``FALLOC_FL_COLLAPSE_RANGE``: it loses nothing, whatever QEMU writes meanwhile. Elsewhere the
kept part is read, the file emptied and the part appended again; what QEMU writes in those microseconds stands first.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

LOG_BYTES_MAX = 4 << 20
KEPT_BYTES = 1 << 20
_COLLAPSE_RANGE = 0x08  # linux/falloc.h, FALLOC_FL_COLLAPSE_RANGE
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_LIBC = ctypes.CDLL(None, use_errno=True)


def log_path(log_dir: str, instance_id: str) -> Path:
    """Return where the console log of an instance is on its host."""
    return Path(log_dir) / "console" / f"{instance_id}.log"


def socket_path(run_dir: str, instance_id: str) -> Path:
    """Return where the serial console of a running instance can be connected to on its host."""
    return Path(run_dir) / "console" / f"{instance_id}.sock"


def tail(path: Path, limit_bytes: int) -> bytes:
    """Return the last bytes of a console; empty where there is no log."""
    try:
        with path.open("rb") as source:
            source.seek(max(0, source.seek(0, os.SEEK_END) - limit_bytes))
            return source.read(limit_bytes)
    except FileNotFoundError:
        return b""


def bound(path: Path, limit_bytes: int = LOG_BYTES_MAX, kept_bytes: int = KEPT_BYTES) -> bool:
    """Cut the log if it is too long; return whether that was so."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        status = os.fstat(handle)
        if status.st_size <= limit_bytes:
            return False
        unit = os.fstatvfs(handle).f_bsize
        cut = (status.st_size - kept_bytes) // unit * unit
        if not _collapse(handle, cut):
            kept = os.pread(handle, kept_bytes, status.st_size - kept_bytes)
            os.ftruncate(handle, 0)
            os.write(handle, kept)
        return True
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete the log of an instance that is gone."""
    path.unlink(missing_ok=True)


def _collapse(handle: int, length_bytes: int) -> bool:
    """Cut the first bytes of a file away in place; return whether the file system can."""
    done = _LIBC.fallocate(handle, _COLLAPSE_RANGE, ctypes.c_longlong(0), ctypes.c_longlong(length_bytes))
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, f"cannot cut a console log: {os.strerror(code)}")
