"""Against requests that are sent again: a window of time, and a memory of the nonces seen inside it.

Every nonce is remembered in this process, bounded. A nonce of a request that *writes* is remembered in etcd as well,
under a lease, so that it is refused by another API process too and after a restart; that costs one more transaction
beside those of the write. A read is not worth one: who can replay it in that gap could read its answer the first time.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import ClassVar

from yuntai.api.errors import ThrottledError, missing_parameter, unavailable
from yuntai.api.signature import Claim
from yuntai.control.errors import ApiError
from yuntai.model.base import Record
from yuntai.state import Absent, Lease, LeaseLost, Store

WINDOW_S = 15 * 60
NONCE_MAX = 256
MEMORY_MAX = 2_000_000
"""Nonces that one process remembers, about 100 bytes each; above that it refuses rather than forgets."""
MEMORY_PER_KEY_MAX = 300_000
"""Nonces of one AccessKey: what the throttle lets through in the window, so that one key cannot fill the memory."""
LEASE_TTL_S = 2 * WINDOW_S + 60.0
LEASE_TURN_S = 600.0
"""How long one lease takes new nonces; then the next begins and this one runs out by itself."""


class Nonce(Record, frozen=True, kw_only=True):
    """A nonce that was used. ``id`` is a digest of AccessKeyId and nonce."""

    KIND: ClassVar[str] = "nonce"


def used_again() -> ApiError:
    """Return the refusal of a nonce that was seen before."""
    return ApiError("SignatureNonceUsed", "The request signature nonce has been used.")


def parse_time(text: str) -> float:
    """Return seconds since 1970 for ``2026-01-31T08:00:00Z``, the one form that both schemes send."""
    try:
        return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC).timestamp()
    except ValueError as error:
        raise ApiError(
            "InvalidTimeStamp.Format",
            "Specified time stamp or date value is not well formatted; use 2026-01-31T08:00:00Z.",
        ) from error


class NonceMemory:
    """The nonces of this process, by key and by the minute in which their time stamps leave the window."""

    def __init__(
        self,
        limit: int = MEMORY_MAX,
        limit_per_key: int = MEMORY_PER_KEY_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limit = limit
        self._limit_per_key = limit_per_key
        self._clock = clock
        self._seen: dict[str, dict[int, set[bytes]]] = {}
        self._count = 0
        self._swept_minute = 0

    def remember(self, access_key_id: str, nonce: bytes, time_stamp_s: float) -> None:
        """Note a nonce, or raise because it is known or because the memory is full."""
        minute = int(self._clock() // 60)
        if minute != self._swept_minute:
            self._sweep(minute)
        mine = self._seen.setdefault(access_key_id, {})
        if any(nonce in nonces for nonces in mine.values()):
            raise used_again()
        if self._count >= self._limit or sum(map(len, mine.values())) >= self._limit_per_key:
            raise ThrottledError(1000)
        mine.setdefault(int((time_stamp_s + WINDOW_S) // 60), set()).add(nonce)
        self._count += 1

    def _sweep(self, minute: int) -> None:
        """Forget the nonces of requests that are too old to be accepted again."""
        self._swept_minute = minute
        for key, mine in list(self._seen.items()):
            kept = {end: nonces for end, nonces in mine.items() if end >= minute}
            if kept:
                self._seen[key] = kept
            else:
                del self._seen[key]
        self._count = sum(len(nonces) for mine in self._seen.values() for nonces in mine.values())


class Replay:
    """Decides whether a request with a good signature is new."""

    def __init__(self, store: Store, memory: NonceMemory | None = None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._memory = memory or NonceMemory(clock=clock)
        self._held: deque[tuple[float, Lease, AsyncExitStack]] = deque()
        self._lock = asyncio.Lock()

    async def check(self, claim: Claim, *, writes: bool) -> None:
        """Raise :class:`ApiError` for a request that is too old, from the future, or was seen before."""
        if not 0 < len(claim.nonce) <= NONCE_MAX:
            raise missing_parameter("SignatureNonce")
        time_stamp_s = parse_time(claim.timestamp)
        if abs(time_stamp_s - self._clock()) > WINDOW_S:
            raise ApiError(
                "InvalidTimeStamp.Expired",
                "Specified time stamp or date value is expired: it differs from the server's by more than 15 minutes; "
                "set the client's clock.",
            )
        digest = hashlib.blake2b(f"{claim.access_key_id}\n{claim.nonce}".encode(), digest_size=16)
        self._memory.remember(claim.access_key_id, digest.digest(), time_stamp_s)
        if writes and not await self._store_nonce(Nonce(id=digest.hexdigest())):
            raise used_again()

    async def _store_nonce(self, nonce: Nonce) -> bool:
        """Write a nonce that must not be there; return whether it was not. A lease that etcd lost is replaced once."""
        for _ in range(2):
            lease = await self._current()
            try:
                return await self._store.txn(compare=[Absent(Nonce, nonce.id)], put=[nonce], lease=lease)
            except LeaseLost:
                lease.lost.set()
        raise unavailable()

    async def close(self) -> None:
        """Stop renewing. The nonces outlive this process by :data:`LEASE_TTL_S`, so that its successor knows them."""
        while self._held:
            _, lease, stack = self._held.popleft()
            lease.lost.set()  # a lease that counts as lost is not revoked
            await stack.aclose()

    async def _current(self) -> Lease:
        """Return the lease for nonces used now; take a new one when it is due, and drop those that are over."""
        async with self._lock:
            now_s = self._clock()
            if not self._held or self._held[-1][1].lost.is_set() or now_s - self._held[-1][0] > LEASE_TURN_S:
                stack = AsyncExitStack()
                lease = await stack.enter_async_context(self._store.lease(LEASE_TTL_S))
                self._held.append((now_s, lease, stack))
            while now_s - self._held[0][0] > LEASE_TURN_S + LEASE_TTL_S:
                await self._held.popleft()[2].aclose()
            return self._held[-1][1]
