"""gRPC channels to etcd, and calls on them with a time limit and bounded retries.

The library's own client knows one endpoint, and its watcher shares one stream that a consumer cannot tell apart from
a dead one; so its generated stubs are used here directly, on a channel that fails over between endpoints.

gRPC itself goes to the next endpoint only when a connection fails. A member that hangs, or is cut off from the others,
keeps its connections: whoever has no answer from it in time leaves it, and everything of this process goes to the next.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aetcd import rpc

from yuntai import log
from yuntai.state.errors import Invalid, LeaseLost, StateError, Unavailable, Uncertain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

CALL_TIMEOUT_S = 3.0
ATTEMPTS = 6
BACKOFF_FIRST_S = 0.1
LEAVE_PAUSE_S = 0.5
MESSAGE_BYTES_MAX = 64 << 20
METADATA = (("hasleader", "true"),)
"""Asks a member that has lost its leader to end the call rather than to answer from the past or to hang."""

# The least time between two tries to connect is also the longest that one try may take: on a busy machine a try needs
# some hundred milliseconds, so this stays below what the retries of one call add up to.
_OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # What ends the connection is a ping's own limit: by default a minute, whatever keepalive is told.
    ("grpc.http2.ping_timeout_ms", 3_000),
    # Never on an idle channel: etcd takes such pings for an attack and ends the connection.
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

_TRANSIENT = {
    rpc.StatusCode.UNAVAILABLE,
    rpc.StatusCode.DEADLINE_EXCEEDED,
    rpc.StatusCode.RESOURCE_EXHAUSTED,
    rpc.StatusCode.ABORTED,
    rpc.StatusCode.UNKNOWN,
    rpc.StatusCode.INTERNAL,
    rpc.StatusCode.CANCELLED,
}

_log = log.get("state")


class CompactedError(StateError):
    """The revision that a read or a watch wanted is compacted away. Stays inside this package."""


class Connection:
    """The stubs of the channel in use. Made on first use, inside the running loop."""

    def __init__(self, endpoints: Sequence[str], call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._members = list(endpoints)
        self._endpoints = ", ".join(endpoints)
        target_of(endpoints)
        self._streams: set[Any] = set()
        # One for each member that was first, kept: streams that broke hold theirs open until they are collected.
        self._channels: dict[str, rpc.Channel] = {}
        self._left_at_s = -LEAVE_PAUSE_S
        self._timeout_s = call_timeout_s
        self._channel: rpc.Channel | None = None
        self.kv: Any = None
        self.leases: Any = None
        self.watches: Any = None

    def open(self) -> None:
        """Make the channel if it is not there; gRPC connects in the background."""
        if self._channel is None:
            target = target_of(self._members)
            if target not in self._channels:
                self._channels[target] = rpc.insecure_channel(target, options=_OPTIONS)
            self._channel = self._channels[target]
            self.kv = rpc.KVStub(self._channel)
            self.leases = rpc.LeaseStub(self._channel)
            self.watches = rpc.WatchStub(self._channel)

    async def close(self) -> None:
        """Close the channels; calls under way end."""
        self._channel = None
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    @property
    def channel(self) -> rpc.Channel | None:
        """What calls go by now; remember it to be able to :meth:`leave` it."""
        return self._channel

    @property
    def has_choice(self) -> bool:
        """Whether there is another member to go to."""
        return len(self._members) > 1

    def leave(self, channel: rpc.Channel | None) -> None:
        """Go to the next member, unless somebody has done so since ``channel`` was in use; streams break.

        Not more often than every :data:`LEAVE_PAUSE_S`: when no member has a leader, none is better than another.
        """
        now_s = asyncio.get_running_loop().time()
        if channel is None or channel is not self._channel or not self.has_choice:
            return
        if now_s - self._left_at_s < LEAVE_PAUSE_S:
            return
        self._left_at_s = now_s
        self._members.append(self._members.pop(0))
        self._channel = None
        _log.info("leaving a member of etcd that does not serve", next=self._members[0])
        for stream in self._streams:
            stream.cancel()
        self._streams.clear()

    @contextmanager
    def following(self, stream: Any, what: str) -> Iterator[None]:
        """Read a stream inside; when its member is left, raise :class:`Unavailable`. Ends the stream."""
        self._streams.add(stream)
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if stream in self._streams or task is None or task.cancelling():
                raise
            raise Unavailable(f"{what}: the member of etcd does not serve") from None
        finally:
            self._streams.discard(stream)
            stream.cancel()

    async def call(self, what: str, attempt: Callable[[float], Awaitable[Any]], *, writes: bool = False) -> Any:
        """Run ``attempt(timeout_s)`` until it answers, at most six times; return ``(answer, was a try in doubt)``.

        With ``writes``, giving up raises :class:`Uncertain`, because a try without an answer may have been carried out.
        """
        for turn in range(ATTEMPTS):
            self.open()
            channel = self._channel
            try:
                return await attempt(self._timeout_s), turn > 0
            except rpc.AioRpcError as error:
                last = error
                if error.code() not in _TRANSIENT:
                    raise translate(error, what) from error
                if does_not_serve(error):
                    self.leave(channel)
            if turn + 1 < ATTEMPTS:
                await asyncio.sleep(BACKOFF_FIRST_S * 2**turn * random.uniform(0.5, 1.0))  # noqa: S311 — jitter
        text = f"etcd at {self._endpoints} does not answer ({what}): {last.details()}; is it running and reachable?"
        raise (Uncertain if writes else Unavailable)(text) from last


def does_not_serve(error: rpc.AioRpcError) -> bool:
    """Return whether the member took the call and could not answer: it hangs, or it has no leader."""
    if error.code() == rpc.StatusCode.DEADLINE_EXCEEDED:
        return True
    return error.code() == rpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith("etcdserver:")


def translate(error: rpc.AioRpcError, what: str) -> StateError:
    """Return the error of our tree for an answer of etcd that a retry cannot help."""
    details = error.details() or ""
    if "lease not found" in details:
        return LeaseLost(f"{what}: etcd no longer knows the lease; take a new one")
    if error.code() == rpc.StatusCode.OUT_OF_RANGE:
        return CompactedError(f"{what}: {details}")
    if error.code() == rpc.StatusCode.INVALID_ARGUMENT:
        return Invalid(f"{what}: {details}")
    return Unavailable(f"{what}: etcd answers {error.code().name}: {details}")


def target_of(endpoints: Sequence[str]) -> str:
    """Return the gRPC target for ``host:port`` endpoints: tried in order, the next one when a connection fails."""
    if not endpoints:
        raise Invalid("no etcd endpoint is given; list at least one as host:port")
    if len(endpoints) == 1:
        return endpoints[0]
    addresses = []
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), socket.AF_INET, socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            raise Invalid(f"etcd endpoint {endpoint!r} is not a reachable name and port: {error}") from error
        addresses += [f"{info[4][0]!s}:{port}" for info in found]
    return "ipv4:" + ",".join(dict.fromkeys(addresses))
