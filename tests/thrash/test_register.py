"""The checker itself: it accepts what an atomic register may do, and finds what it may not."""

from __future__ import annotations

import random

import pytest

from tests.thrash.content import block, value_of
from tests.thrash.register import Register, Violation


def test_reads_see_the_last_write() -> None:
    register = Register("r")
    register.write_called(1, 7)
    register.write_answered(1)
    register.read_called(2)
    register.read_answered(2, 7)


def test_a_lost_write_is_found() -> None:
    register = Register("r")
    register.write_called(1, 7)
    register.write_answered(1)
    register.read_called(2)
    with pytest.raises(Violation, match="no order explains"):
        register.read_answered(2, 0)


def test_a_write_that_comes_back_is_found() -> None:
    register = Register("r")
    for operation in (1, 2):
        register.write_called(operation, operation)
        register.write_answered(operation)
    register.read_called(3)
    with pytest.raises(Violation):
        register.read_answered(3, 1)


def test_writes_at_the_same_time_may_take_either_order_but_one_only() -> None:
    for first in (1, 2):
        register = Register("r")
        register.write_called(1, 1)
        register.write_called(2, 2)
        register.write_answered(1)
        register.write_answered(2)
        register.read_called(3)
        register.read_answered(3, first)
        register.read_called(4)
        with pytest.raises(Violation):
            register.read_answered(4, 3 - first)


def test_a_read_that_flips_back_is_found() -> None:
    """Two reads while one write is under way: once the new value has been seen, the old one is gone."""
    register = Register("r")
    register.write_called(1, 1)
    register.read_called(2)
    register.read_answered(2, 1)
    register.read_called(3)
    with pytest.raises(Violation):
        register.read_answered(3, 0)


def test_a_read_may_have_its_moment_between_two_writes() -> None:
    register = Register("r")
    register.read_called(9)
    for operation in (1, 2, 3):
        register.write_called(operation, operation)
        register.write_answered(operation)
    register.read_answered(9, 2)


def test_an_unknown_write_may_happen_or_not_but_only_until_it_is_settled() -> None:
    for value in (0, 1):
        register = Register("r")
        register.write_called(1, 1)
        register.settle(1)
        register.read_called(2)
        register.read_answered(2, value)
        register.read_called(3)
        with pytest.raises(Violation):
            register.read_answered(3, 1 - value)


def test_an_unknown_write_does_not_hide_the_loss_of_an_acknowledged_one() -> None:
    register = Register("r")
    register.write_called(1, 1)
    register.write_answered(1)
    register.write_called(2, 2)
    register.settle(2)
    register.read_called(3)
    with pytest.raises(Violation):
        register.read_answered(3, 0)


def test_a_late_write_of_a_fenced_writer_is_found() -> None:
    register = Register("r")
    register.write_called(1, 1)
    register.settle(1)
    register.write_called(2, 2)
    register.write_answered(2)
    register.read_called(3)
    with pytest.raises(Violation):
        register.read_answered(3, 1)


def test_a_snapshot_shows_what_was_there_while_it_was_taken() -> None:
    register = Register("r")
    register.write_called(1, 1)
    register.write_answered(1)
    register.write_called(2, 2)
    register.window_opened(5)
    register.write_called(3, 3)
    register.write_answered(2)
    assert register.window_closed(5) == {1, 2, 3}
    register.write_called(4, 4)
    assert register.possible() >= {4}


def run(seed: int, wrong: str) -> None:
    """Play a register with several clients, which forgets, flips or invents at a random moment if ``wrong`` says so."""
    chance = random.Random(seed)
    register = Register("r")
    value, previous, last = 0, 0, 0
    under_way: dict[int, tuple[str, int | None]] = {}
    at = chance.randrange(100, 300)
    for operation in range(1, 400):
        if len(under_way) < 4 and chance.random() < 0.6:
            if chance.random() < 0.5:
                register.write_called(operation, operation)
                under_way[operation] = ("write", None)
            else:
                register.read_called(operation)
                under_way[operation] = ("read", None)
        for known, (kind, result) in list(under_way.items()):
            if result is None and chance.random() < 0.5:
                if kind == "write":
                    if wrong == "forgets" and operation >= at:
                        wrong, last = "", known
                    else:
                        previous, value = value, known
                under_way[known] = (kind, previous if wrong == "flips" and operation >= at else value)
            elif result is not None and chance.random() < 0.5:
                del under_way[known]
                if kind == "write" and chance.random() < 0.2 and known != last:
                    register.settle(known)
                elif kind == "write":
                    register.write_answered(known)
                    if known == last:  # nothing may hide the loss
                        register.read_called(-1)
                        register.read_answered(-1, value)
                else:
                    register.read_answered(known, result)


@pytest.mark.parametrize("seed", range(60))
def test_a_right_register_passes(seed: int) -> None:
    run(seed, "")


@pytest.mark.parametrize("wrong", ["forgets", "flips"])
def test_a_wrong_register_is_caught(wrong: str) -> None:
    caught = 0
    for seed in range(60):
        try:
            run(seed, wrong)
        except Violation:
            caught += 1
    # A loss is no loss when another write comes over it before anybody looks.
    assert caught > 30


def test_blocks_that_are_torn_misplaced_or_invented_are_found() -> None:
    good = block(1, 2, 3, 4096)
    assert value_of(good, 1, 2) == 3
    assert value_of(bytes(4096), 1, 2) == 0
    with pytest.raises(Violation, match="torn"):
        value_of(good[:2048] + block(1, 2, 4, 4096)[2048:], 1, 2)
    with pytest.raises(Violation, match="holds write 3 of block 2 of 1"):
        value_of(good, 1, 5)
    with pytest.raises(Violation, match="torn"):
        value_of(good[:2048] + bytes(2048), 1, 2)
