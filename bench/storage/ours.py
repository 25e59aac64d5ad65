"""Our side: three chunk servers and a gateway on loopback, and the one-page master that the tests use. No cloud."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from bench.measure import CannotMeasure
from tests.functional.storage import CHUNKSERVER, GATEWAY, Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STORAGE_PROCESSES = ("gateway", "cs-1", "cs-2", "cs-3")


@contextlib.asynccontextmanager
async def storage(folder: Path, programs: Path) -> AsyncIterator[Storage]:
    """Start it in ``folder`` and end all of it, whatever happens."""
    missing = [name for name in (CHUNKSERVER.name, GATEWAY.name) if not (programs / name).exists()]
    if missing:
        raise CannotMeasure(f"{programs} has no {' and no '.join(missing)}; run: cargo build --release")
    await asyncio.to_thread(folder.mkdir, parents=True)
    one = Storage(folder, programs)
    try:
        await one.start()
        yield one
    finally:
        # Nothing of it is kept, so two hundred half-loaded clones need not be flushed and applied first.
        await one.stop(gently=False)


def pids(one: Storage) -> list[int]:
    """Return the pids of the storage processes that run now."""
    return [one.processes[name].pid for name in STORAGE_PROCESSES if name in one.processes]
