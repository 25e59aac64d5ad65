"""One fake cloud for each module of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.api.fake_cloud import FakeCloud


@pytest.fixture(scope="module")
def cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as running:
        yield running
