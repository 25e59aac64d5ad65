"""The listener: bytes in, an action found and called, bytes out. Every way out of it is a well-formed answer."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import structlog
from aiohttp import web

from yuntai import log
from yuntai.api import catalogue, wire
from yuntai.api.connections import SILENT_S, Connections
from yuntai.api.errors import ThrottledError, internal, invalid_parameter, unavailable
from yuntai.api.markup import JSON_TYPE, XML_TYPE, to_json, to_xml
from yuntai.api.registry import Action, Call, Context, find
from yuntai.api.replay import Replay
from yuntai.api.signature import claim_of
from yuntai.api.throttle import Throttle
from yuntai.control.errors import ApiError, dry_run
from yuntai.control.requests.types import Caller
from yuntai.model.cluster import AccessKey
from yuntai.pangu import errors as pangu_errors
from yuntai.pangu.errors import PanguError
from yuntai.state import Conflict, StateError, Unavailable

BODY_MAX = 256 * 1024
LINE_MAX = 192 * 1024
"""The longest request line: the official SDKs send everything, 32 KiB of user data too, in the query."""
HEADER_MAX = 16 * 1024
BODY_TIMEOUT_S = 20.0
HANDLER_TIMEOUT_S = 30.0
KEEP_ALIVE_S = 75.0
STOP_S = 5.0
"""What still runs when the process is told to end: less than its supervisor waits before it kills."""
METHODS = ("GET", "POST")
WRITES_PER_S = 100.0
"""What one AccessKey may change in a second, beside what it may ask in all: each is a durable write in etcd."""

_log = log.get("api")


class ApiServer:
    """One listener on one or more addresses."""

    def __init__(
        self,
        context: Context,
        throttle: Throttle | None = None,
        write_throttle: Throttle | None = None,
        replay: Replay | None = None,
        *,
        silent_s: float = SILENT_S,
    ) -> None:
        catalogue.load()
        self._context = context
        self._throttle = throttle or Throttle()
        self._write_throttle = write_throttle or throttle or Throttle(WRITES_PER_S, 2 * WRITES_PER_S)
        self._replay = replay or Replay(context.writes.inner)
        server = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            max_line_size=LINE_MAX,
            max_field_size=HEADER_MAX,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=STOP_S)
        self._connections = Connections(lambda: server.connections, silent_s=silent_s)
        self._sweep: asyncio.Task[None] | None = None

    async def start(self, address: str, port: int) -> int:
        """Listen on one more address; return the port (``port`` 0 = any free one)."""
        if self._runner.server is None or not self._runner.sites:
            await self._runner.setup()
            self._sweep = asyncio.create_task(self._connections.sweep_forever())
        site = web.TCPSite(self._runner, address, port, backlog=512)
        await site.start()
        bound: int = self._runner.addresses[-1][1]
        return bound

    async def close(self) -> None:
        """Stop listening, let running requests end, keep the nonces for the next process."""
        if self._sweep is not None:
            self._sweep.cancel()
            await asyncio.gather(self._sweep, return_exceptions=True)
        await self._runner.cleanup()
        await self._replay.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._connections.request(request.protocol):
            return await self._answer(request)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        request_id = str(uuid.uuid4()).upper()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began_s = time.perf_counter()
        received: wire.WireRequest | None = None
        action: Action | None = None
        status, headers = 200, {"x-acs-request-id": request_id}
        try:
            if request.path == "/healthz":
                return web.Response(text="ok\n")
            received = wire.read(request.method, request.raw_path, request.headers, await _body(request))
            key = await self._authenticate(received)
            action = find(received.version, received.action)
            root, body = f"{action.name}Response", await self._call(action, received, key, request_id)
        except Exception as error:  # noqa: BLE001 — whatever happens, the client gets an answer and the log the cause
            refusal = _refusal(error)
            status, root = refusal.http_status, "Error"
            body = _error_body(refusal, request_id, request.headers.get("Host", ""))
            if isinstance(refusal, ThrottledError):
                headers["x-acs-retry-after"] = str(refusal.retry_after_ms)
        as_xml = received is not None and received.wants_xml
        self._note(action, status, body, time.perf_counter() - began_s)
        return web.Response(
            body=to_xml(root, body) if as_xml else to_json(body),
            status=status,
            headers={**headers, "Content-Type": XML_TYPE if as_xml else JSON_TYPE},
        )

    async def _authenticate(self, received: wire.WireRequest) -> AccessKey:
        """Return the key that signed the request; raise unless the signature holds, is new, and the key may ask now."""
        if received.method not in METHODS:
            raise ApiError("UnsupportedHTTPMethod", "This http method is not supported; use GET or POST.", 405)
        if received.path != "/":
            raise ApiError("InvalidAction.NotFound", "Specified api is not found; every action is at the path /.", 404)
        claim = claim_of(received)
        key = self._context.reads.peek(AccessKey, claim.access_key_id)
        if key is None:
            raise ApiError("InvalidAccessKeyId.NotFound", "Specified access key is not found.", 404)
        if not claim.proved_by(key.secret):
            raise claim.mismatch()
        if key.status != "Active":
            raise ApiError("InvalidAccessKeyId.Inactive", "Specified access key is disabled.", 403)
        writes = _writes(received)
        self._throttle.take(key.id)
        if writes:
            self._write_throttle.take(key.id)
        await self._replay.check(claim, writes=writes)
        return key

    async def _call(
        self, action: Action, received: wire.WireRequest, key: AccessKey, request_id: str
    ) -> dict[str, Any]:
        context = self._context
        if action.operator and not key.operator:
            raise ApiError("Forbidden.Operator", "This action is for operators; use an operator's AccessKey.", 403)
        args = action.params.read(received.params)
        region = received.params.get("RegionId", context.region)
        if region not in ("", context.region) and "RegionId" not in action.params.roots:
            raise ApiError(
                "InvalidRegionId.NotFound", f"The specified RegionId does not exist; it is {context.region}.", 404
            )
        if received.params.get("DryRun", "").lower() == "true":
            if not action.writes:
                raise dry_run()
            if "DryRun" not in action.params.roots:
                raise invalid_parameter("DryRun", f"{action.name} cannot be tried dry; leave it out")
        caller = Caller(account=key.account, region=context.region, zone=context.zone, request_id=request_id)
        call = Call(context, caller, key, args, received.headers.get("Host", ""))
        async with asyncio.timeout(HANDLER_TIMEOUT_S):
            values = await action.handler(call)
        return action.answer.fill({**values, "RequestId": request_id})

    def _note(self, action: Action | None, status: int, body: dict[str, Any], took_s: float) -> None:
        """Write the access line: writes and refusals always, reads only when the level is debug."""
        say = _log.info if status >= 400 or (action is not None and action.writes) else _log.debug
        name = action.name if action is not None else ""
        say("request", action=name, status=status, code=body.get("Code", ""), took_ms=round(took_s * 1000, 2))


def _writes(received: wire.WireRequest) -> bool:
    """Return whether a request may change something; one that names no known action is looked at as a read."""
    try:
        return find(received.version, received.action).writes
    except ApiError:
        return False


async def _body(request: web.BaseRequest) -> bytes:
    """Read the body, bounded in size and time."""
    if not request.body_exists:
        return b""
    too_large = ApiError("RequestTooLarge", f"The request body is larger than {BODY_MAX} bytes.", 413)
    if (request.content_length or 0) > BODY_MAX:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.content.iter_any():
                size += len(part)
                if size > BODY_MAX:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise ApiError("RequestTimeout", f"The request body did not arrive in {BODY_TIMEOUT_S:.0f} s.", 408) from error
    return b"".join(parts)


def _refusal(error: Exception) -> ApiError:
    """Return what the client may know of an error; the rest goes to the log under the request id."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Conflict):
        _log.warning("records kept changing", error=str(error))
        return ApiError("OperationConflict", "Another request is changing the same resource; try again.", 409)
    if isinstance(error, PanguError):
        return _pangu_refusal(error)
    if isinstance(error, Unavailable | TimeoutError):
        _log.warning("below the front something does not answer", error=repr(error))
        return unavailable()
    if isinstance(error, StateError):
        _log.error("records cannot be read or written", error=repr(error))
        return internal()
    _log.error("request failed", exc_info=error)
    return internal()


def _pangu_refusal(error: PanguError) -> ApiError:
    """Return what an operator is told of a refusal by the block store."""
    for kind, code in (
        (pangu_errors.Invalid, "InvalidParameter"),
        (pangu_errors.NotFound, "InvalidVolumeId.NotFound"),
        (pangu_errors.InUse, "DependencyViolation"),
        (pangu_errors.Conflict, "IncorrectVolumeStatus"),
        (pangu_errors.NoPlacement, "OperationDenied.NoPlacement"),
        (pangu_errors.Unavailable, "ServiceUnavailable"),
    ):
        if isinstance(error, kind):
            return ApiError(code, str(error), error.status)
    _log.error("the block store failed", error=repr(error))
    return internal()


def _error_body(refusal: ApiError, request_id: str, host: str) -> dict[str, Any]:
    return {
        "Code": refusal.code,
        "HostId": host,
        "Message": refusal.message,
        "Recommend": "",
        "RequestId": request_id,
    }
