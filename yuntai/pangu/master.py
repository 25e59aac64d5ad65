"""A master: stands for election, serves its HTTP API, and leads a :class:`Session` while it is elected."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from yuntai import log, tls
from yuntai.pangu.api import application
from yuntai.pangu.errors import Unavailable
from yuntai.pangu.office import Office
from yuntai.pangu.session import Session
from yuntai.pangu.tokens import Signer
from yuntai.state import StateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yuntai.config import Tls
    from yuntai.pangu.reach import Reach
    from yuntai.state import Store

ELECTION = "pangu"
TERM_TTL_S = 2.0
"""A leader that dies without a word is followed by another after about so long. etcd grants nothing shorter: one and a
half of its own election timeout (a second), in whole seconds."""
RETRY_S = 1.0
STOP_S = 3.0
"""What is still being answered gets so long when the process is told to end; then it is cut off, as by a crash."""

_log = log.get("master")


class Master:
    """One process's master. ``url`` is where others reach it: ``http://10.78.0.1:7300``."""

    def __init__(
        self, store: Store, *, host: str, url: str, cluster_secret: bytes, token_secret: bytes, files: Tls | None = None
    ) -> None:
        self._store = store
        self._name = f"master:{host}"
        self._url = url
        self._signer = Signer(token_secret)
        self.secret = cluster_secret
        self._client_context = tls.client_context(files) if files else None
        self._server_context = tls.server_context(files) if files else None
        self.session: Session | None = None
        """The term, while this master leads."""

    async def leader(self) -> str:
        """Return the leader's URL; raise :class:`Unavailable` while there is none."""
        url = await self._store.leader(ELECTION)
        if url is None or url == self._url:
            raise Unavailable("no master leads now; an election takes a few seconds, try again")
        return url

    async def run(self) -> None:
        """Stand for election, lead while elected, and again, until cancelled."""
        while True:
            away = None
            try:
                async with self._store.election(ELECTION, self._url, ttl_s=TERM_TTL_S) as term:
                    office = Office(
                        self._store, term.guard, self._name, self.secret, self._signer, self._client_context
                    )
                    away = await self._lead(office, term.lost)
            except StateError as error:
                _log.warning("cannot stand for election now", error=str(error))
            except Exception:  # noqa: BLE001 — logged whole
                # Whatever it is, the term is over and its parts are stopped; the next one starts clean.
                _log.exception("the term ended with a fault")
            await asyncio.sleep(RETRY_S)
            if away is not None:
                await away.regained()

    async def _lead(self, office: Office, lost: asyncio.Event) -> Reach | None:
        """Lead; return when the term is over, and with what is to be waited for before the next if it was given up."""
        session = Session(office)
        running = asyncio.create_task(session.run())
        deposed, away = asyncio.create_task(lost.wait()), asyncio.create_task(session.reach.lost())
        tasks = {running, deposed, away}
        try:
            self.session = session
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
            return session.reach if away in done else None
        finally:
            self.session = None
            for one in tasks:
                one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def listening(self, address: str, port: int) -> AsyncIterator[int]:
        """Serve the HTTP API on an address; give the port (asked for, or chosen by the system when it was 0)."""
        runner = web.AppRunner(application(self), access_log=None, shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            site = web.TCPSite(runner, address, port, reuse_address=True, ssl_context=self._server_context)
            await site.start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()
