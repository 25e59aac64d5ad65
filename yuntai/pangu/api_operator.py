"""The part of the master's HTTP API that is for whoever runs the store: what is done, what is wrong, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from yuntai.pangu import health, work
from yuntai.pangu.errors import Invalid
from yuntai.pangu.requests import Balance, Drain, GiveUp, Salvage, Scrub, Set

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from yuntai.pangu.session import Session

S = TypeVar("S")


def routes() -> list[tuple[str, str, Callable[[Session, web.Request, bytes], Awaitable[Any]]]]:
    """Return method, path and handler; only the leader answers."""
    return [
        ("GET", "/v1/pangu/work", _work),
        ("GET", "/v1/pangu/health", _health),
        ("GET", "/v1/pangu/settings", _settings),
        ("POST", "/v1/pangu/settings", _set),
        ("POST", "/v1/pangu/drain", _drain),
        ("POST", "/v1/pangu/balance", _balance),
        ("POST", "/v1/pangu/scrub", _scrub),
        ("POST", "/v1/pangu/salvage", _salvage),
        ("POST", "/v1/pangu/give_up", _give_up),
        ("DELETE", "/v1/chunkservers/{id}", _remove),
    ]


def _body(kind: type[S], raw: bytes) -> S:
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise Invalid(f"the request's body is wrong: {error}") from error


async def _work(session: Session, _request: web.Request, _raw: bytes) -> Any:
    return {"workers": work.workers(session)}


async def _health(session: Session, _request: web.Request, _raw: bytes) -> Any:
    return await health.report(session)


async def _settings(session: Session, _request: web.Request, _raw: bytes) -> Any:
    return {"settings": session.operations.settings(), "balancing": session.tuning.now.balancing}


async def _set(session: Session, _request: web.Request, raw: bytes) -> Any:
    await session.operations.set(_body(Set, raw).values)
    return {"settings": session.operations.settings()}


async def _drain(session: Session, _request: web.Request, raw: bytes) -> Any:
    wanted = _body(Drain, raw)
    return {"servers": await session.operations.drain(wanted.servers, wanted.rack, undo=wanted.undo)}


async def _balance(session: Session, _request: web.Request, raw: bytes) -> Any:
    return await session.operations.balance(stop=_body(Balance, raw).stop)


async def _scrub(session: Session, _request: web.Request, raw: bytes) -> Any:
    return await session.operations.scrub(_body(Scrub, raw).servers)


async def _salvage(session: Session, _request: web.Request, raw: bytes) -> Any:
    wanted = _body(Salvage, raw)
    await session.operations.salvage(wanted.volume, wanted.chunk)
    return {}


async def _give_up(session: Session, _request: web.Request, raw: bytes) -> Any:
    wanted = _body(GiveUp, raw)
    return {"volumes": await session.operations.give_up(wanted.server, data_is_lost=wanted.data_is_lost)}


async def _remove(session: Session, request: web.Request, _raw: bytes) -> Any:
    await session.operations.remove(request.match_info["id"])
    return {}
