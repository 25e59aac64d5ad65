"""What CPU a host can give, as read from libvirt and the hardware; and that a guest's record says what it got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from yuntai.compute import cpu, hostrecord, processor
from yuntai.compute.cpu import CpuFacts, CpuSpec
from yuntai.compute.ownership import NotReadyError
from yuntai.compute.processor import Processors
from yuntai.config import Config
from yuntai.model.cluster import Host, HostPool
from yuntai.model.compute import Instance
from yuntai.model.joining import RemovedHost
from yuntai.state import MemoryStore, StateError

CAPABILITIES = """
<domainCapabilities><cpu>
  <mode name='host-passthrough' supported='yes'/>
  <mode name='host-model' supported='yes'>
    <model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
    <feature policy='require' name='clwb'/><feature policy='disable' name='vme'/>
  </mode>
</cpu></domainCapabilities>
"""
EXPANDED = """
<cpu mode='custom' match='exact'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
  <feature policy='require' name='svm'/><feature policy='require' name='vmx-ept'/>
  <feature policy='require' name='clwb'/><feature policy='require' name='avx'/><feature policy='disable' name='vme'/>
</cpu>
"""
CONFIG = Config(cluster="c", host="h1", address="10.0.0.1", etcd=["10.0.0.1:2379"])
FACTS = CpuFacts(model="EPYC", vendor="AMD", features=("avx", "clwb"), mce_banks=10, mce_banks_hardware=9)
INSTANCE = Instance(
    id="i-1", account="1", name="n", hostname="n", zone="z", instance_type="t", cpu=1, memory_mib=256, image="m",
    host="h1", vpc="v", vswitch="w", port="p", security_groups=(), system_disk="d", created="2026-01-01T00:00:00Z",
)  # fmt: skip


def test_what_libvirt_says_is_read() -> None:
    assert "clwb" in cpu.host_model(CAPABILITIES)
    assert cpu.host_model(CAPABILITIES.replace("name='host-model' supported='yes'", "name='host-model'")) == ""
    found = cpu.facts(EXPANDED, hardware=9)
    assert found == replace_facts(features=("avx", "clwb")), "no virtualization inside guests, and nothing disabled"
    assert cpu.features_of(EXPANDED) == {"svm", "vmx-ept", "clwb", "avx", "vme"}


def replace_facts(**changes: object) -> CpuFacts:
    import dataclasses

    return dataclasses.replace(FACTS, **changes)  # type: ignore[arg-type]


def test_the_hardware_banks_are_counted(tmp_path: Path) -> None:
    tree, registers = tmp_path / "machinecheck0", tmp_path / "msr"
    assert cpu.hardware_banks(tree, registers) == 0
    with registers.open("wb") as file:
        file.seek(cpu.MCG_CAP)
        file.write((0x1000106).to_bytes(8, "little"))
    assert cpu.hardware_banks(tree, registers) == 6
    tree.mkdir()
    for name in ("bank0", "bank1", "check_interval", "bankrupt"):
        (tree / name).touch()
    assert cpu.hardware_banks(tree, registers) == 2


@asynccontextmanager
async def hosts(**facts: object) -> AsyncIterator[tuple[MemoryStore, Host]]:
    store = MemoryStore()
    host = await hostrecord.beat(store, hostrecord.describe(CONFIG, "tcg", {}, replace_facts(**facts)))
    await store.put(INSTANCE)
    yield store, host


async def test_what_was_known_of_the_cpu_stays_until_libvirt_answers() -> None:
    async with hosts() as (store, first):
        again = await hostrecord.beat(store, hostrecord.describe(CONFIG, "tcg", {}, CpuFacts()))
        assert (again.cpu_features, again.mce_banks) == (first.cpu_features, 10)
        lesser = await hostrecord.beat(store, hostrecord.describe(CONFIG, "tcg", {}, replace_facts(features=("avx",))))
        assert lesser.cpu_features == ("avx",), "a feature that the host lost is gone from its record"


async def test_the_config_of_a_test_says_another_number_of_banks() -> None:
    six = replace(CONFIG, mce_banks=6)
    made = hostrecord.describe(six, "tcg", {}, FACTS)
    assert (made.mce_banks, made.mce_banks_hardware) == (6, 9)


async def test_a_guest_gets_its_pools_baseline_and_its_record_says_so() -> None:
    pools = {"default": HostPool(id="default", cpu_model="EPYC", cpu_features=("avx",), mce_banks=6)}
    async with hosts() as (store, host):
        processors = Processors(store, "h1", pools.get)
        processors.learn(host)
        assert await processors.give(INSTANCE) == CpuSpec(model="EPYC", features=("avx",))
        noted = (await store.need(Instance, "i-1")).value
        # As many banks as it really finds here, not as few as another host of the pool would have shown it.
        assert (noted.cpu_features, noted.mce_banks) == (("avx",), 10)
        pools.clear()
        assert (await processors.give(noted)).features == ("avx", "clwb"), "without a pool: what the host has"


async def test_a_guest_that_went_elsewhere_is_not_started() -> None:
    async with hosts() as (store, host):
        processors = Processors(store, "h1", {}.get)
        processors.learn(host)
        await store.put(replace(INSTANCE, host="h2"))
        with pytest.raises(NotReadyError, match="belongs to host h2"):
            await processors.give(INSTANCE)
        assert (await store.need(Instance, "i-1")).value.cpu_features == ()


async def test_no_guest_starts_before_the_cpu_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "KNOWN_TIMEOUT_S", 0.05)
    async with hosts(features=()) as (store, host):
        processors = Processors(store, "h1", {}.get)
        processors.learn(host)
        with pytest.raises(NotReadyError, match="what CPU it can give"):
            await processors.give(INSTANCE)
        waiting = asyncio.create_task(processors.give(INSTANCE))
        monkeypatch.setattr(processor, "KNOWN_TIMEOUT_S", 30.0)
        processors.learn(replace(host, cpu_features=("avx",)))
        assert (await waiting).features == ("avx",)


async def test_a_removed_host_does_not_come_back_by_itself() -> None:
    async with hosts() as (store, host):
        await store.delete(Host, "h1")
        await store.put(RemovedHost(id="h1", removed="2026-01-01T00:00:00Z"))
        with pytest.raises(StateError, match="was removed from the cluster"):
            await hostrecord.beat(store, host)
        assert await store.get(Host, "h1") is None
        await store.delete(RemovedHost, "h1")
        assert (await hostrecord.beat(store, host)).id == "h1"
