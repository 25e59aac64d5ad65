"""The official clients live a whole life against the front, and every answer is checked strictly."""

from __future__ import annotations

import pytest

from tests.functional.sdk.clients import NewSdk
from tests.functional.sdk.libcloud_life import LibcloudLife
from tests.functional.sdk.lifecycle import Life
from tests.functional.sdk.oldsdk import OldLife
from tests.unit.api.fake_cloud import FakeCloud
from yuntai.api import catalogue
from yuntai.api.registry import ECS, STS, VPC


@pytest.mark.parametrize("algorithm", ["", "v2"], ids=["acs3", "rpc"])
def test_the_new_sdk_lives_a_whole_life(cloud: FakeCloud, algorithm: str) -> None:
    sdk = NewSdk(cloud.tenant, algorithm)
    Life(sdk, name=f"life-{algorithm or 'acs3'}").run()
    assert sdk.recorder.problems() == []


def test_states_on_the_way_are_waited_for() -> None:
    with FakeCloud(delay_s=0.05) as slow:
        sdk = NewSdk(slow.tenant)
        Life(sdk).run()
        assert sdk.recorder.problems() == []
        OldLife(slow.tenant).run()
        LibcloudLife(slow.tenant).run()


def test_the_old_sdk_lives_a_life(cloud: FakeCloud) -> None:
    OldLife(cloud.tenant).run()


def test_libcloud_lives_a_whole_life(cloud: FakeCloud) -> None:
    OldLife(cloud.tenant).run()  # the account's default network is made by its first instance
    LibcloudLife(cloud.tenant).run()


def test_every_tenant_action_is_checked(cloud: FakeCloud) -> None:
    """Whatever the front offers under the public versions, the life above calls and checks."""
    sdk = NewSdk(cloud.tenant)
    Life(sdk, name="coverage").run()
    offered = {name for version in (ECS, VPC, STS) for name in catalogue.load()[version]}
    assert offered - set(sdk.recorder.bodies) == set()
