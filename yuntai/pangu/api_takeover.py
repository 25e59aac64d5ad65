"""The master's HTTP API for live migration: volumes are announced to the destination, taken, or called off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from yuntai.pangu.errors import Invalid
from yuntai.pangu.requests import CalledOff, CallOff, HandOver
from yuntai.pangu.units import volume_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from yuntai.pangu.session import Session

S = TypeVar("S")


def routes() -> list[tuple[str, str, Callable[[Session, web.Request, bytes], Awaitable[Any]]]]:
    """Return method, path and handler."""
    return [
        ("POST", "/v1/volumes/{id}/announce", _announce),
        ("POST", "/v1/volumes/{id}/take", _take),
        ("POST", "/v1/handovers/call-off", _call_off),
    ]


def _body(kind: type[S], raw: bytes) -> S:
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise Invalid(f"the request's body is wrong: {error}") from error


def _id(request: web.Request) -> str:
    volume = request.match_info["id"]
    volume_number(volume)
    return volume


async def _announce(session: Session, request: web.Request, body: bytes) -> Any:
    wanted = _body(HandOver, body)
    return await session.takeover.announce(_id(request), wanted.host, wanted.ticket)


async def _take(session: Session, request: web.Request, body: bytes) -> Any:
    wanted = _body(HandOver, body)
    return await session.takeover.take(_id(request), wanted.host, wanted.ticket)


async def _call_off(session: Session, _request: web.Request, body: bytes) -> Any:
    wanted = _body(CallOff, body)
    for volume in wanted.volumes:
        volume_number(volume)
    return CalledOff(taken=await session.takeover.call_off(wanted.volumes, wanted.host, wanted.ticket))
