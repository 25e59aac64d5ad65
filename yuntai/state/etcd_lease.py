"""A lease on etcd and its renewal."""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aetcd import rpc

from yuntai import log
from yuntai.state.errors import StateError, Unavailable
from yuntai.state.grpc_calls import METADATA, Connection, does_not_serve
from yuntai.state.store import Lease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RENEWALS_PER_TTL = 3
RETRY_S = 0.1
REVOKE_TIMEOUT_S = 1.0

_log = log.get("state")


@asynccontextmanager
async def hold(connection: Connection, ttl_s: float) -> AsyncIterator[Lease]:
    """Grant a lease, renew it three times per ``ttl_s``, revoke it at the end."""
    loop = asyncio.get_running_loop()
    granted_at = loop.time()
    request = rpc.LeaseGrantRequest(TTL=max(1, math.ceil(ttl_s)), ID=0)
    # A grant without an answer may leave an unused lease behind; it ends by itself after its time.
    answer, _ = await connection.call(
        "lease", lambda t: connection.leases.LeaseGrant(request, timeout=t, metadata=METADATA)
    )
    lease = Lease(answer.ID, float(answer.TTL))
    lease.valid_until = granted_at + lease.ttl_s
    renewal = asyncio.create_task(_renew(connection, lease))
    try:
        yield lease
    finally:
        lost = lease.lost.is_set()
        lease.lost.set()
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        if not lost:
            await _revoke(connection, lease)


async def _renew(connection: Connection, lease: Lease) -> None:
    """Renew until the lease is gone at etcd, or may be because no renewal was confirmed in time."""
    pause_s = lease.ttl_s / RENEWALS_PER_TTL
    try:
        while await _wait(lease, pause_s):
            channel = connection.channel
            try:
                await _renew_on_one_stream(connection, lease)
            except (TimeoutError, rpc.AioRpcError, StateError, asyncio.InvalidStateError) as error:
                if isinstance(error, TimeoutError) or (isinstance(error, rpc.AioRpcError) and does_not_serve(error)):
                    connection.leave(channel)
                _log.info("lease renewal failed, trying again", lease=f"{lease.id:x}", error=repr(error)[:200])
                pause_s = RETRY_S
            else:
                return
    finally:
        lease.lost.set()


async def _wait(lease: Lease, pause_s: float) -> bool:
    """Wait for the next renewal; return whether there is still time for one."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(min(pause_s, lease.valid_until - loop.time()), 0))
    if loop.time() < lease.valid_until:
        return True
    _log.warning("lease lost: no renewal was confirmed in time", lease=f"{lease.id:x}", ttl_s=lease.ttl_s)
    return False


async def _renew_on_one_stream(connection: Connection, lease: Lease) -> None:
    """Renew until the lease is gone. A stream is kept: opening one costs etcd and us more than the renewal itself."""
    loop = asyncio.get_running_loop()
    connection.open()
    stream = connection.leases.LeaseKeepAlive(metadata=METADATA)
    with connection.following(stream, "renewal"):
        while True:
            began = loop.time()
            async with asyncio.timeout(min(_patience_s(connection, lease), lease.valid_until - began)):
                remaining_s = await _renew_once(stream, lease.id)
            if remaining_s <= 0:
                _log.warning("lease lost: etcd no longer knows it", lease=f"{lease.id:x}")
                return
            lease.valid_until = began + remaining_s
            if not await _wait(lease, lease.ttl_s / RENEWALS_PER_TTL):
                return
            if stream.done():
                raise Unavailable("etcd ended the stream of renewals")


def _patience_s(connection: Connection, lease: Lease) -> float:
    """Return how long one renewal may take: where there are other members, short enough to try two of them."""
    return lease.ttl_s / (RENEWALS_PER_TTL + 2 if connection.has_choice else RENEWALS_PER_TTL)


async def _renew_once(stream: Any, lease_id: int) -> float:
    """Return the seconds that the renewed lease has, 0 if etcd does not know it."""
    await stream.write(rpc.LeaseKeepAliveRequest(ID=lease_id))
    answer = await stream.read()
    if not hasattr(answer, "TTL"):
        # The stream ended without an answer, which says nothing about the lease.
        raise Unavailable("etcd ended the stream of renewals")
    return float(answer.TTL)


async def _revoke(connection: Connection, lease: Lease) -> None:
    try:
        async with asyncio.timeout(REVOKE_TIMEOUT_S):
            await connection.leases.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease.id), metadata=METADATA)
    except (TimeoutError, rpc.AioRpcError, StateError) as error:
        # It ends by itself after its time, so this costs the next holder a wait and nothing else.
        _log.info("lease could not be revoked", lease=f"{lease.id:x}", error=repr(error)[:200])
