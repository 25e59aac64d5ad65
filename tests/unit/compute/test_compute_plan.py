"""The plan as a table: what is wanted, and what is there → the next move."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from yuntai.compute.driver import Guest
from yuntai.compute.plan import BACKOFF_MAX_S, PRESS_AGAIN_S, SHUTDOWN_GRACE_S, STABLE_S, Memory, Move, Situation, plan

RUNS = Guest(id="i-1", state="running", disks=("d-1",))
HELD = frozenset({"d-1"})


def off(end: str) -> Guest:
    return Guest(id="i-1", state="off", end=end, disks=("d-1",))  # type: ignore[arg-type]


def situation(**changes: object) -> Situation:
    values = {"desired": "running", "guest": RUNS, "disks": ("d-1",), "held": HELD} | changes
    return Situation(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "action", "state", "disk"),
    [
        ({}, "none", "running", ""),
        ({"guest": None}, "start", "starting", ""),
        ({"guest": off("unknown")}, "start", "starting", ""),  # the host was off: it starts at once
        ({"guest": off("shutdown")}, "none", "stopped", ""),  # shut down from inside: it stays so
        ({"guest": off("crashed"), "restart_always": False}, "none", "stopped", ""),
        ({"guest": off("crashed")}, "none", "crashed", ""),
        ({"disks": ("d-1", "d-2")}, "plug", "running", "d-2"),
        ({"guest": Guest(id="i-1", state="running", disks=("d-1", "d-2"))}, "unplug", "running", "d-2"),
        ({"held": frozenset({"d-1", "d-2"})}, "release", "running", "d-2"),
        ({"nics": ("p-1", "p-2"), "guest": replace(RUNS, nics=("p-1",))}, "plug_nic", "running", "p-2"),
        ({"nics": ("p-1",), "guest": replace(RUNS, nics=("p-1", "p-2"))}, "unplug_nic", "running", "p-2"),
        ({"nics": ("p-1",), "guest": replace(RUNS, nics=("p-1",))}, "none", "running", ""),
        ({"guest": replace(RUNS, nics=("p-1",))}, "none", "running", ""),  # nobody said which cards it is to have
        ({"guest": Guest(id="i-1", state="paused", io_error=True, disks=("d-1",))}, "resume", "running", ""),
        ({"guest": Guest(id="i-1", state="paused", disks=("d-1",))}, "none", "running", ""),
        ({"reboot": True}, "restart", "running", ""),
        ({"reboot": True, "force": True}, "reset", "running", ""),
        ({"desired": "stopped"}, "press_power", "stopping", ""),
        ({"desired": "stopped", "force": True}, "destroy", "stopping", ""),
        ({"desired": "stopped", "guest": off("shutdown")}, "forget", "stopping", ""),
        ({"desired": "stopped", "guest": None}, "release", "stopping", "d-1"),
        ({"desired": "stopped", "guest": None, "held": frozenset()}, "none", "stopped", ""),
        ({"desired": "deleted"}, "destroy", "stopping", ""),
        ({"desired": "deleted", "guest": off("destroyed")}, "forget", "stopping", ""),
        ({"desired": "deleted", "guest": None}, "release", "stopping", "d-1"),
        ({"desired": "deleted", "guest": None, "held": frozenset()}, "clean", "stopping", ""),
        ({"desired": "deleted", "guest": None, "held": frozenset(), "cleaned": True}, "none", "absent", ""),
    ],
)
def test_next_move(changes: dict[str, object], action: str, state: str, disk: str) -> None:
    move = plan(situation(**changes), Memory(), 100.0)
    assert (move.action, move.state, move.disk) == (action, state, disk)


def test_every_pair_has_a_move_and_only_a_wish_to_end_ends_a_running_guest() -> None:
    guests = [None, RUNS, off("shutdown"), off("destroyed"), off("crashed"), off("failed"), off("unknown")]
    wishes = ["running", "stopped", "deleted"]
    for desired, guest, force, reboot, always in itertools.product(wishes, guests, *[(True, False)] * 3):
        move = plan(
            situation(desired=desired, guest=guest, force=force, reboot=reboot, restart_always=always), Memory(), 5.0
        )
        assert isinstance(move, Move)
        if desired == "running":
            assert move.action not in {"destroy", "press_power", "forget", "clean"}
            assert reboot or move.action not in {"restart", "reset"}
        else:
            assert move.action not in {"start", "plug", "restart", "reset"}


def test_a_guest_that_keeps_dying_waits_longer_each_time() -> None:
    memory, clock, waits = Memory(), 0.0, []
    for _ in range(9):
        move = plan(situation(guest=off("crashed")), memory, clock)
        assert move.action == "none"
        assert move.wait_s is not None
        waits.append(move.wait_s)
        clock += move.wait_s
        assert plan(situation(guest=off("crashed")), memory, clock).action == "start"
        plan(situation(), memory, clock)  # it runs, for a moment
        clock += 1.0
    assert waits == [1, 2, 4, 8, 16, 32, BACKOFF_MAX_S, BACKOFF_MAX_S, BACKOFF_MAX_S]


def test_a_long_run_forgives_earlier_deaths() -> None:
    memory = Memory(deaths=6)
    plan(situation(), memory, 0.0)
    assert plan(situation(guest=off("crashed")), memory, STABLE_S).wait_s == 1.0


def test_the_power_button_is_pressed_again_and_then_the_plug_is_pulled() -> None:
    memory, wanted = Memory(), situation(desired="stopped")
    assert plan(wanted, memory, 0.0).action == "press_power"
    assert plan(wanted, memory, 1.0).action == "none"
    assert plan(wanted, memory, PRESS_AGAIN_S).action == "press_power"
    late = plan(wanted, memory, SHUTDOWN_GRACE_S)
    assert late.action == "destroy"
    assert "in time" in late.why


def test_a_reboot_ends_with_the_reset_that_it_caused() -> None:
    memory = Memory()
    guest = Guest(id="i-1", state="running", disks=("d-1",), resets=4)
    assert plan(situation(guest=guest, reboot=True), memory, 0.0).action == "restart"
    assert plan(situation(guest=guest, reboot=True), memory, 1.0).wait_s == PRESS_AGAIN_S
    done = Guest(id="i-1", state="running", disks=("d-1",), resets=5)
    assert plan(situation(guest=done, reboot=True), memory, 2.0).rebooted


def test_a_guest_that_does_not_listen_to_a_reboot_is_reset() -> None:
    memory = Memory()
    plan(situation(reboot=True), memory, 0.0)
    assert plan(situation(reboot=True), memory, SHUTDOWN_GRACE_S).action == "reset"
