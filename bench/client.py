"""A small signing client: RPC signature 1.0 over kept-alive HTTP/1.1, cheap enough to load a server from one core."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

ECS, YUNTAI = "2014-05-26", "2026-11-23"
ANSWER_S = 30.0


class CallError(Exception):
    """The API answered with an error."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body.get('Code')}: {body.get('Message')}")
        self.status = status
        self.code = str(body.get("Code"))


@dataclass(frozen=True, slots=True)
class Key:
    """An AccessKey."""

    id: str
    secret: str

    def sign(self, action: str, version: str, params: dict[str, str]) -> str:
        """Return the query string of a signed request.

        Source: the RPC signature mechanism in Alibaba Cloud's API documentation (HMAC-SHA1 over the sorted pairs).
        """
        pairs = {
            **params,
            "Action": action,
            "Version": version,
            "Format": "JSON",
            "AccessKeyId": self.id,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureNonce": secrets.token_hex(16),
            "Timestamp": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        canonical = "&".join(f"{_encode(name)}={_encode(pairs[name])}" for name in sorted(pairs))
        text = f"GET&%2F&{_encode(canonical)}"
        digest = hmac.new(f"{self.secret}&".encode(), text.encode(), hashlib.sha1).digest()
        return urlencode({**pairs, "Signature": base64.b64encode(digest).decode()}, quote_via=quote, safe="~")


class Client:
    """One connection, one request at a time."""

    def __init__(self, host: str, port: int, key: Key) -> None:
        self._host, self._port, self._key = host, port, key
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, action: str, version: str = ECS, **params: str | int) -> dict[str, Any]:
        """Call an action and return its answer; raise :class:`CallError` for a refusal."""
        status, body = await self.get("/?" + self.sign(action, version, **params))
        answer: dict[str, Any] = json.loads(body)
        if status != 200:
            raise CallError(status, answer)
        return answer

    def sign(self, action: str, version: str = ECS, **params: str | int) -> str:
        """Return a signed query, to be sent later with :meth:`get`."""
        return self._key.sign(action, version, {name: str(value) for name, value in params.items()})

    async def get(self, target: str) -> tuple[int, bytes]:
        """Send one request and return status and body."""
        async with asyncio.timeout(ANSWER_S):
            if self._reader is not None and self._reader.at_eof():
                await self.close()  # the server lets go of a connection that was silent for a while
            if self._writer is None or self._reader is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._writer.write(f"GET {target} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n\r\n".encode())
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return int(lines[0].split()[1]), body

    async def close(self) -> None:
        """Close the connection."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            await writer.wait_closed()


def _encode(text: str) -> str:
    return quote(text, safe="~")
