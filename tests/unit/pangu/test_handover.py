"""Questions about a volume are given up when it is taken over, and no others."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from yuntai.pangu import handover as handover_module
from yuntai.pangu.handover import ANSWER_S, Handover


async def ask(handover: Handover, host: str, request: dict[str, Any]) -> None:
    """A question that is never answered."""
    async with asyncio.timeout(5) as waiting:
        with handover.asking(host, request, waiting):
            await asyncio.sleep(60)


async def test_what_is_asked_about_a_volume_that_leaves_is_given_up() -> None:
    handover = Handover()
    given_up = [
        asyncio.create_task(ask(handover, "h1", {"op": "snapshot", "volume": 7})),
        asyncio.create_task(ask(handover, "h1", {"op": "snapshot_group", "volumes": [{"volume": 1}, {"volume": 7}]})),
    ]
    kept = [
        asyncio.create_task(ask(handover, "h1", {"op": "snapshot", "volume": 8})),
        asyncio.create_task(ask(handover, "h2", {"op": "open", "volume": 7})),
        asyncio.create_task(ask(handover, "h1", {"op": "status"})),
    ]
    await asyncio.sleep(0)
    began = time.monotonic()
    with handover.leave("h1", 7):
        late = asyncio.create_task(ask(handover, "h1", {"op": "renew", "volume": 7}))
        ended = await asyncio.gather(*given_up, late, return_exceptions=True)
        assert [type(one) for one in ended] == [TimeoutError] * 3
        assert ANSWER_S / 2 < time.monotonic() - began < 20
        with pytest.raises(TimeoutError):
            await ask(handover, "h1", {"op": "open", "volume": 7})
    assert not any(task.done() for task in kept)
    again = asyncio.create_task(ask(handover, "h1", {"op": "open", "volume": 7}))
    await asyncio.sleep(2 * ANSWER_S)
    assert not again.done(), "when it has left, its former host may be asked as ever"
    for task in (again, *kept):
        task.cancel()
    await asyncio.gather(again, *kept, return_exceptions=True)


async def test_an_answer_in_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover_module, "ANSWER_S", 4.0)  # in time also where this process is held up
    handover = Handover()
    answered = asyncio.Event()

    async def asked() -> str:
        async with asyncio.timeout(5) as waiting:
            with handover.asking("h1", {"op": "snapshot", "volume": 7}, waiting):
                await answered.wait()
        return "answered"

    task = asyncio.create_task(asked())
    await asyncio.sleep(0)
    with handover.leave("h1", 7):
        await asyncio.sleep(0.1)
        answered.set()
        assert await task == "answered"
