"""Who is called failed, and what is done about it: tables over the pure parts of failover."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.compute.test_compute_agent import instance as made
from yuntai.control.failover import planner
from yuntai.control.failover.verdict import DOWNS_MAX, JAIL_MAX_S, Evidence, jail, storage_fine, verdict
from yuntai.control.settle import HOST_FAILED, settle
from yuntai.model.base import new_id
from yuntai.model.compute import Instance, ObservedInstance
from yuntai.model.network import Port

LED: dict[str, Any] = {"led_s": 60.0, "steady_s": 60.0}


@pytest.mark.parametrize(
    ("known", "state", "why"),
    [
        (Evidence(lease=True, **LED), "alive", ""),
        (Evidence(lease=False, **LED), "silent", "being asked"),
        (Evidence(lease=False, witnesses={"h2": False, "h3": False}, **LED), "failed", "h2, h3 cannot reach it"),
        (Evidence(lease=False, witnesses={"h2": False, "h3": True}, **LED), "silent", "h3 reaches it"),
        (Evidence(lease=False, witnesses={"h2": False, "h3": None}, **LED), "failed", "h2 cannot reach it"),
        (Evidence(lease=False, witnesses={"h2": None, "h3": None}, **LED), "silent", "no witness could be asked"),
        (Evidence(lease=False, witnesses={}, **LED), "silent", "no witness could be asked"),
        # a leader that has just been elected, or that was not sure of etcd, judges nobody
        (Evidence(lease=False, witnesses={"h2": False}, led_s=4.9, steady_s=60), "unknown", "waits 5 s"),
        (Evidence(lease=False, witnesses={"h2": False}, led_s=60, steady_s=1.9), "unknown", "etcd did not answer"),
        (Evidence(lease=False, witnesses={"h2": False}, led_s=60, steady_s=float("-inf")), "unknown", "etcd"),
        (Evidence(lease=True, storage_dead=True, led_s=1, steady_s=1), "unknown", "waits"),
        # all were off, and this one is late
        (
            Evidence(lease=False, witnesses={"h2": False}, awaited="anew", **LED),
            "awaited",
            "h2 cannot reach it; it was away",
        ),
        (Evidence(lease=False, witnesses={"h2": True}, awaited="anew", **LED), "silent", "h2 reaches it"),
        (Evidence(lease=False, witnesses={"h2": None}, awaited="anew", **LED), "silent", "no witness could be asked"),
        # storage: the host's fault only while the others have none
        (Evidence(lease=True, storage_dead=True, **LED), "failed", "which other hosts do"),
        (Evidence(lease=True, storage_dead=True, others_storage_fine=False, **LED), "alive", "neither do others"),
    ],
)
def test_verdicts(known: Evidence, state: str, why: str) -> None:
    judged = verdict(known)
    assert judged.state == state
    assert why in judged.why


@pytest.mark.parametrize(
    ("dead", "fine"),
    [
        ({"h1": True}, False),  # there is nobody to compare with
        ({"h1": True, "h2": False}, True),
        ({"h1": True, "h2": True}, False),
        ({"h1": True, "h2": True, "h3": False}, False),  # one to one
        ({"h1": True, "h2": True, "h3": False, "h4": False}, True),
    ],
)
def test_whether_storage_is_fine_elsewhere(dead: dict[str, bool], *, fine: bool) -> None:
    assert storage_fine("h1", dead) is fine


def test_a_flapping_host_is_jailed_for_ever_longer() -> None:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    downs: tuple[str, ...] = ()
    jailed_s = []
    for _ in range(10):
        downs, until = jail(downs, now)
        jailed_s.append((dt.datetime.fromisoformat(until) - now).total_seconds() if until else 0.0)
        now += dt.timedelta(seconds=30)
    assert jailed_s == [0, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert max(jailed_s) == JAIL_MAX_S
    assert jail(downs, now + dt.timedelta(hours=2)) == ((_text(now + dt.timedelta(hours=2)),), "")  # forgiven
    for _ in range(40):
        downs, _until = jail(downs, now)
    assert len(downs) == DOWNS_MAX


def _text(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _instance(number: int, host: str = "h1", **changes: object) -> Instance:
    return made(id=f"i-{number}", host=host, status="Running", **changes)


def _port(**changes: object) -> Port:
    base = Port(
        id="p-1", account="1", eni="eni-1", vpc="v", vswitch="w", mac="m", ip="10.0.0.1", security_groups=(),
        host="h1", created="",
    )  # fmt: skip
    return replace(base, **changes)


def test_what_is_lost_and_in_which_order() -> None:
    everything = [
        _instance(1, priority=10),
        _instance(2, priority=90),
        _instance(3, host="h2"),
        replace(_instance(4), status="Stopped", desired="stopped"),
        replace(_instance(5), status="Deleting", desired="deleted"),
        _instance(6, migrating_to="h2"),
    ]
    failed = frozenset({"h1"})
    assert [one.id for one in planner.lost(everything, failed, migrations_too=False)] == ["i-2", "i-5", "i-1"]
    assert "i-6" in {one.id for one in planner.lost(everything, failed, migrations_too=True)}


def test_what_is_asked_of_the_scheduler() -> None:
    request = planner.request_for(_instance(1, migrating_to="h3", dedicated_host="d"), frozenset({"h1", "h2"}))
    assert (request.avoid, request.uses_reserve, request.prefer) == (frozenset({"h1", "h2", "h3"}), True, "")
    assert (request.cpu, request.memory_mib, request.dedicated_host) == (1, 256, "d")
    for ending in (
        replace(_instance(1), desired="deleted", status="Deleting"),
        replace(_instance(1), desired="stopped", status="Stopping"),
        _instance(1, action_on_maintenance="Stop"),
    ):
        request = planner.request_for(ending, frozenset({"h1"}))
        assert (request.cpu, request.memory_mib) == (0, 0)  # it needs an agent, not room


@pytest.mark.parametrize(
    ("before", "status", "desired", "kind"),
    [
        ({"status": "Running"}, "Starting", "running", "SystemFailure.Reboot"),
        ({"status": "Starting", "job": "j-1"}, "Starting", "running", "SystemFailure.Reboot"),
        ({"status": "Pending", "job": "j-1"}, "Pending", "running", "SystemFailure.Reboot"),
        # its job has not told the agent yet that it is to run
        ({"status": "Starting", "desired": "stopped", "job": "j-1"}, "Starting", "stopped", "SystemFailure.Reboot"),
        ({"status": "Stopping", "desired": "stopped", "job": "j-1"}, "Stopping", "stopped", "SystemFailure.Stop"),
        ({"status": "Deleting", "desired": "deleted", "job": "j-1"}, "Deleting", "deleted", "SystemFailure.Stop"),
        ({"status": "Running", "action_on_maintenance": "Stop"}, "Stopping", "stopped", "SystemFailure.Stop"),
        ({"status": "Running", "restart_policy": "never"}, "Stopping", "stopped", "SystemFailure.Stop"),
        ({"status": "Running", "migrating_to": "h3"}, "Starting", "running", "SystemFailure.Reboot"),
    ],
)
def test_what_becomes_of_an_instance(before: dict[str, Any], status: str, desired: str, kind: str) -> None:
    lost = replace(_instance(1), **before)
    moved = planner.move(lost, [_port(destination="h3"), _port(id="p-2")], "h2", "2026-01-01T00:00:00Z", "it burns")
    after = moved.instance
    assert (after.host, after.migrating_to, after.status, after.desired) == ("h2", "", status, desired)
    assert after.job == lost.job  # whoever works on it goes on, at its new host
    assert [(port.host, port.destination) for port in moved.ports] == [("h2", ""), ("h2", "")]
    event = moved.event
    assert (event.type, event.cycle, event.from_host, event.to_host) == (kind, "Executing", "h1", "h2")
    assert after.reason.startswith(HOST_FAILED)
    assert len(after.reason) <= planner.REASON_CHARS_MAX


def test_a_moved_instance_is_shown_running_only_when_its_new_host_says_so() -> None:
    moved = planner.move(_instance(1), [], "h2", "", "it burns").instance
    old = ObservedInstance(id="i-1", host="h1", state="running", since="")
    assert settle(moved, old) == moved
    again = settle(moved, replace(old, host="h2"), now="2026-01-01T00:00:00Z")
    assert (again.status, again.reason, again.started) == ("Running", "", "2026-01-01T00:00:00Z")


def test_one_that_waits_says_why_and_runs_when_its_host_is_back() -> None:
    waiting = planner.wait(_instance(1), "no host fits: " + "h2 is full; " * 100)
    assert (waiting.host, waiting.status) == ("h1", "Starting")
    assert "waits for room elsewhere: no host fits: h2 is full" in waiting.reason
    assert len(waiting.reason) <= planner.REASON_CHARS_MAX
    seen = ObservedInstance(id="i-1", host="h1", state="running", since="")
    assert settle(waiting, seen, host_up=False) == waiting  # what it last said before it failed
    assert (settle(waiting, seen).status, settle(waiting, seen).reason) == ("Running", "")


def test_ids_of_events_look_like_those_of_the_public_api() -> None:
    assert new_id("e").startswith("e-")
