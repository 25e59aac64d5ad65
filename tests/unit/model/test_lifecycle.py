"""Every life cycle, exhaustively: decided pairs, reachable states, exits."""

from __future__ import annotations

from typing import get_args

import pytest

from yuntai.model import compute
from yuntai.model.lifecycle import GONE, INSTANCE, Allow, LifecycleError, Machine, Refuse, build
from yuntai.model.lifecycle_storage import DISK, IMAGE, SNAPSHOT

MACHINES = [INSTANCE, DISK, SNAPSHOT, IMAGE]
each_machine = pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)


def _moves(machine: Machine) -> dict[str, set[str]]:
    moves: dict[str, set[str]] = {state: set() for state in machine.states}
    for (state, _), decision in machine.table.items():
        if isinstance(decision, Allow):
            moves[state].add(decision.state)
    return moves


def _closure(start: set[str], moves: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = set(start)
    while todo:
        state = todo.pop()
        seen.add(state)
        todo |= moves.get(state, set()) - seen
    return seen


@each_machine
def test_every_pair_is_decided(machine: Machine) -> None:
    events = {*machine.requests, *machine.facts}
    assert set(machine.table) == {(state, event) for state in machine.states for event in events}


@each_machine
def test_every_state_is_reachable_from_the_first(machine: Machine) -> None:
    assert _closure(set(machine.initial), _moves(machine)) == {*machine.states, GONE}


@each_machine
def test_every_state_has_a_way_to_gone(machine: Machine) -> None:
    moves = _moves(machine)
    for state in machine.states:
        assert moves[state] - {state}, f"{state} of {machine.name} has no exit"
        assert GONE in _closure({state}, moves), f"{state} of {machine.name} never ends"


@each_machine
def test_moves_lead_to_declared_states(machine: Machine) -> None:
    for decision in machine.table.values():
        if isinstance(decision, Allow):
            assert decision.state in {*machine.states, GONE}


@each_machine
def test_a_fact_is_never_refused_and_a_refusal_has_code_and_way_out(machine: Machine) -> None:
    for (_, event), decision in machine.table.items():
        if isinstance(decision, Refuse):
            assert event in machine.requests
            assert decision.code.startswith("Incorrect")
            assert decision.way_out


@each_machine
def test_a_state_that_waits_for_work_has_an_exit_without_a_tenant(machine: Machine) -> None:
    """A state in which nobody may ask for the next step must be left by a fact, or a record is stuck."""
    resting = {"Running", "Stopped", "Available", "In_use", "accomplished", "failed", "CreateFailed"}
    for state in set(machine.states) - resting:
        exits = {
            decision.state
            for event in machine.facts
            if isinstance(decision := machine.decide(state, event), Allow) and decision.state != state
        }
        assert exits, f"{state} of {machine.name} is left only by a request"


@pytest.mark.parametrize(
    ("machine", "literal", "without"),
    [
        (INSTANCE, compute.InstanceStatus, set()),
        (DISK, compute.DiskStatus, set()),
        (SNAPSHOT, compute.SnapshotStatus, set()),
        (IMAGE, compute.ImageStatus, set()),
    ],
    ids=["instance", "disk", "snapshot", "image"],
)
def test_the_table_has_the_statuses_of_the_record(machine: Machine, literal: object, without: set[str]) -> None:
    assert set(machine.states) == set(get_args(literal)) - without


@pytest.mark.parametrize(
    ("state", "event"),
    [("Running", "start"), ("Stopped", "stop"), ("Running", "delete"), ("Pending", "start"), ("Deleting", "modify")],
)
def test_refusals_of_the_instance_are_those_of_ecs(state: str, event: str) -> None:
    with pytest.raises(LifecycleError, match=state) as caught:
        INSTANCE.step(state, event, "i-1")
    assert caught.value.code == "IncorrectInstanceStatus"
    assert "i-1" in caught.value.message


def test_requests_that_need_work_name_the_job() -> None:
    assert INSTANCE.step("Stopped", "start") == Allow("Starting", "start_instance")
    assert INSTANCE.step("Running", "reboot") == Allow("Starting", "reboot_instance")
    assert DISK.step("Available", "attach") == Allow("Attaching", "attach_disk")


def test_build_refuses_a_move_of_something_undeclared() -> None:
    with pytest.raises(ValueError, match="undeclared_event"):
        build("x", states=("A",), initial=("A",), requests={}, facts=(), moves={"undeclared_event": {"A": Allow("A")}})
