"""Requests on events of instances: rehearsals by the clock alone, filters, refusals that name what is wrong."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.unit.compute.test_compute_agent import instance as made
from yuntai.control import housekeeping
from yuntai.control.errors import ApiError
from yuntai.control.jobs.memory import MemoryVolumes
from yuntai.control.requests import instance_events
from yuntai.control.requests.instance_events import EventFilter, as_of
from yuntai.control.requests.types import Caller, Paging
from yuntai.model.base import ago_utc, now_utc
from yuntai.model.compute import Instance, InstanceEvent
from yuntai.state import MemoryStore

ME = Caller(account="1", request_id="r")
OTHER = Caller(account="2", request_id="r")
# A fixed one: it is part of names of tests, which every process of a run has to find alike.
LATER = "2100-01-01T00:00:00Z"
PAGE = Paging(page_number=1, page_size=50)


def _event(**changes: object) -> InstanceEvent:
    base = InstanceEvent(
        id="e-1", account="1", instance="i-1", type="SystemMaintenance.Reboot", cycle="Scheduled", simulated=True,
        published="2026-01-01T00:00:00Z", not_before="2026-01-02T00:00:00Z",
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("event", "started", "now", "cycle", "finished"),
    [
        (_event(), "", "2026-01-01T12:00:00Z", "Scheduled", ""),
        (_event(), "2025-12-31T00:00:00Z", "2026-01-01T12:00:00Z", "Scheduled", ""),
        (_event(), "2026-01-01T06:00:00Z", "2026-01-01T12:00:00Z", "Avoided", "2026-01-01T06:00:00Z"),
        (_event(), "", "2026-01-02T00:00:00Z", "Executed", "2026-01-02T00:00:00Z"),
        (_event(cycle="Executing"), "2026-01-01T06:00:00Z", "2026-01-01T12:00:00Z", "Executing", ""),
        (_event(cycle="Executing"), "", "2026-01-03T00:00:00Z", "Executed", "2026-01-02T00:00:00Z"),
        (_event(cycle="Canceled", finished="2026-01-01T01:00:00Z"), "", "2026-01-03T00:00:00Z", "Canceled",
         "2026-01-01T01:00:00Z"),
        (_event(cycle="Executing", simulated=False), "", "2026-01-03T00:00:00Z", "Executing", ""),  # a real one
    ],
)  # fmt: skip
def test_rehearsals_go_on_by_the_clock(event: InstanceEvent, started: str, now: str, cycle: str, finished: str) -> None:
    seen = as_of(event, made(id="i-1", started=started), now)
    assert (seen.cycle, seen.finished) == (cycle, finished)


async def _store() -> MemoryStore:
    store = MemoryStore()
    for number in (1, 2):
        await store.create(made(id=f"i-{number}", status="Running"))
    return store


async def _shown(store: MemoryStore, **wanted: object) -> list[str]:
    page = await instance_events.describe_events(store, ME, EventFilter(**wanted), PAGE)  # type: ignore[arg-type]
    return [one.id for one in page.items]


async def test_what_is_listed() -> None:
    store = await _store()
    done = {"simulated": False, "cycle": "Executed"}
    await store.create(_event(id="e-new", **done, published=ago_utc(60), not_before=ago_utc(60), finished=now_utc()))
    await store.create(_event(id="e-old", **done, finished=ago_utc(40 * 86400)))
    await store.create(_event(id="e-now", simulated=False, cycle="Executing", type="SystemFailure.Reboot"))
    await store.create(_event(id="e-theirs", account="2", **done, finished=now_utc()))
    assert await _shown(store) == ["e-new"]
    assert await _shown(store, cycles=("Executing",)) == ["e-now"]
    assert await _shown(store, cycles=("Executing", "Executed")) == ["e-new", "e-now"]
    assert await _shown(store, cycles=("Executing",), types=("SystemMaintenance.Reboot",)) == []
    assert await _shown(store, instances=("i-2",)) == []
    assert await _shown(store, ids=("e-new", "e-theirs")) == ["e-new"]
    assert await _shown(store, published=(ago_utc(3600), "")) == ["e-new"]
    assert await _shown(store, not_before=("", ago_utc(3600))) == []


async def test_rehearsing_and_canceling() -> None:
    store = await _store()
    ids = await instance_events.create_simulated(
        store, ME, ["i-1", "i-2", "i-1"], "SystemFailure.Stop", LATER, real=False
    )
    assert len(ids) == 2
    assert set(await _shown(store, cycles=("Executing",))) == set(ids)
    await instance_events.cancel_simulated(store, ME, ids[:1])
    assert await _shown(store) == [ids[0]]
    assert (await store.need(Instance, "i-1")).value.status == "Running"
    with pytest.raises(ApiError, match="it is Canceled"):
        await instance_events.cancel_simulated(store, ME, ids[:1])
    with pytest.raises(ApiError, match=r"InvalidEventId\.NotFound"):
        await instance_events.cancel_simulated(store, OTHER, ids[1:])
    await store.create(_event(id="e-real", simulated=False, cycle="Executing"))
    with pytest.raises(ApiError, match="only simulated"):
        await instance_events.cancel_simulated(store, ME, ["e-real"])


@pytest.mark.parametrize(
    ("instances", "kind", "moment", "real", "words"),
    [
        ([], "SystemFailure.Stop", LATER, False, "InstanceId"),
        ([f"i-{n}" for n in range(101)], "SystemFailure.Stop", LATER, False, "at most 100"),
        (["i-9"], "SystemFailure.Stop", LATER, False, r"InvalidInstanceId\.NotFound"),
        (["i-1"], "SystemFailure.Explode", LATER, False, "SystemFailure.Explode"),
        (["i-1"], "SystemFailure.Stop", "tomorrow", False, "write it in UTC"),
        (["i-1"], "SystemFailure.Stop", "2020-01-01T00:00:00Z", False, "to come"),
        (["i-1"], "SystemFailure.Stop", LATER, True, "TriggerRealOps"),
    ],
)
async def test_refused_rehearsals(instances: list[str], kind: str, moment: str, *, real: bool, words: str) -> None:
    store = await _store()
    with pytest.raises(ApiError, match=words):
        await instance_events.create_simulated(store, ME, instances, kind, moment, real=real)
    assert await store.list(InstanceEvent) == []


async def test_rehearsals_are_bounded() -> None:
    store = await _store()
    for _ in range(instance_events.REHEARSALS_MAX // 2):
        await instance_events.create_simulated(store, ME, ["i-1", "i-2"], "SystemFailure.Stop", LATER, real=False)
    with pytest.raises(ApiError, match="QuotaExceed"):
        await instance_events.create_simulated(store, ME, ["i-1"], "SystemFailure.Stop", LATER, real=False)


async def test_wishes() -> None:
    store = await _store()
    await instance_events.modify_maintenance(store, ME, ["i-1"], action="Stop", windows=[("02:00:00", "04:00:00")])
    await instance_events.modify_maintenance(store, ME, ["i-1", "i-2"], notify=True)
    one, two = [(await store.need(Instance, f"i-{n}")).value for n in (1, 2)]
    assert (one.action_on_maintenance, one.maintenance_windows, one.notify_on_maintenance) == (
        "Stop", (("02:00:00", "04:00:00"),), True,
    )  # fmt: skip
    assert (two.action_on_maintenance, two.notify_on_maintenance) == ("AutoRecover", True)
    for wrong, words in (
        ({"action": "Pray"}, "ActionOnMaintenance"),
        ({"windows": [("04:00:00", "02:00:00")]}, "after 04:00:00"),
        ({"windows": [("04:30:00", "05:00:00")]}, "full hour"),
        ({"windows": [("01:00:00", "02:00:00")] * 9}, "at most 8"),
    ):
        with pytest.raises(ApiError, match=words):
            await instance_events.modify_maintenance(store, ME, ["i-1"], **wrong)  # type: ignore[arg-type]


async def test_what_is_over_for_long_is_forgotten() -> None:
    store = await _store()
    await store.create(_event(id="e-old", cycle="Executed", finished=ago_utc(40 * 86400)))
    await store.create(_event(id="e-rehearsed", not_before=ago_utc(40 * 86400)))
    await store.create(_event(id="e-new", cycle="Executed", finished=ago_utc(20 * 86400)))
    await store.create(_event(id="e-goes-on", simulated=False, cycle="Executing"))
    await housekeeping.clean(store, MemoryVolumes())
    assert [one.value.id for one in await store.list(InstanceEvent)] == ["e-goes-on", "e-new"]
