"""A watch on etcd: list, follow from the list's revision, and again from the list when the stream breaks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aetcd import rpc

from yuntai import log
from yuntai.state import records
from yuntai.state.errors import Unavailable
from yuntai.state.events import Deleted, Put, Reset
from yuntai.state.grpc_calls import METADATA, CompactedError, Connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from yuntai.state.events import Listing, T

CREATE_TIMEOUT_S = 3.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0

_log = log.get("state")


async def watch(
    connection: Connection,
    list_at: Callable[[type[T], str], Awaitable[tuple[Listing[T], int]]],
    kind: type[T],
    prefix: str,
) -> AsyncGenerator[Reset[T] | Put[T] | Deleted, None]:
    """Yield a :class:`Reset`, then changes; over and over. Waits as long as it takes for etcd to come back."""
    backoff_s = BACKOFF_FIRST_S
    while True:
        try:
            found, revision = await list_at(kind, prefix)
            yield Reset(tuple(found))
            async for event in _follow(connection, kind, prefix, revision + 1):
                backoff_s = BACKOFF_FIRST_S
                yield event
        except (Unavailable, CompactedError) as error:
            _log.info("watch broken, listing again", kind=kind.KIND, error=str(error))
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)


async def _follow(connection: Connection, kind: type[T], prefix: str, revision: int) -> AsyncIterator[Put[T] | Deleted]:
    """Yield the changes from ``revision`` on, until the stream ends or breaks."""
    connection.open()
    start = records.kind_prefix(kind, prefix)
    create = rpc.WatchCreateRequest(key=start, range_end=start[:-1] + bytes([start[-1] + 1]), start_revision=revision)
    channel, stream = connection.channel, connection.watches.Watch(metadata=METADATA)
    try:
        with connection.following(stream, f"watch on {kind.KIND}"):
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                await stream.write(rpc.WatchRequest(create_request=create))
                created = await stream.read()
            _check(created)
            while True:
                # No time limit: silence is normal, and the channel's keepalive ends a stream whose peer is gone.
                response = await stream.read()
                _check(response)
                for event in response.events:
                    yield _event(kind, event)
    except TimeoutError as error:
        connection.leave(channel)
        raise Unavailable(f"etcd did not confirm the watch on {kind.KIND} within {CREATE_TIMEOUT_S} s") from error
    except rpc.AioRpcError as error:
        raise Unavailable(f"watch on {kind.KIND}: {error.code().name}: {error.details()}") from error
    except asyncio.InvalidStateError as error:
        raise Unavailable(f"watch on {kind.KIND}: the connection was closed") from error


def _check(response: Any) -> None:
    if not hasattr(response, "watch_id"):
        raise Unavailable("etcd ended the watch's stream")
    if response.compact_revision:
        raise CompactedError(f"the watch wanted a revision below {response.compact_revision}, which is compacted")
    if response.canceled:
        raise Unavailable(f"etcd cancelled the watch: {response.cancel_reason or 'no reason given'}")


def _event(kind: type[T], event: Any) -> Put[T] | Deleted:
    if event.type == rpc.Event.DELETE:
        return Deleted(records.id_of(kind, event.kv.key))
    return Put(records.read(kind, event.kv.key, event.kv.value, int(event.kv.mod_revision)))
