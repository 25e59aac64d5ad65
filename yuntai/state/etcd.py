"""The store on a real etcd (3.4 or newer)."""

from __future__ import annotations

import itertools
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aetcd import rpc

from yuntai.state import etcd_lease, etcd_watch, records
from yuntai.state.errors import Unavailable, Uncertain
from yuntai.state.events import Absent, Present, Unchanged
from yuntai.state.grpc_calls import CALL_TIMEOUT_S, METADATA, CompactedError, Connection
from yuntai.state.store import Lease, Store, check_writes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence

    from yuntai.model.base import Record
    from yuntai.state.events import Compare, Deleted, Listing, Put, Reset, T, Versioned

PAGE_RECORDS = 500
LIST_ATTEMPTS = 4
OWN_CHECKED_MAX = 16
"""Keys that are looked at to tell whether a write in doubt was ours; they were written together, so one is enough."""


class EtcdStore(Store):
    """The store on etcd at ``endpoints`` (``host:port`` each). Make it inside a running loop, close it at the end."""

    def __init__(self, endpoints: Sequence[str], call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._connection = Connection(endpoints, call_timeout_s)
        self._session = secrets.token_hex(5)
        self._writes = itertools.count(1)

    async def get(self, kind: type[T], id: str) -> Versioned[T] | None:  # noqa: A002 — the record's own word
        """See :meth:`Store.get`."""
        answer = await self._range(kind, rpc.RangeRequest(key=records.key_of(kind, id)))
        return _versioned(kind, answer.kvs[0]) if answer.kvs else None

    async def _range(self, kind: type[Record], request: rpc.RangeRequest) -> Any:
        answer, _ = await self._connection.call(
            f"read {kind.KIND}", lambda t: self._connection.kv.Range(request, timeout=t, metadata=METADATA)
        )
        return answer

    async def list(self, kind: type[T], prefix: str = "") -> Listing[T]:
        """See :meth:`Store.list`."""
        found, _ = await self.list_at(kind, prefix)
        return found

    async def list_at(self, kind: type[T], prefix: str) -> tuple[Listing[T], int]:
        """Return the records, and the revision that the list is as of."""
        for _ in range(LIST_ATTEMPTS):
            try:
                return await self._list_once(kind, prefix)
            except CompactedError:
                continue  # a compaction came between two pages: take them all again
        raise Unavailable(f"listing {kind.KIND}: a compaction came between the pages {LIST_ATTEMPTS} times; try again")

    async def _list_once(self, kind: type[T], prefix: str) -> tuple[Listing[T], int]:
        start = records.kind_prefix(kind, prefix)
        end = prefix_end(start)
        revision = 0
        found: Listing[T] = []
        while True:
            answer = await self._range(
                kind, rpc.RangeRequest(key=start, range_end=end, limit=PAGE_RECORDS, revision=revision)
            )
            revision = revision or answer.header.revision
            found += [_versioned(kind, kv) for kv in answer.kvs]
            if not answer.more:
                return found, revision
            start = answer.kvs[-1].key + b"\0"

    async def txn(
        self,
        *,
        compare: Sequence[Compare] = (),
        put: Iterable[Record] = (),
        delete: Iterable[tuple[type[Record], str]] = (),
        lease: Lease | None = None,
    ) -> bool:
        """See :meth:`Store.txn`."""
        puts = list(put)
        deletes = list(delete)
        keys = check_writes(compare, puts, deletes)
        if lease is not None:
            lease.check()
        write_id = f"{self._session}-{next(self._writes)}"
        values = records.encode_all(puts, compare, write_id)
        own = list(zip(keys, values, strict=False))[:OWN_CHECKED_MAX]
        request = rpc.TxnRequest(
            compare=[_compare(one) for one in compare],
            success=[_put(key, value, lease) for key, value in zip(keys, values, strict=False)]
            + [rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key)) for key in keys[len(puts) :]],
            failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=key)) for key, _ in own],
        )
        what = f"write {keys[0].decode() if keys else 'nothing'}"
        answer, in_doubt = await self._connection.call(
            what, lambda t: self._connection.kv.Txn(request, timeout=t, metadata=METADATA), writes=True
        )
        if answer.succeeded or not in_doubt:
            return bool(answer.succeeded)
        stored = {kv.key: kv.value for response in answer.responses for kv in response.response_range.kvs}
        if any(stored.get(key) == value for key, value in own):
            return True  # an earlier try was carried out, only its answer was lost
        raise Uncertain(f"{what}: a try got no answer and the record has changed since; read it again")

    def watch(self, kind: type[T], prefix: str = "") -> AsyncGenerator[Reset[T] | Put[T] | Deleted, None]:
        """See :meth:`Store.watch`."""
        return etcd_watch.watch(self._connection, self.list_at, kind, prefix)

    @asynccontextmanager
    async def lease(self, ttl_s: float) -> AsyncIterator[Lease]:
        """See :meth:`Store.lease`."""
        async with etcd_lease.hold(self._connection, ttl_s) as lease:
            yield lease

    async def close(self) -> None:
        """See :meth:`Store.close`."""
        await self._connection.close()

    async def compact(self) -> int:
        """Forget all history up to now and return the revision. For tests; operators let etcd compact by itself."""
        answer, _ = await self._connection.call(
            "revision", lambda t: self._connection.kv.Range(rpc.RangeRequest(key=b"\0"), timeout=t)
        )
        revision = int(answer.header.revision)
        request = rpc.CompactionRequest(revision=revision, physical=True)
        await self._connection.call("compact", lambda t: self._connection.kv.Compact(request, timeout=t))
        return revision


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key after every key that starts with ``prefix`` (UTF-8, so it never ends in 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _versioned(kind: type[T], kv: Any) -> Versioned[T]:
    return records.read(kind, kv.key, kv.value, int(kv.mod_revision))


def _compare(one: Compare) -> rpc.Compare:
    match one:
        case Absent(type=kind, id=record_id):
            return _compare_revision(records.key_of(kind, record_id), rpc.Compare.EQUAL, 0)
        case Present(type=kind, id=record_id):
            return _compare_revision(records.key_of(kind, record_id), rpc.Compare.GREATER, 0)
        case Unchanged(record=record):
            key = records.key_of(type(record.value), record.value.id)
            return _compare_revision(key, rpc.Compare.EQUAL, record.mod_revision)


def _compare_revision(key: bytes, result: int, revision: int) -> rpc.Compare:
    return rpc.Compare(target=rpc.Compare.MOD, result=result, key=key, mod_revision=revision)


def _put(key: bytes, value: bytes, lease: Lease | None) -> rpc.RequestOp:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease.id if lease else 0))
