"""Long seeded walks through the same cloud as the state machine's; together they must have seen what is listed here.

A failing seed is run alone with ``pytest -k 'walk and 17'``.
"""

from __future__ import annotations

import random

import pytest

from tests.unit.control.test_control_machine import ControlMachine

STEPS = 120
SEEDS = (*range(16), 24)
# (weight, rule, choices of its arguments); "number" and "other" are always drawn.
MOVES: tuple[tuple[int, str, dict[str, tuple[object, ...]]], ...] = (
    (6, "run_instances", {"amount": (1, 1, 2), "data": ([], [True], [False, True]), "begin": (True, True, False)}),
    (14, "power", {"verb": ("start", "stop", "stop", "force_stop", "reboot", "delete", "force_delete")}),
    (4, "create_disk", {"snapshot": (True, False)}),
    (10, "plug", {"verb": ("attach", "attach", "detach")}),
    (5, "change_disk", {"verb": ("delete", "resize"), "size": (3, 4, 5, 6)}),
    (6, "snapshot", {"verb": ("create", "create", "delete")}),
    (4, "group", {"verb": ("create", "create", "delete")}),
    (6, "restore", {"verb": ("reset", "reset", "reinit")}),
    (6, "image", {"verb": ("from_instance", "from_snapshot", "delete", "run")}),
    (5, "network", {"third": (0, 1), "verb": ("vpc", "vswitch", "group", "rule", "run", "run")}),
    (2, "delete_network", {"verb": ("vpc", "vswitch", "group")}),
    (3, "membership", {"verb": ("join", "leave")}),
    (14, "work_and_die", {"fuse": (1, 2, 3, 5, 9)}),
    (20, "work_on_all", {}),
    (16, "agents_act", {}),
    (6, "reconcile", {}),
    (6, "time_passes", {"seconds": (1, 30, 130, 700)}),
    (3, "come_to_rest", {}),
    (5, "break_something", {"what": ("guest", "guest", "disk", "disk", "store", "nothing", "nothing")}),
)
NUMBERED = {
    "power", "create_disk", "plug", "change_disk", "snapshot", "group", "restore", "image", "network", "delete_network",
    "membership", "work_and_die", "come_to_rest", "break_something",
}  # fmt: skip
WANTED = {
    "killed",
    "create_instance done",
    "create_instance failed",
    "create_instance aborted",
    "create_instance superseded",
    "start_instance done",
    "start_instance failed",
    "start_instance superseded",
    "stop_instance done",
    "stop_instance superseded",
    "reboot_instance done",
    "reboot_instance superseded",
    "delete_instance done",
    "attach_disk done",
    "attach_disk failed",
    "detach_disk done",
    "detach_disk failed",
    "create_disk done",
    "create_disk failed",
    "delete_disk done",
    "resize_disk done",
    "create_snapshot done",
    "create_snapshot failed",
    "delete_snapshot done",
    "create_snapshot_group done",
    "reset_disk done",
    "reinit_disk done",
    "create_image done",
    "delete_image done",
    "refused IncorrectInstanceStatus",
    "refused IncorrectDiskStatus",
    "refused SnapshotCreatedImage",
    "refused OperationDenied.NoStock",
    "refused DependencyViolation",
    "refused DependencyViolation.VSwitch",
}
seen: set[str] = set()


@pytest.mark.parametrize("seed", SEEDS)
def test_walk(seed: int) -> None:
    random_source = random.Random(seed)
    machine = ControlMachine()
    try:
        machine.start()
        for _ in range(STEPS):
            _, name, choices = random_source.choices(MOVES, [weight for weight, _, _ in MOVES])[0]
            arguments = {key: random_source.choice(values) for key, values in choices.items()}
            if name in NUMBERED:
                arguments["number"] = random_source.randrange(1_000_000)
            if name in ("plug", "membership"):
                arguments["other"] = random_source.randrange(1_000_000)
            getattr(machine, name)(**arguments)
            machine.whatever_is_under_way_has_somebody_who_ends_it()
            machine.addresses_and_room_are_handed_out_once()
            machine.quotas_are_the_sums_of_the_records()
    finally:
        machine.teardown()
        seen.update(machine.seen)


def test_walks_have_been_everywhere() -> None:
    if not seen:
        pytest.skip("no walk has run")
    assert WANTED - seen == set()
