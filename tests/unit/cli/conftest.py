"""A home whose credentials lead to an API of the tests' own, with everything behind it played."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.api.fake_cloud import KEY, REGION, SECRET, FakeCloud


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with FakeCloud() as cloud:
        credentials = {
            "endpoint": cloud.target.endpoint,
            "access_key_id": KEY,
            "access_key_secret": SECRET,
            "region": REGION,
        }
        (folder / "credentials.json").write_text(json.dumps(credentials))
        yield folder
