"""The leader computes a pool's baseline once, of the hosts that are there."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from yuntai.control import pools
from yuntai.model.cluster import Host, HostPool
from yuntai.state import MemoryStore, Put, Reset

DEADLINE_S = 60.0


def host(name: str, features: tuple[str, ...], banks: int = 9, vendor: str = "AMD", pool: str = "default") -> Host:
    return Host(
        id=name, address="10.0.0.1", cpus=2, memory_mib=4096, accelerator="kvm", cpu_model="EPYC", cpu_vendor=vendor,
        cpu_features=features, mce_banks=banks, seen="2026-01-01T00:00:00Z", vcpus_max=16, memory_mib_max=3000,
        pool=pool,
    )  # fmt: skip


async def pool_of(store: MemoryStore, name: str) -> HostPool:
    async with asyncio.timeout(DEADLINE_S), aclosing(store.watch(HostPool)) as events:
        async for event in events:
            records = event.records if isinstance(event, Reset) else [event.record] if isinstance(event, Put) else []
            for record in records:
                if record.value.id == name:
                    return record.value
    raise AssertionError("the watch ended")


async def test_the_first_baseline_is_what_all_hosts_have_and_later_ones_do_not_change_it() -> None:
    store = MemoryStore()
    await store.put(host("h1", ("avx", "avx2")))
    await store.put(host("h2", ("avx", "bmi2"), banks=6))
    await store.put(host("h3", ("avx",), vendor="Intel"))  # it can be in no pool with the others
    await store.put(host("h4", ()))  # it has not said yet what it can do
    task = asyncio.create_task(pools.run(store))
    try:
        made = await pool_of(store, "default")
        assert (made.cpu_features, made.mce_banks, made.cpu_vendor) == (("avx",), 6, "AMD")
        await store.put(host("h5", ("sse2",)))
        await store.put(host("big1", ("avx512f",), pool="big"))
        assert (await pool_of(store, "big")).cpu_features == ("avx512f",)
        assert await pool_of(store, "default") == made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
