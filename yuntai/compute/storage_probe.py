"""Does this host reach the block store? Looked at only while it has guests, by asking the programs themselves.

Its own gateway must answer, and at least two chunk servers: with fewer than two no volume takes a write. A host that
does not for a while says so in its record; whether that is the host's fault or the store's, control judges, as it
hears the others.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yuntai import log
from yuntai.model.cluster import ChunkServer
from yuntai.pangu import wire
from yuntai.state import StateError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from yuntai.compute.witness import Prober
    from yuntai.config import Config
    from yuntai.state import Store

PERIOD_S = 2.0
DEAD_AFTER_S = 6.0
SERVERS_WANTED = 2
SERVERS_ASKED = 6
LIST_EVERY_S = 20.0
_LOG = log.get("compute.guard")


@dataclass(slots=True)
class Verdict:
    """What the answers of a while amount to."""

    bad_since: float | None = None
    probes: int = 0

    def hear(self, now: float, *, good: bool) -> bool:
        """Take in one round; return whether the path is dead. One bad round, however late it came, is not enough."""
        if good:
            self.bad_since, self.probes = None, 0
            return False
        if self.bad_since is None:
            self.bad_since = now
        self.probes += 1
        return self.probes >= 3 and now - self.bad_since >= DEAD_AFTER_S


class StorageProbe:
    """Asks the gateway and a sample of the chunk servers."""

    def __init__(self, store: Store, config: Config, prober: Prober, context: ssl.SSLContext | None) -> None:
        self._store = store
        self._config = config
        self._prober = prober
        self._context = context
        self._servers: list[str] = []
        self._listed_at = float("-inf")

    async def good(self) -> bool:
        """Tell whether the path is good now; true where there is no block store yet."""
        servers = await self._known()
        if not servers:
            return True
        asked = random.sample(servers, min(SERVERS_ASKED, len(servers)))
        gateway, *answers = await asyncio.gather(
            self._prober.gateway_answers(self._config.address), *(self._answers(one) for one in asked)
        )
        good = gateway and sum(answers) >= min(SERVERS_WANTED, len(servers))
        if not good:
            # A server that came back since, this host's own say, is not among those that were asked.
            self._listed_at = float("-inf")
            _LOG.warning("storage not reached", gateway=gateway, chunk_servers=f"{sum(answers)} of {len(asked)}")
        return good

    async def _known(self) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        if loop.time() - self._listed_at >= LIST_EVERY_S:
            try:
                listed = await self._store.list(ChunkServer)
            except StateError:
                return self._servers  # as known before
            self._servers = [one.value.address for one in listed if one.value.state != "down"]
            self._listed_at = loop.time()
        return self._servers

    async def _answers(self, address: str) -> bool:
        secret = self._config.secret("cluster")
        try:
            channel = await wire.connect(address, secret, f"guard:{self._config.host}", 1.0, context=self._context)
        except wire.WireError:
            return False
        await channel.close()
        return True
