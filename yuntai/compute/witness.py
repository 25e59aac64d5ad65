"""Witnesses: each host answers whether it reaches another one.

Control's leader asks before it calls a host failed; so does the guard of a host that lost etcd, about itself.

A host is reached when its guard or its gateway *answers*: a frozen host still accepts connections, as its kernel does.
Questions are proved with the cluster's secret, and only hosts that have a record can be asked about.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from aiohttp import web

from yuntai import log, tls
from yuntai.pangu import http_auth, wire
from yuntai.pangu.errors import PanguError

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from yuntai.config import Config
    from yuntai.model.cluster import HostAlive

WITNESSES_MAX = 5
PROBE_S = 1.0
PROBES = 2  # a lost packet costs a second
ASK_S = PROBES * PROBE_S + 1.0
PROBES_AT_ONCE_MAX = 16
STOP_S = 2.0
_LOG = log.get("compute.witness")


def witnesses_of(host: str, alive: Iterable[HostAlive]) -> list[HostAlive]:
    """Return who is to be asked about ``host``: the same few, whoever chooses from the same hosts."""
    others = (one for one in alive if one.id != host)
    return sorted(others, key=lambda one: hashlib.sha256(f"{host} {one.id}".encode()).digest())[:WITNESSES_MAX]


class Prober:
    """Asks guards and gateways. One for a process; use it with ``async with``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._secret = config.secret("cluster")
        self._context: ssl.SSLContext | None = tls.client_context(config.tls) if config.tls else None
        self._slots = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Prober:
        connector = aiohttp.TCPConnector(ssl=self._context or True, force_close=True)
        self._http = aiohttp.ClientSession(trust_env=False, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    async def reaches(self, address: str) -> bool:
        """Tell whether the guard or the gateway of the host at ``address`` answers."""
        async with self._slots:
            answers = [
                asyncio.create_task(self._twice(lambda: self._alive(address))),
                asyncio.create_task(self._twice(lambda: self.gateway_answers(address))),
            ]
            try:
                for answer in asyncio.as_completed(answers):
                    if await answer:
                        return True
                return False
            finally:
                for task in answers:
                    task.cancel()
                await asyncio.gather(*answers, return_exceptions=True)

    async def ask(self, witness: HostAlive, host: str) -> bool | None:
        """Return whether ``witness`` reaches ``host``; ``None`` if it does not answer, or cannot tell."""
        answer = await self._get(witness.address, f"/v1/reach/{host}", ASK_S)
        reached = answer.get("reached") if answer else None
        return reached if isinstance(reached, bool) else None

    async def gateway_answers(self, address: str) -> bool:
        """Tell whether the gateway at ``address`` begins its handshake."""
        return await wire.greets(f"{address}:{self._config.gateway_port}", PROBE_S, context=self._context)

    async def _alive(self, address: str) -> bool:
        return await self._get(address, "/v1/alive", PROBE_S) is not None

    async def _twice(self, probe: Callable[[], Any]) -> bool:
        loop = asyncio.get_running_loop()
        for _ in range(PROBES):
            began = loop.time()
            if await probe():
                return True
            await asyncio.sleep(max(0.0, PROBE_S - (loop.time() - began)))  # a refusal comes at once; ask later again
        return False

    async def _get(self, address: str, path: str, timeout_s: float) -> dict[str, Any] | None:
        assert self._http is not None  # noqa: S101 — entered
        netloc = f"{address}:{self._config.agent_port}"
        url = f"{'https' if self._context else 'http'}://{netloc}{path}"
        proof = http_auth.sign(self._secret, "GET", path, b"", host=netloc)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        name = tls.NAME if self._context else None
        try:
            async with self._http.get(url, headers=proof, timeout=timeout, server_hostname=name) as response:
                if response.status != web.HTTPOk.status_code:
                    return None
                answer = msgspec.json.decode(await response.content.read(4096))
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None
        return answer if isinstance(answer, dict) else None


@asynccontextmanager
async def answering(
    config: Config, prober: Prober, address_of: Callable[[str], Awaitable[str | None]]
) -> AsyncIterator[int]:
    """Answer questions at the host's ``agent_port``; give the port. ``address_of`` knows the hosts with a record."""
    guard = http_auth.Guard(config.secret("cluster"))

    async def alive(request: web.Request) -> web.Response:
        return _proved(guard, request) or web.json_response({"host": config.host})

    async def reach(request: web.Request) -> web.Response:
        refusal = _proved(guard, request)
        if refusal is not None:
            return refusal
        address = await address_of(request.match_info["host"])
        if address is None:
            return web.json_response({"reached": None, "error": "this host knows no such host"})
        return web.json_response({"reached": await prober.reaches(address)})

    app = web.Application(client_max_size=1024)
    app.add_routes([web.get("/v1/alive", alive), web.get("/v1/reach/{host}", reach)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        context = tls.server_context(config.tls) if config.tls else None
        site = web.TCPSite(runner, config.address, config.agent_port, reuse_address=True, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _proved(guard: http_auth.Guard, request: web.Request) -> web.Response | None:
    try:
        guard.check(request.method, request.path_qs, b"", request.headers)
    except PanguError as error:
        _LOG.info("refused", path=request.path, peer=request.remote, error=str(error))
        return web.json_response({"error": str(error)}, status=error.status)
    return None
