"""A small HTTP server for guests that may be hostile: only what the service needs, and a limit on everything.

Requests have no body; heads are bounded in size and time, connections and requests per source in number. A library's
server would be longer to limit than this is to read.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.metadata.answers import Answer, Asked, refuse

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from yuntai.metadata.limits import Limits

    Respond = Callable[[str, Asked], Answer]

HEAD_BYTES_MAX = 8192
PATH_BYTES_MAX = 1024
IDLE_S = 15.0
HEAD_S = 5.0
SEND_S = 10.0
REQUESTS_MAX = 200  # on one connection
EC2_ADDRESS = "169.254.169.254"
_LOG = log.get("metadata.http")


class BadRequestError(Exception):
    """The request cannot be read; ``status`` says how."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def serve(listener: socket.socket, respond: Respond, limits: Limits) -> asyncio.Server:
    """Serve on a listening socket. ``respond`` gets the source address and the request."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = str(writer.get_extra_info("peername")[0])
        if not limits.enter(source):
            writer.transport.abort()
            return
        try:
            await _talk(reader, writer, source, respond, limits)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            _LOG.debug("connection ended", source=source, error=str(error))
        finally:
            limits.leave(source)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), SEND_S)

    return await asyncio.start_server(connected, sock=listener, limit=HEAD_BYTES_MAX, backlog=64)


async def _talk(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str, respond: Respond, limits: Limits
) -> None:
    address = str(writer.get_extra_info("sockname")[0])
    for count in range(REQUESTS_MAX):
        try:
            asked, keep = await _read(reader, address, first=count == 0)
        except BadRequestError as error:
            await _send(writer, refuse(error.status, str(error)), keep=False)
            return
        if asked is None:
            return
        admitted = limits.admit(source)
        answer = respond(source, asked) if admitted else refuse(429, "too many requests; wait a second")
        keep = keep and count + 1 < REQUESTS_MAX
        await _send(writer, answer, keep=keep, head_only=asked.method == "HEAD")
        if not keep:
            return


async def _read(reader: asyncio.StreamReader, address: str, *, first: bool) -> tuple[Asked | None, bool]:
    """Return the next request and whether the connection stays; ``None`` at its end."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_S if first else IDLE_S)
    except asyncio.LimitOverrunError as error:
        raise BadRequestError(431, f"the head is longer than {HEAD_BYTES_MAX} bytes") from error
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise BadRequestError(400, "the request ends in the middle of its head") from error
        return None, False
    return parse(head, "ec2" if address == EC2_ADDRESS else "aliyun")


def parse(head: bytes, dialect: str) -> tuple[Asked, bool]:
    """Return the request in a head and whether the client keeps the connection."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError(400, "the first line is not METHOD PATH HTTP/1.1")
    method, target, version = words
    if len(target) > PATH_BYTES_MAX:
        raise BadRequestError(414, f"the path is longer than {PATH_BYTES_MAX} bytes")
    if not target.startswith("/") or ".." in target.split("/"):
        raise BadRequestError(400, "the path does not begin with / or holds ..")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or name != name.strip() or not name:
            raise BadRequestError(400, "a header is not NAME: VALUE")
        headers[name.lower()] = value.strip()
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise BadRequestError(413, "requests have no body here")
    wish = headers.get("connection", "").lower()
    keep = wish != "close" if version == "HTTP/1.1" else wish == "keep-alive"
    return Asked(method, target, headers, "ec2" if dialect == "ec2" else "aliyun"), keep


async def _send(writer: asyncio.StreamWriter, answer: Answer, *, keep: bool, head_only: bool = False) -> None:
    headers = {
        "Server": "yuntai-metadata",
        "Content-Type": answer.kind,
        "Content-Length": str(len(answer.body)),
        "Connection": "keep-alive" if keep else "close",
        **answer.headers,
    }
    head = f"HTTP/1.1 {answer.status} {http.HTTPStatus(answer.status).phrase}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    writer.write(head.encode("latin-1") + (b"" if head_only else answer.body))
    await asyncio.wait_for(writer.drain(), SEND_S)
