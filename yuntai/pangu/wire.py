"""The control channel to gateways and chunk servers: frames, handshake, questions and events.

The layout is decided in ``crates/proto``; here are only asyncio streams around it. One :class:`Channel` is one TCP
connection: requests may be in flight side by side, and what the peer sends unasked (a gateway's events) comes out of
:meth:`Channel.next_event`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from yuntai import _native, tls

HEADER_BYTES = 64
CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 10.0
EVENTS_MAX = 10_000

CHALLENGE, AUTH, AUTH_OK = 1, 2, 3
CONTROL, CONTROL_REPLY, EVENT, EVENT_REPLY, ERROR = 60, 61, 62, 63, 99


class WireError(Exception):
    """The peer cannot be reached, cannot be understood, or does not answer in time. Asking again later may help."""


class Refused(WireError):  # noqa: N818 - it is an answer, not a fault
    """The peer understood and said no; ``str()`` is its reason. Asking the same again does not help."""


class Frame(NamedTuple):
    """What control uses of a frame: its kind, the number that ties answer to question, and the JSON body."""

    kind: int
    request_id: int
    body: bytes

    def json(self) -> Any:
        """Decode the body; raise :class:`WireError` if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise WireError(f"the peer sent a body that is not JSON: {error}") from error


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read one frame; raise :class:`WireError` at the end of the stream or when it cannot be followed."""
    try:
        fields = _native.decode_header(await reader.readexactly(HEADER_BYTES))
        rest = await reader.readexactly(fields[2] + fields[3])
    except (asyncio.IncompleteReadError, OSError) as error:
        raise WireError(f"the connection was lost: {error}") from error
    except ValueError as error:
        raise WireError(str(error)) from error
    return Frame(fields[0], fields[4], rest[: fields[2]])


def frame_bytes(kind: int, request_id: int, body: Any) -> bytes:
    """Return a whole frame with a JSON body."""
    raw = json.dumps(body, separators=(",", ":")).encode()
    return _native.encode_header((kind, 0, len(raw), 0, request_id, 0, 0, 0, 0, 0, 0, 0)) + raw


async def handshake_as_client(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes, name: str
) -> dict[str, str]:
    """Prove the cluster secret and have the server prove it; return the server's ``{"server", "version"}``."""
    server_nonce = _expect(await read_frame(reader), CHALLENGE)["nonce"]
    nonce = secrets.token_hex(32)
    mac = _native.proof(secret, "client", server_nonce, nonce, name)
    writer.write(frame_bytes(AUTH, 0, {"client": name, "nonce": nonce, "mac": mac}))
    await writer.drain()
    answer = _expect(await read_frame(reader), AUTH_OK)
    try:
        _native.check_proof(secret, "server", server_nonce, nonce, name, answer["mac"])
    except PermissionError as error:
        raise WireError(f"the server does not know this cluster's secret: {error}") from error
    return {"server": answer["server"], "version": answer["version"]}


async def handshake_as_server(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes, name: str
) -> str:
    """Do the other side of :func:`handshake_as_client`; return the client's name."""
    nonce = secrets.token_hex(32)
    writer.write(frame_bytes(CHALLENGE, 0, {"nonce": nonce}))
    auth = _expect(await read_frame(reader), AUTH)
    client = str(auth["client"])
    try:
        _native.check_proof(secret, "client", nonce, auth["nonce"], client, auth["mac"])
    except PermissionError as error:
        raise WireError(f"{client!r} does not know this cluster's secret") from error
    mac = _native.proof(secret, "server", nonce, auth["nonce"], client)
    writer.write(frame_bytes(AUTH_OK, 0, {"mac": mac, "server": name, "version": "python"}))
    await writer.drain()
    return client


def _expect(frame: Frame, kind: int) -> dict[str, Any]:
    body = frame.json()
    if frame.kind == ERROR:
        raise Refused(_reason(body))
    if frame.kind != kind or not isinstance(body, dict):
        raise WireError(f"expected a frame of kind {kind}, got {frame.kind}")
    return body


def _reason(body: Any) -> str:
    """Return the words of a refusal, whichever of the two forms it has."""
    if not isinstance(body, dict):
        return str(body)
    if "error" in body:
        return str(body["error"])
    fields = ", ".join(f"{key} {value}" for key, value in body.items() if key != "code")
    return f"{body.get('code', 'refused')}: {fields}" if fields else str(body.get("code", "refused"))


class Channel:
    """A connection to one gateway or chunk server. Made by :func:`connect`; closed by :meth:`close`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: dict[str, str]) -> None:
        self.peer = peer
        self._reader = reader
        self._writer = writer
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._events: asyncio.Queue[Frame | None] = asyncio.Queue(EVENTS_MAX)
        self._lost: WireError | None = None
        self._task = asyncio.create_task(self._receive())

    @property
    def open(self) -> bool:
        """Whether the connection still stands, as far as this side knows."""
        return self._lost is None

    async def call(self, request: dict[str, Any], timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Ask ``{"op": …}`` and return what stands under ``"ok"`` of the answer.

        Raises :class:`Refused` if the peer says no, :class:`WireError` if it is lost or silent for ``timeout_s``.
        """
        if self._lost is not None:
            raise self._lost
        request_id, self._next_id = self._next_id, self._next_id + 1
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            self._writer.write(frame_bytes(CONTROL, request_id, request))
            async with asyncio.timeout(timeout_s):
                await self._writer.drain()
                frame = await future
        except TimeoutError as error:
            raise WireError(f"{self.peer['server']} did not answer {request['op']} within {timeout_s:g} s") from error
        except OSError as error:
            raise WireError(f"{self.peer['server']} was lost: {error}") from error
        finally:
            self._waiting.pop(request_id, None)
        body = frame.json()
        if frame.kind == ERROR or (isinstance(body, dict) and "error" in body):
            raise Refused(_reason(body))
        return body["ok"] if isinstance(body, dict) and "ok" in body else body

    async def next_event(self) -> tuple[int, dict[str, Any]]:
        """Wait for what the peer tells unasked; return its number (for :meth:`answer`) and ``{"op": …}``."""
        frame = await self._events.get()
        if frame is None:
            self._events.put_nowait(None)
            raise self._lost or WireError("the connection was closed")
        body = frame.json()
        if not isinstance(body, dict) or "op" not in body:
            raise WireError(f"{self.peer['server']} sent an event without op")
        return frame.request_id, body

    async def answer(self, event: int, body: dict[str, Any]) -> None:
        """Answer the event of that number."""
        self._writer.write(frame_bytes(EVENT_REPLY, event, body))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise WireError(f"{self.peer['server']} was lost: {error}") from error

    async def close(self) -> None:
        """Close the connection; requests in flight fail with :class:`WireError`."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._fail(WireError("the connection was closed here"))
        self._writer.close()

    async def _receive(self) -> None:
        try:
            while True:
                frame = await read_frame(self._reader)
                if frame.kind == EVENT:
                    await self._events.put(frame)
                elif (future := self._waiting.get(frame.request_id)) is not None and not future.done():
                    future.set_result(frame)
        except WireError as error:
            self._fail(error)
            self._writer.close()

    def _fail(self, error: WireError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(None)


async def connect(
    address: str,
    secret: bytes,
    name: str,
    timeout_s: float = CONNECT_TIMEOUT_S,
    *,
    context: ssl.SSLContext | None = None,
) -> Channel:
    """Connect to ``host:port``, with TLS where a ``context`` is given, and shake hands as ``name`` ("operator").

    Raises :class:`WireError` if the peer cannot be reached in ``timeout_s`` or does not know the cluster secret.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            secured: dict[str, Any] = {"ssl": context, "server_hostname": tls.NAME} if context else {}
            reader, writer = await asyncio.open_connection(host, int(port), **secured)
            try:
                peer = await handshake_as_client(reader, writer, secret, name)
            except BaseException:
                writer.close()
                raise
    except TimeoutError as error:
        raise WireError(f"{address} did not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise WireError(f"cannot reach {address}: {error}") from error
    return Channel(reader, writer, peer)


async def greets(address: str, timeout_s: float, *, context: ssl.SSLContext | None = None) -> bool:
    """Tell whether what listens at ``host:port`` begins a handshake: a frozen process's kernel accepts, and no more.

    Nothing is said to it, so it takes this for no caller.
    """
    host, _, port = address.rpartition(":")
    secured: dict[str, Any] = {"ssl": context, "server_hostname": tls.NAME} if context else {}
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, int(port), **secured)
            try:
                return (await read_frame(reader)).kind == CHALLENGE
            finally:
                writer.close()
    except (TimeoutError, OSError, WireError):
        return False


Handler = Callable[[dict[str, Any]], Awaitable[Any]]


async def serve_controls(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes, name: str, handler: Handler
) -> None:
    """Answer the questions of one client with ``handler`` until it goes: a server's side of :class:`Channel`.

    What ``handler`` raises as :class:`Refused` is told to the client; the twins of gateway and chunk server use this.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await handshake_as_server(reader, writer, secret, name)
        while True:
            frame = await read_frame(reader)
            try:
                answer = {"ok": await handler(frame.json())}
            except Refused as error:
                answer = {"error": str(error)}
            writer.write(frame_bytes(CONTROL_REPLY, frame.request_id, answer))
            await writer.drain()
    except (WireError, TimeoutError, OSError):
        return
    finally:
        writer.close()
