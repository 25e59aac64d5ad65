"""What CPU the guests of this host get: the baseline of its pool; and the note of it in their records.

The note is written before the guest starts, so that no guest ever runs with more than its record says.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from yuntai.compute.cpu import CpuSpec
from yuntai.compute.ownership import NotReadyError
from yuntai.model.compute import Instance

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.model.cluster import Host, HostPool
    from yuntai.state import Store

KNOWN_TIMEOUT_S = 30.0


class Processors:
    """``pool`` returns a pool's record as last seen. ``learn`` is told the host's record after each heartbeat."""

    def __init__(self, store: Store, host: str, pool: Callable[[str], HostPool | None]) -> None:
        self._store = store
        self._host = host
        self._pool = pool
        self._mine: Host | None = None
        self._known = asyncio.Event()

    def learn(self, host: Host) -> None:
        """Take in what this host's record says now."""
        self._mine = host
        if host.cpu_features:
            self._known.set()

    async def give(self, instance: Instance) -> CpuSpec:
        """Return the CPU that the instance's guest is to be started with, once its record says so."""
        try:
            await asyncio.wait_for(self._known.wait(), KNOWN_TIMEOUT_S)
        except TimeoutError as error:
            raise NotReadyError(
                f"instance {instance.id} does not start before this host knows what CPU it can give; "
                f"libvirt or etcd have not answered for {KNOWN_TIMEOUT_S:.0f} s"
            ) from error
        mine = self._mine
        assert mine is not None  # noqa: S101 — known is set after it
        # Before control has made the pool's record there is this host only, or hosts that are about to be compared.
        pool = self._pool(mine.pool)
        model, features = (mine.cpu_model, mine.cpu_features) if pool is None else (pool.cpu_model, pool.cpu_features)
        await self._note(instance, features, mine.mce_banks)
        return CpuSpec(model=model, features=features)

    async def _note(self, instance: Instance, features: tuple[str, ...], mce_banks: int) -> None:
        if (instance.cpu_features, instance.mce_banks) == (features, mce_banks):
            return

        def change(one: Instance) -> Instance:
            if one.host != self._host:
                raise NotReadyError(f"instance {one.id} belongs to host {one.host or '(none)'} by now")
            return replace(one, cpu_features=features, mce_banks=mce_banks)

        await self._store.update(Instance, instance.id, change)
