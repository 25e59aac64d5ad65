"""The door for hosts that join: a TLS listener of its own, on which nothing is said to who has no token.

Its certificate follows from the cluster's secret (:func:`yuntai.tls.derived_identity`), and its fingerprint stands in
every token: nobody in between can answer in our place, or read the secrets that a joining host gets.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from yuntai import log, tls
from yuntai.control.errors import ApiError
from yuntai.control.requests import joining
from yuntai.model.joinwire import BODY_BYTES_MAX, PATH_HELLO, PATH_JOIN, Joining, Refusal
from yuntai.state import StateError

if TYPE_CHECKING:
    from yuntai.config import Config
    from yuntai.state import Store

PURPOSE = "join"
CALL_TIMEOUT_S = 30.0
TOGETHER_MAX = 16
STOP_S = 5.0
_log = log.get("api.joining")


def endpoints(config: Config) -> tuple[str, ...]:
    """Return where hosts are let in: here, and on the hosts of etcd's members, where APIs run too."""
    members = (endpoint.rpartition(":")[0] for endpoint in config.etcd)
    return tuple(f"{address}:{config.join_port}" for address in dict.fromkeys((config.address, *members)))


def fingerprint(config: Config) -> bytes:
    """Return the fingerprint of the certificate that every API of this cluster has."""
    return tls.fingerprint(tls.derived_identity(config.secret("cluster"), PURPOSE)[0])


class Door:
    """The listener."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._together = asyncio.Semaphore(TOGETHER_MAX)
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post(PATH_HELLO, self._hello)
        application.router.add_post(PATH_JOIN, self._join)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=5.0, shutdown_timeout=STOP_S)

    async def open(self, address: str, port: int) -> int:
        """Listen; return the port."""
        context = await asyncio.to_thread(tls.derived_context, self._config.secret("cluster"), PURPOSE)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port, ssl_context=context, backlog=16).start()
        bound: int = self._runner.addresses[0][1]
        _log.info("listening for hosts that join", address=address, port=bound)
        return bound

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _hello(self, request: web.Request) -> web.Response:
        return await self._answer(request, join=False)

    async def _join(self, request: web.Request) -> web.Response:
        return await self._answer(request, join=True)

    async def _answer(self, request: web.Request, *, join: bool) -> web.Response:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S), self._together:
                token_id, secret = _credentials(request)
                await joining.need_token(self._store, token_id, secret)  # before anything that was sent is looked at
                if join:
                    asked = msgspec.json.decode(await request.read(), type=Joining)
                    answer: msgspec.Struct = await joining.join(self._store, self._config, token_id, secret, asked)
                    _log.info("host joined", host=asked.host, address=asked.address, token=token_id)
                else:
                    answer = await joining.hello(self._store, self._config, token_id, secret)
        except ApiError as error:
            _log.warning("host not let in", peer=request.remote, why=error.message)
            return _json(Refusal(message=error.message), error.http_status)
        except msgspec.DecodeError as error:
            return _json(Refusal(message=f"the request is not understood: {error}; use the cluster's version"), 400)
        except (StateError, TimeoutError) as error:
            _log.warning("host not let in", peer=request.remote, why=repr(error))
            return _json(Refusal(message="the cluster's store does not answer; try again in some seconds"), 503)
        return _json(answer, 200)


def _credentials(request: web.Request) -> tuple[str, bytes]:
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    token_id, _, secret = text.partition(":")
    try:
        return token_id, base64.b64decode(secret, validate=True) if kind == "Token" else b""
    except ValueError:
        return token_id, b""


def _json(body: msgspec.Struct, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
