"""A unit of work: what it lists is what it saw and wrote, and what it writes is compared with what it listed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from yuntai.control.unit import Unit
from yuntai.model.cluster import Account
from yuntai.state import MemoryStore


def account(name: str) -> Account:
    return Account(id=name, name="", created="")


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore()
    for name in ("b", "a", "ü", "c"):
        await made.put(account(name))
    return made


async def test_what_it_wrote_is_listed_and_what_it_deleted_is_not(store: MemoryStore) -> None:
    unit = Unit(store)
    assert [one.id for one in await unit.list(Account)] == ["a", "b", "c", "ü"]
    (await unit.list(Account)).clear()  # the caller's own
    unit.put(replace(account("b"), name="changed"))
    unit.put(account("new"))
    unit.delete(Account, "c")
    listed = {one.id: one.name for one in await unit.list(Account)}
    assert listed == {"a": "", "b": "changed", "new": "", "ü": ""}
    assert await unit.commit()
    assert {one.value.id: one.value.name for one in await store.list(Account)} == listed


@pytest.mark.parametrize("name", ["a", "b", "c", "ü"])
async def test_a_listed_record_that_changed_meanwhile_is_not_written(store: MemoryStore, name: str) -> None:
    for change in ("put", "delete"):
        unit = Unit(store)
        found = next(one for one in await unit.list(Account) if one.id == name)
        await store.update(Account, name, lambda old, change=change: replace(old, name=f"by another, {change}"))
        if change == "put":
            unit.put(replace(found, name="mine"))
        else:
            unit.delete(Account, name)
        assert not await unit.commit()
    assert (await store.need(Account, name)).value.name == "by another, delete"


async def test_a_record_that_was_not_listed_must_not_be_there(store: MemoryStore) -> None:
    unit = Unit(store)
    await unit.list(Account)
    await store.put(account("bb"))
    unit.put(account("bb"))
    assert not await unit.commit()
