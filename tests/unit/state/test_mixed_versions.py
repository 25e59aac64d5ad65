"""Processes of this release and of the one before it on one etcd: docs/upgrade.md says what is promised."""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.compat.record import choices, messages, records, struct_example
from yuntai.control.unit import Unit
from yuntai.model.base import Record
from yuntai.model.cluster import Account, Host
from yuntai.state import Absent, Put, Reset, Store, Unchanged

OLDER = json.loads((Path(__file__).parents[2] / "compat" / "older.json").read_text())
KINDS = sorted(OLDER["records"])
NEVER_WRITTEN = {("host", "status", "draining")}
"""Values that a type had and no process of the older release ever wrote."""
NEW_VALUES: set[tuple[str, str, Any]] = set()
"""Values that only this release knows. An older process cannot read a record that has one: each needs a line in
docs/upgrade.md that says why none is written before every process is of this release."""


def older(kind: str) -> Any:
    """Return the record's type as a process of the older release has it: only the fields that it knew."""
    fields = [(name, Any) for name in OLDER["records"][kind]["example"] if name not in ("id", "v")]
    return msgspec.defstruct(
        f"Older_{kind}", fields, bases=(Record,), namespace={"KIND": kind}, frozen=True, kw_only=True
    )


def newer(kind: str) -> Record:
    """Return a record of this release in which every field has a value of its own."""
    known = records()[kind]
    return msgspec.convert(struct_example(known), known)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_older_release_wrote_is_read_as_it_was_meant(kind: str) -> None:
    wrote = OLDER["records"][kind]["example"]
    assert kind in records(), "its records would lie in etcd for ever"
    known = records()[kind]
    again = json.loads(msgspec.json.encode(msgspec.json.decode(json.dumps(wrote), type=known)))
    assert {name: again.get(name) for name in wrote} == wrote
    for name, values in OLDER["records"][kind]["choices"].items():
        for value in values:
            if (kind, name, value) not in NEVER_WRITTEN:
                assert getattr(msgspec.convert({**wrote, name: value}, known), name) == value


@pytest.mark.parametrize("kind", KINDS)
def test_an_older_process_meets_no_value_that_it_cannot_read(kind: str) -> None:
    then = OLDER["records"][kind]["choices"]
    now = choices(records()[kind])
    grown = {(kind, name, value) for name, values in then.items() for value in set(now.get(name, ())) - set(values)}
    assert grown <= NEW_VALUES


@pytest.mark.parametrize("name", sorted(OLDER["messages"]))
def test_a_newer_master_understands_what_older_processes_ask(name: str) -> None:
    known, sent = messages()[name], OLDER["messages"][name]
    again = json.loads(msgspec.json.encode(msgspec.convert(sent, known)))
    assert {field: again.get(field) for field in sent} == sent


async def test_an_older_process_changes_a_record_and_undoes_nothing_of_a_newer_one(store: Store) -> None:
    for kind in sorted({*KINDS} - {"nonce"}):  # which has nothing but an id
        before = newer(kind)
        await store.create(before)
        name, value = _change(kind, before)
        await store.update(older(kind), before.id, lambda old, name=name, value=value: replace(old, **{name: value}))
        after = await store.need(type(before), before.id)
        assert after.value == replace(before, **{name: value})
        assert not after.rest, "this release knows every field"


async def test_it_does_so_by_what_a_watch_told_it_and_in_a_unit_of_work(store: Store) -> None:
    host = msgspec.structs.replace(_host(), pool="fast", labels={"disk": "nvme"})
    await store.create(host)
    kind = older("host")
    async with aclosing(store.watch(kind)) as events:
        first = await anext(events)
        assert isinstance(first, Reset)
        assert await store.txn(compare=[Unchanged(first.records[0])], put=[replace(first.records[0].value, seen="1")])
        second = await anext(events)
        assert isinstance(second, Put)
        assert await store.txn(compare=[Unchanged(second.record)], put=[replace(second.record.value, seen="2")])
    unit = Unit(store)
    (listed,) = await unit.list(kind)
    unit.put(replace(listed, seen="3"))
    assert await unit.commit()
    assert (await store.need(Host, host.id)).value == replace(host, seen="3")


async def test_a_field_of_a_record_that_is_made_anew_is_not_the_former_ones(store: Store) -> None:
    await store.create(replace(_host(), pool="fast"))
    await store.delete(Host, "h9")
    assert await store.txn(compare=[Absent(Host, "h9")], put=[_host()])
    assert (await store.need(Host, "h9")).value == _host()


async def test_unknown_fields_are_kept_whatever_they_hold(store: Store) -> None:
    class Later(Account, frozen=True, kw_only=True):
        tree: dict[str, Any]
        text: str

    later = Later(id="a", name="n", created="", tree={"é": [1, None, {"x": 1e9}]}, text='"},{"_w":"')
    await store.create(later)
    for name in ("first", "second"):
        await store.update(Account, "a", lambda old, name=name: replace(old, name=name))
    assert (await store.need(Later, "a")).value == replace(later, name="second")


def _host() -> Host:
    wanted = {field.name for field in msgspec.structs.fields(Host) if field.required} | {"id", "v"}
    return msgspec.convert({**{k: v for k, v in struct_example(Host).items() if k in wanted}, "id": "h9"}, Host)


def _change(kind: str, record: Record) -> tuple[str, Any]:
    """Return a field that the older release knows, and another value for it."""
    for name in OLDER["records"][kind]["example"]:
        match getattr(record, name):
            case str() as text if name != "id":
                return name, OLDER["records"][kind]["choices"].get(name, [f"{text}, changed"])[0]
            case int() as number if name != "v":
                return name, not number if isinstance(number, bool) else number + 1
            case tuple() as several:
                return name, (*several, *several)
    raise AssertionError(f"{kind} has no field that this test knows how to change")
