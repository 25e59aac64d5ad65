"""Forgetting a chassis: what is sent to OVN's southbound database, and what is made of its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from yuntai.network import southbound
from yuntai.network.southbound import SouthboundError, forget_chassis, leave_ports


@asynccontextmanager
async def database(path: Path, *answers: bytes) -> AsyncIterator[list[Any]]:
    asked: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(json.loads(await reader.read(65536)))
        answer = answers[min(len(asked), len(answers)) - 1]
        for part in (answer[:7], answer[7:]):
            writer.write(part)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield asked


GOOD = b'{"id":1,"error":null,"result":[{"count":1},{"count":0}]}'


async def test_chassis_and_its_private_part_are_deleted(tmp_path: Path) -> None:
    async with database(tmp_path / "sb", GOOD) as asked:
        assert await forget_chassis(f"unix:{tmp_path / 'sb'}", "h4")
    database_name, *operations = asked[0]["params"]
    assert database_name == "OVN_Southbound"
    assert [(one["table"], one["where"]) for one in operations] == [
        ("Chassis", [["name", "==", "h4"]]),
        ("Chassis_Private", [["name", "==", "h4"]]),
    ]


async def test_it_says_when_there_was_nothing(tmp_path: Path) -> None:
    async with database(tmp_path / "sb", GOOD.replace(b'"count":1', b'"count":0')):
        assert not await forget_chassis(f"unix:{tmp_path / 'sb'}", "h4")


async def test_a_host_is_taken_from_the_ports_that_it_has_beside_others(tmp_path: Path) -> None:
    chassis, encap = ["uuid", "11111111-1111-1111-1111-111111111111"], ["uuid", "22222222-2222-2222-2222-222222222222"]
    found = {"id": 1, "error": None, "result": [{"rows": [{"_uuid": one}]} for one in (chassis, encap)]}
    left = b'{"id":1,"error":null,"result":[{"count":2}]}'
    async with database(tmp_path / "sb", json.dumps(found).encode(), left) as asked:
        assert await leave_ports(f"unix:{tmp_path / 'sb'}", "h4") == 2
    looked, mutate = asked[0]["params"][1:], asked[1]["params"][1]
    assert [(one["table"], one["where"]) for one in looked] == [
        ("Chassis", [["name", "==", "h4"]]),
        ("Encap", [["chassis_name", "==", "h4"]]),
    ]
    assert mutate["where"] == [["additional_chassis", "includes", ["set", [chassis]]]]
    assert mutate["mutations"] == [
        ["additional_chassis", "delete", ["set", [chassis]]],
        ["additional_encap", "delete", ["set", [encap]]],
    ]
    nobody = b'{"id":1,"error":null,"result":[{"rows":[]},{"rows":[]}]}'
    async with database(tmp_path / "sb", nobody) as asked:
        assert await leave_ports(f"unix:{tmp_path / 'sb'}", "h4") == 0
        assert len(asked) == 1


async def test_the_next_member_is_asked_and_all_refusals_are_told(tmp_path: Path) -> None:
    bad = b'{"id":1,"error":null,"result":[{"error":"not owner","details":"x"},null]}'
    async with database(tmp_path / "bad", bad), database(tmp_path / "good", GOOD) as asked:
        await forget_chassis(f"unix:{tmp_path / 'none'},unix:{tmp_path / 'bad'},unix:{tmp_path / 'good'}", "h4")
        assert len(asked) == 1
        with pytest.raises(SouthboundError, match=r"none: .*; .*bad: not owner: x; ftp:y: .*neither"):
            await forget_chassis(f"unix:{tmp_path / 'none'},unix:{tmp_path / 'bad'},ftp:y", "h4")


async def test_a_silent_database_costs_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(southbound, "TIMEOUT_S", 0.05)
    async with database(tmp_path / "sb", b'{"id":1'):
        with pytest.raises(SouthboundError):
            await forget_chassis(f"unix:{tmp_path / 'sb'}", "h4")
