"""The master's HTTP API (JSON), for the cluster's own processes. See the table in :func:`routes`."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from yuntai import __version__, log
from yuntai.model.base import ago_utc
from yuntai.pangu import api_operator, api_takeover, http_auth, rules
from yuntai.pangu.errors import Invalid, NotFound, PanguError
from yuntai.pangu.office import unavailable
from yuntai.pangu.requests import (
    Attach,
    CreateVolume,
    Detach,
    GroupTaken,
    Keep,
    Resize,
    Rollback,
    Snapshot,
    SnapshotGroup,
    Taken,
    WhatChanged,
)
from yuntai.pangu.units import chunk_count, is_hydrated, volume_number
from yuntai.state import NotFound as NoRecord
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yuntai.model.cluster import Volume
    from yuntai.pangu.master import Master
    from yuntai.pangu.session import Session

BODY_BYTES_MAX = 1 << 20
MISDIRECTED = 421

S = TypeVar("S")
Handler = "Callable[[Session, web.Request, bytes], Awaitable[Any]]"

_log = log.get("api")
_encode = msgspec.json.Encoder().encode


def application(master: Master) -> web.Application:
    """Return the aiohttp application of one master."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    guard = http_auth.Guard(master.secret)
    for method, path, handler in (*routes(), *api_operator.routes(), *api_takeover.routes()):
        app.router.add_route(method, path, _endpoint(master, guard, handler))
    app.router.add_route("GET", "/v1/health", _health(master))
    app.router.add_route("*", "/{rest:.*}", _endpoint(master, guard, _nothing))
    return app


def routes() -> list[tuple[str, str, Callable[[Session, web.Request, bytes], Awaitable[Any]]]]:
    """Return method, path and handler of everything that only the leader answers."""
    volume = "/v1/volumes/{id}"
    return [
        ("POST", "/v1/volumes", _create),
        ("GET", "/v1/volumes", _list),
        ("GET", volume, _get),
        ("DELETE", volume, _delete),
        ("POST", f"{volume}/attach", _attach),
        ("POST", f"{volume}/detach", _detach),
        ("POST", f"{volume}/resize", _resize),
        ("POST", f"{volume}/snapshot", _snapshot),
        ("POST", f"{volume}/changes", _changes),
        ("DELETE", f"{volume}/snapshots/{{key}}", _delete_snapshot),
        ("POST", f"{volume}/rollback", _rollback),
        ("POST", f"{volume}/renew", _renew),
        ("POST", f"{volume}/keep", _keep),
        ("GET", f"{volume}/tree", _tree),
        ("POST", "/v1/snapshot-groups", _snapshot_group),
        ("GET", f"{volume}/stats", _stats),
        ("GET", f"{volume}/placement", _placement),
        ("GET", "/v1/chunkservers", _chunkservers),
        ("GET", "/v1/gateways", _gateways),
    ]


def _endpoint(
    master: Master, guard: http_auth.Guard, handler: Callable[[Session, web.Request, bytes], Awaitable[Any]]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Wrap a handler: check the proof, send to the leader, turn errors into answers, log what changes things."""

    async def endpoint(request: web.Request) -> web.Response:
        request_id = request.headers.get("X-Request-Id") or str(uuid.uuid4())
        with structlog.contextvars.bound_contextvars(request_id=request_id[:64]):
            try:
                body = await request.read()
                guard.check(request.method, request.path_qs, body, request.headers)
                session = master.session
                if session is None:
                    return _json(MISDIRECTED, {"leader": await master.leader()})
                return _json(200, await handler(session, request, body))
            except PanguError as error:
                _log.info("refused", method=request.method, path=request.path, code=error.code, error=str(error))
                return _error(error)
            except StateError as error:
                missing = isinstance(error, NoRecord)
                return _error(NotFound(str(error)) if missing else unavailable(error))

    return endpoint


def _health(master: Master) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def health(_: web.Request) -> web.Response:
        """Answer without proof: a supervisor asks this. It tells nothing that the port being open does not."""
        return _json(200, {"role": "leader" if master.session else "standby", "version": __version__})

    return health


def _json(status: int, body: Any) -> web.Response:
    return web.Response(status=status, body=_encode(body), content_type="application/json")


def _error(error: PanguError) -> web.Response:
    return _json(error.status, {"error": {"code": error.code, "message": str(error), "details": error.details}})


def _body(kind: type[S], raw: bytes) -> S:
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise Invalid(f"the request's body is wrong: {error}") from error


def _id(request: web.Request) -> str:
    volume_id = request.match_info["id"]
    volume_number(volume_id)
    return volume_id


def view(volume: Volume) -> dict[str, Any]:
    """Return a volume as clients see it: the record, and what follows from it."""
    shown: dict[str, Any] = msgspec.to_builtins(volume)
    chunks = chunk_count(volume.size_bytes)
    shown["chunks"] = chunks
    shown["hydrated"] = is_hydrated(volume)
    shown["progress"] = 100 if is_hydrated(volume) else 100 * volume.hydrated_chunks // chunks
    return shown


async def _nothing(_session: Session, request: web.Request, _body: bytes) -> Any:
    raise NotFound(f"there is no {request.method} {request.path} in this API")


async def _create(session: Session, _request: web.Request, body: bytes) -> Any:
    return view(await session.volumes.create(_body(CreateVolume, body)))


async def _list(session: Session, _request: web.Request, _body: bytes) -> Any:
    return [view(one.value) for one in await session.volumes.list()]


async def _get(session: Session, request: web.Request, _body: bytes) -> Any:
    return view((await session.office.volume(_id(request))).value)


async def _delete(session: Session, request: web.Request, _body: bytes) -> Any:
    return view(await session.volumes.delete(_id(request)))


async def _attach(session: Session, request: web.Request, body: bytes) -> Any:
    wanted = _body(Attach, body)
    want = rules.Want(
        host=wanted.host,
        read_only=wanted.read_only,
        read_node=wanted.node,
        if_generation=wanted.if_generation,
    )
    return await session.volumes.attach(_id(request), want)


async def _detach(session: Session, request: web.Request, body: bytes) -> Any:
    wanted = _body(Detach, body)
    return view(await session.volumes.detach(_id(request), wanted.host, force=wanted.force))


async def _resize(session: Session, request: web.Request, body: bytes) -> Any:
    return view(await session.volumes.resize(_id(request), _body(Resize, body).size_bytes))


async def _snapshot(session: Session, request: web.Request, body: bytes) -> Any:
    return Taken(node=await session.snapshots.take(_id(request), _body(Snapshot, body).name))


async def _snapshot_group(session: Session, _request: web.Request, body: bytes) -> Any:
    return GroupTaken(nodes=await session.snapshots.take_group(_body(SnapshotGroup, body).volumes))


async def _delete_snapshot(session: Session, request: web.Request, _body: bytes) -> Any:
    return view(await session.snapshots.delete(_id(request), request.match_info["key"]))


async def _rollback(session: Session, request: web.Request, body: bytes) -> Any:
    wanted = _body(Rollback, body)
    return view(await session.snapshots.rollback(_id(request), wanted.snapshot, wanted.token))


async def _renew(session: Session, request: web.Request, _body: bytes) -> Any:
    await session.volumes.renew(_id(request))
    return {}


async def _keep(session: Session, request: web.Request, body: bytes) -> Any:
    keep_s = _body(Keep, body).keep_s
    until = ago_utc(-keep_s) if keep_s > 0 else ""
    return view(await session.office.change(_id(request), lambda volume: rules.keep(volume, until)))


async def _tree(session: Session, request: web.Request, _body: bytes) -> Any:
    return await session.snapshots.tree(_id(request), fresh=request.query.get("fresh") == "yes")


async def _changes(session: Session, request: web.Request, body: bytes) -> Any:
    asked = _body(WhatChanged, body)
    return await session.changes.between(_id(request), asked.since, asked.node, asked.first_chunk, asked.chunks)


async def _stats(session: Session, request: web.Request, _body: bytes) -> Any:
    return await session.volumes.stats(_id(request))


async def _placement(session: Session, request: web.Request, _body: bytes) -> Any:
    return await session.volumes.placement(_id(request))


async def _chunkservers(session: Session, _request: web.Request, _body: bytes) -> Any:
    await session.servers.ready()
    return session.servers.records()


async def _gateways(session: Session, _request: web.Request, _body: bytes) -> Any:
    return session.gateways.states()
