"""The client of the master's HTTP API, for the cluster's own processes.

It finds the leader among the masters it knows, follows when the leader changes, and asks again what failed on the
way: every request of the API may be repeated. Errors are those of :mod:`yuntai.pangu.errors`.
"""

from __future__ import annotations

import asyncio
import itertools
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
import structlog

from yuntai import tls
from yuntai.model.cluster import ChunkServer, Volume, VolumeSource
from yuntai.pangu import http_auth
from yuntai.pangu.answers import Moved, convert, read
from yuntai.pangu.errors import NotFound, PanguError, Unavailable
from yuntai.pangu.patience import while_well
from yuntai.pangu.requests import Attached, GroupTaken, Taken
from yuntai.pangu.tree import Tree

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from yuntai.config import Config

REQUEST_TIMEOUT_S = 45.0
"""One try. An attach may take this long while replicas are levelled."""
CONNECT_TIMEOUT_S = 2.0
HEALTH_TIMEOUT_S = 1.5
RETRY_FOR_S = 15.0
"""Longer than an election, so that callers do not notice one."""
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 1.0

T = TypeVar("T")


class PanguClient:
    """Methods for each request. Close it at the end, or use it with ``async with``."""

    def __init__(
        self,
        urls: Sequence[str],
        secret: bytes,
        *,
        retry_for_s: float = RETRY_FOR_S,
        context: ssl.SSLContext | None = None,
    ) -> None:
        if not urls:
            raise ValueError("no master's URL is given; list at least one, such as http://10.0.0.1:7300")
        self._urls = list(dict.fromkeys(url.rstrip("/") for url in urls))
        self._secret = secret
        self._retry_for_s = retry_for_s
        self._context = context
        self._leader = self._urls[0]
        self._http: aiohttp.ClientSession | None = None

    @classmethod
    def from_config(cls, config: Config) -> PanguClient:
        """Return a client of this cluster: masters run on this host and on the hosts of etcd."""
        hosts = [config.address, *(endpoint.rpartition(":")[0] for endpoint in config.etcd)]
        context = tls.client_context(config.tls) if config.tls else None
        scheme = "https" if context else "http"
        urls = [f"{scheme}://{host}:{config.master_port}" for host in hosts]
        return cls(urls, config.secret("cluster"), context=context)

    async def create_volume(
        self,
        size_bytes: int,
        *,
        volume_id: str = "",
        source: VolumeSource | None = None,
        client_token: str = "",
        keep_s: int = 0,
    ) -> Volume:
        """Create a volume; with an id or a token that was used before, return the volume made then.

        ``keep_s`` makes an auxiliary one: it is deleted by itself when :meth:`keep` was not called for so long.
        """
        body = {"size_bytes": size_bytes, "id": volume_id, "client_token": client_token, "keep_s": keep_s}
        body["source"] = msgspec.to_builtins(source)
        return convert(await self.request("POST", "/v1/volumes", body), Volume)

    async def volumes(self) -> list[dict[str, Any]]:
        """Return every volume: the record's fields, and ``chunks``, ``hydrated``, ``progress`` (percent)."""
        return convert(await self.request("GET", "/v1/volumes"), list[dict[str, Any]])

    async def volume(self, volume_id: str) -> Volume:
        """Return one volume; raise :class:`NotFound`."""
        return convert(await self.request("GET", f"/v1/volumes/{volume_id}"), Volume)

    async def show_volume(self, volume_id: str) -> dict[str, Any]:
        """Return one volume as :meth:`volumes` does, with ``stats`` of its gateway and ``placement`` per chunk."""
        shown = convert(await self.request("GET", f"/v1/volumes/{volume_id}"), dict[str, Any])
        shown["stats"] = await self.stats(volume_id)
        shown["placement"] = await self.request("GET", f"/v1/volumes/{volume_id}/placement")
        return shown

    async def delete_volume(self, volume_id: str) -> None:
        """Delete a volume; fine if it is gone. Raise :class:`~yuntai.pangu.errors.InUse` while others stand on it."""
        try:
            await self.request("DELETE", f"/v1/volumes/{volume_id}")
        except NotFound:
            return

    async def attach(
        self, volume_id: str, host: str, *, read_only: bool = False, node: int = -1, if_generation: int = -1
    ) -> Attached:
        """Have ``host`` serve the volume (read-only also a snapshot's ``node``); whoever had it before is fenced.

        With ``if_generation`` raise :class:`Conflict` if the volume was given to anybody since it had that one.
        """
        body = {"host": host, "read_only": read_only, "node": node}
        if if_generation != -1:  # masters of an older version do not know it, and say so
            body["if_generation"] = if_generation
        return convert(await self.request("POST", f"/v1/volumes/{volume_id}/attach", body), Attached)

    async def connect(self, volume_id: str, host: str, *, read_only: bool = False) -> str:
        """Attach, and return the NBD URI to use on that host."""
        return (await self.attach(volume_id, host, read_only=read_only)).uri

    async def detach(self, volume_id: str, host: str, *, force: bool = False) -> Volume:
        """Flush and let go; fine if it is not attached. ``force`` goes on without a gateway that does not answer."""
        body = {"host": host, "force": force}
        return convert(await self.request("POST", f"/v1/volumes/{volume_id}/detach", body), Volume)

    async def resize(self, volume_id: str, size_bytes: int) -> Volume:
        """Grow a volume to ``size_bytes``, also while it is attached."""
        return convert(
            await self.request("POST", f"/v1/volumes/{volume_id}/resize", {"size_bytes": size_bytes}), Volume
        )

    async def keep(self, volume_id: str, keep_s: int) -> None:
        """Say that an auxiliary volume is still needed, for ``keep_s`` at least; 0 makes it one like any other."""
        volume = convert(await self.request("POST", f"/v1/volumes/{volume_id}/keep", {"keep_s": keep_s}), Volume)
        if keep_s == 0 and volume.kept_until:
            raise Unavailable(f"the master is too old to keep volume {volume_id} for good; upgrade it, then try again")

    async def renew(self, volume_id: str) -> None:
        """Have the volume's NBD clients connect again, so that they see its present size."""
        await self.request("POST", f"/v1/volumes/{volume_id}/renew", {})

    async def snapshot(self, volume_id: str, name: str = "") -> int:
        """Take a snapshot and return its node. Give a ``name`` (the snapshot's id), so that a retry finds it."""
        return convert(await self.request("POST", f"/v1/volumes/{volume_id}/snapshot", {"name": name}), Taken).node

    async def changes(
        self, volume_id: str, node: int, *, since: int = -1, first_chunk: int = 0, chunks: int = 64
    ) -> list[tuple[int, int, bool]]:
        """Return what may differ in snapshot ``node`` from node ``since`` (-1: from nothing): (block, blocks, data?).

        Blocks count from ``first_chunk``. Raise :class:`~yuntai.pangu.errors.Conflict` if nobody knows what ``since``
        was.
        """
        body = {"node": node, "since": since, "first_chunk": first_chunk, "chunks": chunks}
        answer = await self.request("POST", f"/v1/volumes/{volume_id}/changes", body)
        return convert(answer, list[tuple[int, int, bool]])

    async def snapshot_group(self, names: dict[str, str]) -> dict[str, int]:
        """Freeze several volumes at one moment: volume → name in, volume → node out. With the same names the same."""
        return convert(await self.request("POST", "/v1/snapshot-groups", {"volumes": names}), GroupTaken).nodes

    async def delete_snapshot(self, volume_id: str, snapshot: str | int) -> None:
        """Delete a snapshot, by node or name; fine if it is gone. What clones still read stays until they have it."""
        try:
            await self.request("DELETE", f"/v1/volumes/{volume_id}/snapshots/{quote(str(snapshot), safe='')}")
        except NotFound:
            return

    async def rollback(self, volume_id: str, snapshot: str | int, token: str = "") -> Volume:
        """Let a volume that is not attached go on from a snapshot, by node or name; with a ``token`` only once."""
        body = {"snapshot": str(snapshot), "token": token}
        return convert(await self.request("POST", f"/v1/volumes/{volume_id}/rollback", body), Volume)

    async def tree(self, volume_id: str, *, fresh: bool = False) -> Tree:
        """Return the tree of a volume's snapshots, with the bytes as last counted; ``fresh`` counts them now."""
        path = f"/v1/volumes/{volume_id}/tree" + ("?fresh=yes" if fresh else "")
        return convert(await self.request("GET", path), Tree)

    async def stats(self, volume_id: str) -> dict[str, Any]:
        """Return what the gateway says of an attached volume now; empty if it is not attached."""
        return convert(await self.request("GET", f"/v1/volumes/{volume_id}/stats"), dict[str, Any])

    async def chunkservers(self) -> list[ChunkServer]:
        """Return every chunk server with its present figures."""
        return convert(await self.request("GET", "/v1/chunkservers"), list[ChunkServer])

    async def gateways(self) -> list[dict[str, Any]]:
        """Return every gateway: ``id``, ``address``, ``nbd_dir``, ``state``, ``volumes`` (a count), ``pid``…."""
        return convert(await self.request("GET", "/v1/gateways"), list[dict[str, Any]])

    async def masters(self) -> dict[str, str]:
        """Return every known master's URL → "leader", "standby", or "down"."""

        async def role(url: str) -> str:
            try:
                async with PanguClient([url], self._secret, retry_for_s=0.0, context=self._context) as one:
                    return str((await one.health())["role"])
            except PanguError:
                return "down"

        roles = await asyncio.gather(*(role(url) for url in self._urls))
        return dict(zip(self._urls, roles, strict=True))

    async def operate(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask what only the operator asks; the table is in :func:`yuntai.pangu.api_operator.routes`.

        ``work``, ``health``, ``settings`` without a body; with one ``settings``, ``drain``, ``balance``, ``scrub``,
        ``salvage``, ``give_up``.
        """
        method = "GET" if body is None else "POST"
        return convert(await self.request(method, f"/v1/pangu/{what}", body), dict[str, Any])

    async def remove_server(self, server_id: str) -> None:
        """Forget a chunk server that was drained; fine if it is gone."""
        await self.request("DELETE", f"/v1/chunkservers/{server_id}")

    async def health(self) -> dict[str, Any]:
        """Return the role and version of the master that is asked first."""
        return convert(await self.request("GET", "/v1/health"), dict[str, Any])

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one request to the leading master and return the JSON that it answers.

        Tries for ``retry_for_s`` while masters cannot be reached, elect, or answer "unavailable". Raise what the
        master answers, or :class:`Unavailable`.
        """
        raw = b"" if body is None else msgspec.json.encode(body)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._retry_for_s
        backoff_s = BACKOFF_FIRST_S
        others = itertools.cycle(self._urls)
        while True:
            try:
                return await self._once(method, path, raw)
            except Moved as moved:
                self._leader = moved.url
                error: PanguError = Unavailable(f"the masters do not agree who leads ({moved.url}?); try again")
            except Unavailable as failed:
                error = failed
                # Perhaps another master knows better: all in turn, round and round.
                asked, self._leader = self._leader, next(others)
                if self._leader == asked:
                    self._leader = next(others)
            if loop.time() + backoff_s > give_up_at:
                raise error
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    async def _once(self, method: str, path: str, raw: bytes) -> Any:
        proof = http_auth.sign(self._secret, method, path, raw, host=urlsplit(self._leader).netloc)
        headers = {"Content-Type": "application/json", **proof}
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if request_id:
            headers["X-Request-Id"] = str(request_id)
        leader = self._leader
        try:
            status, answer = await while_well(
                self._send(method, leader + path, raw, headers), lambda: self._well(leader)
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"the master at {leader} cannot be reached: {error or 'no answer in time'}") from error
        return read(status, answer, leader)

    async def _send(self, method: str, url: str, raw: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        name = tls.NAME if self._context else None
        async with self._session().request(
            method, url, data=raw, headers=headers, allow_redirects=False, server_hostname=name
        ) as response:
            return response.status, await response.read()

    async def _well(self, url: str) -> bool:
        """Tell whether a master lives, which an attach that takes long does not say."""
        name, timeout = tls.NAME if self._context else None, aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
        try:
            async with self._session().get(f"{url}/v1/health", server_hostname=name, timeout=timeout) as response:
                return response.status == HTTPStatus.OK
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S)
            tcp = aiohttp.TCPConnector(ssl=self._context or True)
            self._http = aiohttp.ClientSession(timeout=timeout, trust_env=False, connector=tcp)
        return self._http

    async def close(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
