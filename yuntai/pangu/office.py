"""What a leading master has in its hands: the store, the proof that it leads, its secrets, a lock per volume."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yuntai.model.cluster import PanguTerm, Volume
from yuntai.pangu import wire
from yuntai.pangu.errors import NotFound, Unavailable
from yuntai.state import NotFound as NoRecord
from yuntai.state import StateError, Unchanged, Versioned

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable

    from yuntai.model.base import Record
    from yuntai.pangu.tokens import Signer
    from yuntai.state import Store
    from yuntai.state.election import Leader

DIAL_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Office:
    """Given at election; every write carries ``guard``, so one that comes after the office was lost fails."""

    store: Store
    guard: Unchanged[Leader]
    name: str  # "master:h1", as peers see it
    cluster_secret: bytes
    signer: Signer
    tls: ssl.SSLContext | None = None
    lineage: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held where a source is chosen or a volume dies, so that no clone is made of what is being deleted."""
    together: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the volumes of a group are switched to their new heads."""
    _locks: weakref.WeakValueDictionary[str, asyncio.Lock] = field(default_factory=weakref.WeakValueDictionary)

    placing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from the choice of servers to the record that names them, so that no server is removed in between."""

    _terms: list[int] = field(default_factory=list)

    @property
    def term(self) -> int:
        """A number that grows with every election: chunk servers refuse destructive requests of a former leader."""
        return self._terms[-1] if self._terms else self.guard.record.mod_revision

    async def raise_term(self) -> None:
        """Take a higher term, to be safe from requests of this master's own that may still be on their way.

        It is the revision of a write of this leadership, so that of any later leader is higher still.
        """
        mark = PanguTerm(id="pangu", leader=self.guard.record.mod_revision, number=len(self._terms) + 1)
        if await self.store.txn(compare=[self.guard], put=[mark]):
            found = await self.store.get(PanguTerm, mark.id)
            if found is not None and found.value == mark:
                self._terms.append(found.mod_revision)

    @asynccontextmanager
    async def lock(self, volume_id: str) -> AsyncIterator[None]:
        """Hold one volume: operations on it run one after another. Events of gateways do not wait for it."""
        lock = self._locks.get(volume_id)
        if lock is None:
            lock = self._locks[volume_id] = asyncio.Lock()
        async with lock:
            yield

    async def dial(self, address: str, expected: str) -> wire.Channel:
        """Connect to a gateway or chunk server and see that it is who is registered there.

        An event from a process that is taken for another host's, or a status for another disk's, would be believed.
        """
        channel = await wire.connect(address, self.cluster_secret, self.name, DIAL_TIMEOUT_S, context=self.tls)
        if channel.peer["server"] != expected:
            await channel.close()
            raise wire.WireError(f"{address} is {channel.peer['server']}, but {expected} is registered there")
        return channel

    async def volume(self, volume_id: str) -> Versioned[Volume]:
        """Return a volume's record; raise :class:`~yuntai.pangu.errors.NotFound`."""
        found = await self.store.get(Volume, volume_id)
        if found is None:
            raise NotFound(f"there is no volume {volume_id}")
        return found

    async def change(self, volume_id: str, rule: Callable[[Volume], Volume]) -> Volume:
        """Replace a volume's record by ``rule`` of it; return what is stored. The rule may raise, and may run again."""
        try:
            return await self.store.update(Volume, volume_id, rule, guard=[self.guard])
        except NoRecord as error:
            raise NotFound(f"there is no volume {volume_id}") from error

    async def write(self, compare: Iterable[Versioned[Volume]], put: Iterable[Record]) -> bool:
        """Write records if the compared volumes did not change and this master still leads."""
        return await self.store.txn(compare=[self.guard, *(Unchanged(one) for one in compare)], put=list(put))


def unavailable(error: StateError) -> Unavailable:
    """Return what a caller is told when etcd does not do what it should."""
    return Unavailable(f"the cluster's state cannot be read or written now: {error}")
