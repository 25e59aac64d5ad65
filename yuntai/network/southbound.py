"""What a host that is gone leaves in OVN's southbound database: its chassis, and ports that it was to have as well.

A few lines of OVSDB's own JSON (RFC 7047) over one connection; any member of a clustered database hands it on.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 1 << 20
DATABASE = "OVN_Southbound"


class SouthboundError(Exception):
    """No member of the database did it; the text has each one's answer."""


async def forget_chassis(remotes: str, host: str) -> bool:
    """Delete the chassis of ``host``; return whether there was one.

    ``remotes`` is OVN's list of the database's members.
    """
    gone = [
        {"op": "delete", "table": table, "where": [["name", "==", host]]} for table in ("Chassis", "Chassis_Private")
    ]
    return bool(_count(await _ask_any(remotes, gone, f"the chassis of {host} is not deleted")))


async def leave_ports(remotes: str, host: str) -> int:
    """Take ``host`` from the ports that it has beside another host; return how many there were.

    That is where a migration was to go. The host's own controller would do it, as soon as nobody wants it any more.
    """
    what = f"{host} is not taken from the ports that it has beside other hosts"
    look = [
        {"op": "select", "table": table, "where": [[name, "==", host]], "columns": ["_uuid"]}
        for table, name in (("Chassis", "name"), ("Encap", "chassis_name"))
    ]
    chassis, encaps = [[row["_uuid"] for row in one["rows"]] for one in await _ask_any(remotes, look, what)]
    if not chassis:
        return 0
    leave = {
        "op": "mutate",
        "table": "Port_Binding",
        "where": [["additional_chassis", "includes", ["set", chassis]]],
        "mutations": [
            ["additional_chassis", "delete", ["set", chassis]],
            ["additional_encap", "delete", ["set", encaps]],
        ],
    }
    return _count(await _ask_any(remotes, [leave], what))


def _count(answers: list[Any]) -> int:
    return sum(one.get("count", 0) for one in answers if isinstance(one, dict))


async def _ask_any(remotes: str, operations: list[dict[str, Any]], failed: str) -> list[Any]:
    """Have the first member that can do it do it."""
    refused = []
    for remote in remotes.split(","):
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await _transact(remote.strip(), operations)
        except (OSError, TimeoutError, ValueError) as error:
            refused.append(f"{remote}: {error or type(error).__name__}")
            continue
        wrong = [one for one in answer if isinstance(one, dict) and one.get("error")]
        if not wrong:
            return answer
        refused.append(f"{remote}: {wrong[0]['error']}: {wrong[0].get('details', '')}")
    raise SouthboundError(f"{failed}: {'; '.join(refused)}")


async def _transact(remote: str, operations: list[dict[str, Any]]) -> list[Any]:
    kind, _, where = remote.partition(":")
    if kind == "unix":
        reader, writer = await asyncio.open_unix_connection(where, limit=ANSWER_BYTES_MAX)
    elif kind == "tcp":
        address, _, port = where.rpartition(":")
        reader, writer = await asyncio.open_connection(address.strip("[]"), int(port), limit=ANSWER_BYTES_MAX)
    else:
        raise ValueError(f"{remote!r} is neither tcp:address:port nor unix:path")
    try:
        request = {"method": "transact", "params": [DATABASE, *operations], "id": 1}
        writer.write(json.dumps(request).encode())
        await writer.drain()
        answer = await _answer(reader)
    finally:
        writer.close()
    if answer.get("error"):
        raise ValueError(str(answer["error"]))
    result: list[Any] = answer.get("result") or []
    return result


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Read until one JSON object is whole; the protocol has no other end of a message."""
    text = b""
    while len(text) < ANSWER_BYTES_MAX:
        part = await reader.read(65536)
        if not part:
            raise ValueError("the database closed the connection")
        text += part
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            continue
        return answer
    raise ValueError("the answer is too long")
