"""Whoever the instance's record names last is the last to be given its volume, whatever an old agent believes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.compute.test_compute_agent import ID, instance
from yuntai.compute.ownership import NotReadyError, report, take
from yuntai.compute.volumes import Export, MemoryVolumes
from yuntai.model.cluster import Volume
from yuntai.model.compute import Instance, ObservedInstance
from yuntai.state import MemoryStore

VOLUME = "vol-0000000000000001"


class Recorded(MemoryVolumes):
    """A block store that writes the generations into the records, as the real one does."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self.store = store

    async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
        export = await super().attach(volume, host, if_generation)
        await self.store.update(Volume, volume, lambda old: replace(old, generation=export.generation))
        return export


class Standing(Recorded):
    """One whose caller stands still just before it asks, while the instance is failed over to h2."""

    stood = False

    async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
        if host == "h1" and not self.stood:
            self.stood = True
            await self.store.update(Instance, ID, lambda old: replace(old, host="h2"))
            await take(self.store, self, "h2", ID, volume)
        return await super().attach(volume, host, if_generation)


async def _store() -> MemoryStore:
    store = MemoryStore()
    await store.create(instance(host="h1"))
    await store.create(Volume(id=VOLUME, size_bytes=1 << 30, created=""))
    return store


async def test_the_owner_gets_the_volume() -> None:
    store = await _store()
    assert (await take(store, Recorded(store), "h1", ID, VOLUME)).generation == 1


async def test_a_host_that_the_record_does_not_name_gets_nothing() -> None:
    store = await _store()
    with pytest.raises(NotReadyError, match="belongs to h1 by now: it is not h2's"):
        await take(store, Recorded(store), "h2", ID, VOLUME)
    await store.delete(Instance, ID)
    with pytest.raises(NotReadyError, match="gone"):
        await take(store, Recorded(store), "h1", ID, VOLUME)


async def test_a_host_that_stood_still_between_reading_and_taking_does_not_take_the_volume_back() -> None:
    store = await _store()
    volumes = Standing(store)
    with pytest.raises(NotReadyError, match="h2"):
        await take(store, volumes, "h1", ID, VOLUME)
    assert volumes.attached[VOLUME] == ("h2", 1)


async def test_a_generation_that_the_store_itself_used_meanwhile_is_no_end() -> None:
    """A tender's generation, say: the volume is asked for again."""

    class Tended(Recorded):
        once = False

        async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
            if not self.once:
                self.once = True
                await super().attach(volume, "tender")
            return await super().attach(volume, host, if_generation)

    store = await _store()
    assert (await take(store, Tended(store), "h1", ID, VOLUME)).generation == 2


async def test_what_a_former_host_saw_does_not_replace_what_the_new_one_sees() -> None:
    """The new host's agent writes it once, so the API would show the instance as Starting for ever."""
    store = await _store()
    seen = ObservedInstance(id=ID, host="h1", state="starting", since="")
    assert await report(store, seen)
    await store.update(Instance, ID, lambda old: replace(old, host="h2"))
    assert await report(store, replace(seen, host="h2", state="running"))
    assert not await report(store, seen)
    assert (await store.need(ObservedInstance, ID)).value.host == "h2"


async def test_a_state_is_written_although_its_instance_changes_meanwhile() -> None:
    class Changing(MemoryStore):
        changes = 3

        async def txn(self, **what: Any) -> bool:
            if self.changes:
                self.changes -= 1
                await super().txn(put=[instance(host="h1", name=f"n{self.changes}")])
            return await super().txn(**what)

    store = Changing((await _store()).memory)
    assert await report(store, ObservedInstance(id=ID, host="h1", state="running", since=""))
    assert (await store.need(ObservedInstance, ID)).value.state == "running"
