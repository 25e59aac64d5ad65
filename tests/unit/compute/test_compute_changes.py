"""Cards and limits of a guest that runs: by the agent on the twins, and in libvirt's words."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.compute.test_compute_agent import ID, World, disk, eventually, instance, port, state
from yuntai.compute import device_xml, domain_xml, limits
from yuntai.compute.driver import DiskSpec, GuestSpec, NicSpec
from yuntai.model.compute import Disk


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_card_is_plugged_and_unplugged_while_the_guest_runs(world: World) -> None:
    second = replace(port(), id="p-2", mac="00:16:3e:00:00:02", primary=False)
    await world.records(instance(), second)
    async with world.agent():
        seen = await world.observed(state("running"))
        assert seen.nics == ("p-1",)
        await world.change(ports=("p-2",))
        await world.observed(lambda one: one.nics == ("p-1", "p-2"))
        await world.change(ports=())
        await world.observed(lambda one: one.nics == ("p-1",))
        assert world.count("start") == 1


async def test_a_guest_starts_with_its_cards_and_limits(world: World) -> None:
    second = replace(port(), id="p-2", primary=False)
    await world.records(
        instance(ports=("p-2",), vcpu_quota_percent=40), second, disk(1, iops_max=100, bytes_per_s_max=1 << 20)
    )
    async with world.agent():
        seen = await world.observed(state("running"))
        assert seen.nics == ("p-1", "p-2")
        spec = world.hypervisor.specs[ID]
        assert (spec.vcpu_quota_percent, spec.disks[0].iops_max, spec.disks[0].bytes_per_s_max) == (40, 100, 1 << 20)
        assert world.count("limit_disk") == world.count("limit_vcpus") == 0, "it has them from the start"


async def test_a_card_without_its_record_is_waited_for(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        await world.change(ports=("p-2",))
        await world.observed(lambda one: "port p-2" in one.error)
        await world.store.put(replace(port(), id="p-2", primary=False))
        await world.observed(lambda one: one.nics == ("p-1", "p-2"))


async def test_limits_change_under_the_running_guest(world: World) -> None:
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        await world.store.update(Disk, "d-1", lambda one: replace(one, iops_max=50))
        await eventually(lambda: _limits(world) == ({"d-1": (50, 0)}, 0))
        await world.change(vcpu_quota_percent=25)
        await eventually(lambda: _limits(world) == ({"d-1": (50, 0)}, 25))
        await world.store.update(Disk, "d-1", lambda one: replace(one, iops_max=0))
        await world.change(vcpu_quota_percent=0)
        await eventually(lambda: _limits(world) == ({"d-1": (0, 0)}, 0))
        assert world.count("start") == 1


async def test_a_limit_that_cannot_be_set_harms_nothing_and_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AGAIN_S", 0.05)
    await world.records(instance())
    async with world.agent():
        await world.observed(state("running"))
        world.hypervisor.fail_next["limit_vcpus"] = "there is no control group"
        await world.change(vcpu_quota_percent=25)
        await eventually(lambda: _limits(world)[1] == 25)
        seen = await world.observed(state("running"))
        assert seen.error == ""


def _limits(world: World) -> tuple[dict[str, tuple[int, int]], int]:
    guest = world.hypervisor._guests[ID]
    return guest.limits, guest.vcpu_quota_percent


def _spec(**changes: object) -> GuestSpec:
    values: dict[str, object] = {
        "id": ID, "uuid": "u", "cpu": 1, "memory_mib": 256, "accelerator": "tcg", "nic": NicSpec(port="p-1", mac="m1"),
        "disks": (DiskSpec(id="d-1", target="vda", socket="/s", export="vol-1"),), "console_log": "/l",
        "console_socket": "/c",
    }  # fmt: skip
    return GuestSpec(**(values | changes))  # type: ignore[arg-type]


def test_the_description_has_cards_and_limits_and_is_read_back() -> None:
    limited = DiskSpec(id="d-1", target="vda", socket="/s", export="vol-1", iops_max=100, bytes_per_s_max=4096)
    text = domain_xml.domain(_spec(disks=(limited,), more_nics=(NicSpec(port="p-2", mac="m2"),), vcpu_quota_percent=30))
    found = device_xml.read(text)
    assert found.nics == ("p-1", "p-2")
    assert found.limits == {"d-1": (100, 4096)}
    assert found.vcpu_quota_percent == 30
    element = device_xml.nic_element(text, "p-2")
    assert element is not None
    assert ET.fromstring(element).find("mac").get("address") == "m2"  # type: ignore[union-attr]
    assert device_xml.nic_element(text, "p-3") is None


def test_what_is_not_limited_says_nothing_of_limits() -> None:
    text = domain_xml.domain(_spec())
    assert "iotune" not in text
    assert "cputune" not in text
    assert device_xml.read(text) == device_xml.Devices(("p-1",), {"d-1": (0, 0)}, 0)
    assert device_xml.quota_us(0) < 0, "libvirt takes a negative quota for none"


def test_a_quota_that_was_ended_is_read_as_none() -> None:
    text = domain_xml.domain(_spec(vcpu_quota_percent=50)).replace(">50000<", ">-1<")
    assert device_xml.read(text).vcpu_quota_percent == 0
