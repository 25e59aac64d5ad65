"""What a guest printed on its serial console: the file that the agent of its host keeps.

One file per instance, ``<log_dir>/console/<instance id>.log``, or wherever the agent's observation says. The front
reads it where it runs on the same host; a reader for other hosts is another class with the same method.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from pathlib import Path

CONSOLE_BYTES_MAX = 64 * 1024


class LocalConsoleReader:
    """Reads the consoles of the guests on this host."""

    def __init__(self, host: str, log_dir: str) -> None:
        self._host = host
        self._folder = Path(log_dir) / "console"

    async def read(self, host: str, instance_id: str, path: str) -> tuple[bytes, str]:
        """Return the last 64 KiB and the time of the last change; both empty if there is no log, or not here."""
        if host and host != self._host:
            return b"", ""
        return await asyncio.to_thread(_tail, Path(path) if path else self._folder / f"{instance_id}.log")


def _tail(path: Path) -> tuple[bytes, str]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            file.seek(max(0, status.st_size - CONSOLE_BYTES_MAX))
            text = file.read(CONSOLE_BYTES_MAX)
    except FileNotFoundError:
        return b"", ""
    changed = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
    return text, changed.strftime("%Y-%m-%dT%H:%M:%SZ")
