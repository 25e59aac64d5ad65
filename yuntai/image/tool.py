"""Runs ``qemu-img convert`` under limits, follows its progress, and stops it when it stands still.

The formats are always given, so the tool guesses nothing; input files are given as an open file descriptor, so that
what was inspected is what is read and a file's name is never taken for a protocol.
"""

from __future__ import annotations

import re
import selectors
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

from yuntai.image.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ADDRESS_SPACE_BYTES = 2 << 30
CPU_S = 4 * 3600
OPEN_FILES = 256
STALL_S = 300.0
"""No progress for so long ends the run. A volume that lost too many replicas stalls its I/O rather than failing it."""
TIME_MAX_S = 12 * 3600.0
TERMINATE_WAIT_S = 10.0
_PROGRESS = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_ERROR_BYTES = 2000


def convert(arguments: Sequence[str], descriptors: Sequence[int], progress: Callable[[float], None]) -> None:
    """Run ``qemu-img convert -p ARGUMENTS``; call ``progress`` with 0.0 to 1.0. Raise :class:`ImageError`.

    ``progress`` may raise to stop it: the tool is ended and the exception goes on to the caller.
    """
    program = shutil.which("qemu-img")
    if program is None:
        raise ImageError("qemu-img is not installed; install the package qemu-utils")
    limits = shutil.which("prlimit")
    if limits is None:
        raise ImageError("prlimit is not installed; install the package util-linux")
    command = [
        *(limits, f"--as={ADDRESS_SPACE_BYTES}", f"--cpu={CPU_S}", f"--nofile={OPEN_FILES}", "--core=0", "--"),
        *(program, "convert", "-p", *arguments),
    ]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=tuple(descriptors),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
    ) as process:
        try:
            errors = _follow(process, progress)
            status = process.wait(timeout=TERMINATE_WAIT_S)
        finally:
            _end(process)
    if status != 0:
        text = errors.decode(errors="replace").strip() or f"it ended with status {status} and said nothing"
        raise ImageError(f"qemu-img convert failed: {text}")


def _follow(process: subprocess.Popen[bytes], progress: Callable[[float], None]) -> bytes:
    """Read both outputs to their ends; return the end of standard error. Raise when it stands still."""
    assert process.stdout is not None  # noqa: S101 — both were asked for above
    assert process.stderr is not None  # noqa: S101
    began = moved = time.monotonic()
    errors, line, reached = b"", b"", -1.0
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(timeout=1.0):
                chunk = key.fileobj.read1(65536)  # type: ignore[union-attr]
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    errors = (errors + chunk)[-_ERROR_BYTES:]
                else:
                    line = (line + chunk)[-256:]
            if (found := _PROGRESS.findall(line)) and float(found[-1]) > reached:
                reached, moved = float(found[-1]), time.monotonic()
                progress(reached / 100)
            now = time.monotonic()
            if now - moved > STALL_S or now - began > TIME_MAX_S:
                raise ImageError(
                    f"qemu-img convert made no progress for {now - moved:.0f} s at {max(reached, 0):.0f} %; "
                    "is the volume served, with two of its replicas up?"
                )
    return errors


def _end(process: subprocess.Popen[bytes]) -> None:
    """See that the tool is gone, however this was left."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=TERMINATE_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
