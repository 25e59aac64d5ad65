"""The leader's part for host pools: a pool that hosts name and nobody has computed gets its baseline.

Afterwards only the operator changes it: a host that joins may lower it if told to, one that leaves may let it rise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yuntai import log
from yuntai.control import cpu_baseline
from yuntai.model.base import now_utc
from yuntai.model.cluster import Host, HostPool
from yuntai.state import Absent, Put, Reset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.state import Store

_log = log.get("pools")


async def run(store: Store, fences: Sequence[Any] = ()) -> None:
    """Follow the hosts, until cancelled."""
    computed: set[str] = set()
    async for event in store.watch(Host):
        match event:
            case Reset():
                named = {one.value.pool for one in event.records if one.value.cpu_features}
            case Put():
                named = {event.record.value.pool} if event.record.value.cpu_features else set()
            case _:
                named = set()
        for pool in sorted(named - computed):
            await compute(store, pool, fences)
            computed.add(pool)


async def compute(store: Store, pool_id: str, fences: Sequence[Any] = ()) -> None:
    """Make the pool's record, if there is none, of what all its hosts have that can be in one pool with the first."""
    if await store.get(HostPool, pool_id) is not None:
        return
    there = [one.value for one in await store.list(Host)]
    hosts = [host for host in there if host.pool == pool_id and host.cpu_features]
    if not hosts:
        return
    made = cpu_baseline.first(pool_id, hosts[0], now_utc())
    for host in hosts[1:]:
        if not cpu_baseline.impossible(made, host):
            made = cpu_baseline.lowered(made, host, made.computed)
    if await store.txn(compare=[Absent(HostPool, pool_id), *fences], put=[made]):
        _log.info("pool computed", pool=pool_id, hosts=len(hosts), features=len(made.cpu_features))
