"""The thrasher's NBD client: whatever ends a connection, nothing that was asked waits for ever."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.nbd_half import PART, half_answering
from tests.thrash.nbd import Lost, Nbd


@pytest.mark.parametrize("ends", [True, False], ids=["by the server", "by us"])
async def test_a_connection_that_ends_within_an_answer_loses_what_was_asked(tmp_path: Path, *, ends: bool) -> None:
    async with half_answering(tmp_path / "s", ends=ends):
        client = await Nbd.connect(tmp_path / "s", "export")
        asked = asyncio.create_task(client.read(0, 2 * PART))
        await asyncio.sleep(0.1)
        if not ends:
            await client.close()
        with pytest.raises(Lost):
            await asyncio.wait_for(asked, 5)
        await client.close()
