"""A request that takes long is waited for as long as its master lives, and no longer."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.ports import free_port
from yuntai.pangu import patience
from yuntai.pangu.client import PanguClient
from yuntai.pangu.errors import Unavailable


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ASK_AFTER_S", 0.01)


async def test_a_slow_answer_of_one_who_lives_is_waited_for() -> None:
    answer = asyncio.get_running_loop().create_future()
    asked = 0

    async def well() -> bool:
        nonlocal asked
        asked += 1
        if asked == 5:
            answer.set_result("whole")
        return asked != 2  # once unwell is a lost packet

    assert await patience.while_well(answer, well) == "whole"


async def test_one_who_does_not_live_is_left() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def well() -> bool:
        return False

    with pytest.raises(TimeoutError, match="not answer"):
        await patience.while_well(answer, well)
    assert answer.cancelled()


async def test_an_error_is_passed_on() -> None:
    async def fails() -> str:
        raise ValueError("no")

    async def well() -> bool:
        return True

    with pytest.raises(ValueError, match="no"):
        await patience.while_well(fails(), well)


async def test_the_client_leaves_a_master_that_takes_requests_and_answers_none() -> None:
    """A frozen host: its kernel goes on to accept connections."""
    silent = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", port := free_port())
    async with silent:
        async with PanguClient([f"http://127.0.0.1:{port}"], b"x" * 32, retry_for_s=0.1) as client:
            with pytest.raises(Unavailable, match="does not answer any more"):
                async with asyncio.timeout(30):
                    await client.attach("vol-0000000000000001", "h1")
        with contextlib.suppress(asyncio.CancelledError):
            silent.close()
