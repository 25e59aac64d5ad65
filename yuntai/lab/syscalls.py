"""Linux calls that Python 3.11 lacks: namespaces, mounts, pivot_root, prctl. Each raises OSError with its subject."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces; see unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare {flags:#x}")


def setns(path: Path | str, kind: int) -> None:
    """Move the calling thread into the namespace that ``path`` names; a socket keeps the one it was made in."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), f"setns {path}")
    finally:
        os.close(descriptor)


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount ``source`` of type ``kind`` on ``target``; see mount(2)."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mount {kind or 'bind'} {source} on {target}")


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Show ``source`` at ``target``, which is made when missing."""
    target.mkdir(parents=True, exist_ok=True)
    mount(str(source), target, flags=MS_BIND)
    if read_only:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def detach(target: Path | str) -> None:
    """Unmount ``target`` and what is below it, at once for new users."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH)), f"umount {target}")


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make ``new_root`` the root of this mount namespace and leave the former one at ``put_old``."""
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(
            f"pivot_root is not known for {os.uname().machine}; a lab host needs {' or '.join(_SYS_PIVOT_ROOT)}"
        )
    result = _libc.syscall(ctypes.c_long(number), os.fsencode(new_root), os.fsencode(put_old))
    _check(result, f"pivot_root {new_root}")


def set_hostname(name: str) -> None:
    """Set the host name of this UTS namespace."""
    raw = name.encode()
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), f"sethostname {name}")


def end_with_parent() -> None:
    """Have this process told to end (TERM) when its parent ends, however that happens."""
    parent = os.getppid()
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0), "prctl PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        raise SystemExit("the parent has ended")


def become_subreaper() -> None:
    """Let orphaned descendants become children of this process, so that it can reap them at once."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl PR_SET_CHILD_SUBREAPER")
