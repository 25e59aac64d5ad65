"""The block store of real programs under a short schedule of faults; ``make thrash MINUTES=n SEED=s`` for longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.thrash.schedule import KINDS, schedule
from tests.thrash.site import PROGRAMS, ROOT

SEED = 20
MINUTES = 0.6
WITHIN_S = 280
NEEDS_PROGRAMS = pytest.mark.skipif(
    not ((PROGRAMS / "yuntai-chunkserver").exists() and (PROGRAMS / "yuntai-gateway").exists()),
    reason="the programs are not built; run: make test",
)


def test_a_seed_gives_its_schedule_and_every_kind_comes() -> None:
    assert schedule(7, 60, long=False) == schedule(7, 60, long=False)
    assert schedule(7, 60, long=False) != schedule(8, 60, long=False)
    assert {fault.kind for fault in schedule(7, 200, long=False)} == set(KINDS)


@pytest.mark.functional
@pytest.mark.timeout(WITHIN_S + 20)
@NEEDS_PROGRAMS
def test_no_write_is_lost_and_none_invented_under_faults() -> None:
    code, out = thrash("--short", f"--minutes={MINUTES}", f"--seed={SEED}")
    assert code == 0, out[-4000:]


@pytest.mark.functional
@NEEDS_PROGRAMS
def test_a_write_that_no_writer_knows_of_is_found() -> None:
    """The checker at work on the whole: somebody else writes one block."""
    code, out = thrash("--minutes=0.01", "--only=foreign_write", "--seed=1")
    assert code == 1
    assert "no order explains" in out or "torn or invented" in out, out[-4000:]


def thrash(*options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.thrash", *options]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            out, _ = process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            # What it started dies with it: they share a process namespace.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    print(out)
    return process.returncode, out
