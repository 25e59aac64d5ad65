"""What several functional tests stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.functional.pangu_cluster import PanguCluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[PanguCluster]:
    made = PanguCluster(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        print(made.logs())
        await made.stop()
