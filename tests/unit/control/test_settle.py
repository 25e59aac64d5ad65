"""What a tenant is shown of what an agent observes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.unit.control.world import CALLER, World, small
from yuntai.control.requests import instances
from yuntai.control.settle import settle
from yuntai.model.compute import Instance, ObservedInstance


async def _instance(**changes: Any) -> Instance:
    world = World()
    await world.set_up()
    await instances.create_instance(world.store, CALLER, small())
    (made,) = await world.all(Instance)
    assert isinstance(made, Instance)
    return msgspec.structs.replace(made, host="h1", **changes)


def _seen(state: Any, *, host: str = "h1", reboot_seq: int = 0, error: str = "") -> ObservedInstance:
    return ObservedInstance(id="i", host=host, state=state, since="then", reboot_seq=reboot_seq, error=error)


@pytest.mark.parametrize(
    ("status", "desired", "observed", "after"),
    [
        ("Starting", "running", _seen("running"), "Running"),
        ("Starting", "running", _seen("starting"), "Starting"),
        ("Starting", "running", _seen("stopped"), "Starting"),
        ("Starting", "running", _seen("running", host="h2"), "Starting"),
        ("Starting", "running", None, "Starting"),
        ("Stopping", "stopped", _seen("stopping"), "Stopping"),
        ("Stopping", "stopped", _seen("stopped"), "Stopped"),
        ("Stopping", "stopped", _seen("running"), "Stopping"),
        ("Running", "running", _seen("crashed"), "Running"),
        ("Running", "running", _seen("starting"), "Running"),
        ("Running", "running", _seen("stopped"), "Stopped"),
        ("Stopped", "stopped", _seen("running"), "Stopped"),
        ("Deleting", "deleted", _seen("running"), "Deleting"),
        ("Pending", "stopped", _seen("stopped"), "Pending"),
    ],
)
async def test_status_follows_the_guest(status: Any, desired: Any, observed: Any, after: str) -> None:
    instance = await _instance(status=status, desired=desired)
    assert settle(instance, observed).status == after


async def test_a_reboot_is_over_when_its_number_was_carried_out() -> None:
    instance = await _instance(status="Starting", desired="running", reboot_seq=3)
    assert settle(instance, _seen("running", reboot_seq=2)).status == "Starting"
    assert settle(instance, _seen("running", reboot_seq=3), now="now").started == "now"


async def test_a_crash_shows_as_a_reason_until_the_guest_is_back() -> None:
    instance = await _instance(status="Running", desired="running")
    lost = settle(instance, _seen("crashed", error="panic"))
    assert "crashed since then (panic)" in lost.reason
    assert settle(lost, _seen("running")).reason == ""
    other = msgspec.structs.replace(instance, reason="something else")
    assert settle(other, _seen("running")).reason == "something else"


async def test_a_host_that_is_down_shows_as_a_reason_and_changes_nothing_else() -> None:
    instance = await _instance(status="Running", desired="running")
    down = settle(instance, _seen("running"), host_up=False)
    assert (down.status, "h1" in down.reason) == ("Running", True)
    assert settle(down, _seen("running"), host_up=True) == instance


async def test_a_guest_that_shut_itself_down_is_stopped_and_stays_so() -> None:
    instance = await _instance(status="Running", desired="running")
    ended = settle(instance, _seen("stopped", error="the guest shut itself down"))
    assert (ended.status, ended.desired, ended.reason) == ("Stopped", "stopped", "the guest shut itself down")
