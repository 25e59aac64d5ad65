"""Ask an OVSDB server for a schema, within a time limit and from whichever member of a cluster answers.

The client library asks without any limit, so a member on a host that hangs would hold its asker for ever.
"""

from __future__ import annotations

import json
import socket
from typing import Any

CHUNK_BYTES = 64 * 1024
SCHEMA_BYTES_MAX = 16 << 20


class SchemaError(OSError):
    """No member gave the schema; the text says what each did."""


def fetch(remotes: str, name: str, timeout_s: float) -> dict[str, Any]:
    """Return the schema ``name`` from the first of ``remotes`` (joined by commas) that answers in ``timeout_s``."""
    wrong = []
    for remote in remotes.split(","):
        try:
            return _ask(remote, name, timeout_s)
        except (OSError, ValueError) as error:
            wrong.append(f"{remote}: {error}")
    raise SchemaError("; ".join(wrong))


def _ask(remote: str, name: str, timeout_s: float) -> dict[str, Any]:
    with _connect(remote, timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(json.dumps({"method": "get_schema", "params": [name], "id": 1}).encode())
        received = bytearray()
        while len(received) < SCHEMA_BYTES_MAX:
            chunk = connection.recv(CHUNK_BYTES)
            if not chunk:
                raise ConnectionError("it closed the connection")
            received += chunk
            # Messages have no length; one ends where its braces do.
            if chunk.endswith(b"}") and (answer := _decoded(received)) is not None:
                if answer.get("error") or not isinstance(answer.get("result"), dict):
                    raise ValueError(f"it has no schema {name}: {answer.get('error')}")
                return dict(answer["result"])
    raise ValueError(f"its answer is longer than {SCHEMA_BYTES_MAX} bytes")


def _connect(remote: str, timeout_s: float) -> socket.socket:
    kind, _, where = remote.partition(":")
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(where)
        except OSError:
            connection.close()
            raise
        return connection
    if kind != "tcp":
        raise ValueError("write tcp:ADDRESS:PORT or unix:PATH")
    address, _, port = where.rpartition(":")
    return socket.create_connection((address.strip("[]"), int(port)), timeout_s)


def _decoded(received: bytearray) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(received)
    except ValueError:
        return None
    return found
