"""The official clients against a cloud that runs: the one in ``$YUNTAI_HOME``, or the one that ``YUNTAI_ENDPOINT``,
``YUNTAI_ACCESS_KEY_ID``, ``YUNTAI_ACCESS_KEY_SECRET`` and ``YUNTAI_REGION`` name."""

from __future__ import annotations

import os

import pytest

from tests.functional.sdk.clients import NewSdk, Target, target_from_environment
from tests.functional.sdk.libcloud_life import LibcloudLife
from tests.functional.sdk.lifecycle import Life
from tests.functional.sdk.oldsdk import OldLife

pytestmark = [pytest.mark.functional, pytest.mark.slow, pytest.mark.timeout(1800)]

PATIENCE_S = float(os.environ.get("YUNTAI_PATIENCE_S", "300"))
POLL_S = 1.0


@pytest.fixture(scope="module")
def target() -> Target:
    found = target_from_environment()
    if found is None:
        pytest.skip("no cloud: start one and set YUNTAI_HOME, or name one in YUNTAI_ENDPOINT and the keys beside it")
    return found


@pytest.mark.parametrize("algorithm", ["", "v2"], ids=["acs3", "rpc"])
def test_the_new_sdk_lives_a_whole_life(target: Target, algorithm: str) -> None:
    sdk = NewSdk(target, algorithm)
    Life(sdk, patience_s=PATIENCE_S, poll_s=POLL_S, name=f"life-{algorithm or 'acs3'}-{os.getpid()}").run()
    assert sdk.recorder.problems() == []


def test_the_old_sdk_lives_a_life(target: Target) -> None:
    OldLife(target, patience_s=PATIENCE_S, poll_s=POLL_S).run()


def test_libcloud_lives_a_whole_life(target: Target) -> None:
    LibcloudLife(target, patience_s=PATIENCE_S, poll_s=POLL_S).run()
