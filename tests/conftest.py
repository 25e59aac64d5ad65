"""Under ``make test`` nothing may be skipped for want of a thing that ``make test`` itself installs or builds.

And no example that Hypothesis makes has a time limit of its own: on a busy machine any of them may take a second.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator

MADE_BY_TESTS_SETUP = "make test"
"""A skip that names this command wants what the command provides."""

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip for want of set-up into a failure when the set-up has run (``YUNTAI_SET_UP=yes``)."""
    del item, call
    report = yield
    if report.skipped and MADE_BY_TESTS_SETUP in str(report.longrepr) and os.environ.get("YUNTAI_SET_UP") == "yes":
        report.outcome = "failed"
    return report
