"""Placement with reasons."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.unit.control.world import CALLER, World, small
from yuntai.control import scheduler
from yuntai.control.requests import instances
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance


def _host(name: str, *, vcpus: int = 8, memory_mib: int = 4096, status: Any = "up") -> Host:
    return Host(
        id=name,
        address="10.0.0.1",
        cpus=vcpus,
        memory_mib=memory_mib,
        accelerator="kvm",
        status=status,
        seen="",
        vcpus_max=vcpus,
        memory_mib_max=memory_mib,
    )


async def _instance(host: str, cpu: int = 1, memory_mib: int = 1024) -> Instance:
    world = World()
    await world.set_up()
    await instances.create_instance(world.store, CALLER, small())
    (made,) = await world.all(Instance)
    assert isinstance(made, Instance)
    return msgspec.structs.replace(made, host=host, cpu=cpu, memory_mib=memory_mib)


def _ask(cpu: int = 1, memory_mib: int = 1024, **more: Any) -> scheduler.Request:
    return scheduler.Request("i-new", cpu, memory_mib, **more)


async def test_the_host_with_most_memory_left_wins_and_then_the_first_name() -> None:
    hosts = [_host("b"), _host("a"), _host("c", memory_mib=8192)]
    assert scheduler.place(hosts, [], _ask()).host == "c"
    assert scheduler.place(hosts[:2], [], _ask()).host == "a"
    assert scheduler.place(hosts[:2], [await _instance("a")], _ask()).host == "b"


async def test_every_rejected_host_says_why() -> None:
    hosts = [_host("h1", memory_mib=1024), _host("h2", vcpus=1), _host("h3", status="down"), _host("h4")]
    placement = scheduler.place(hosts, [], _ask(2, 3072, avoid=frozenset({"h4"})))
    assert placement.host == ""
    assert placement.rejected == (
        "h1 rejected: 2048 MiB short",
        "h2 rejected: 1 vCPU short",
        "h3 rejected: it is down",
        "h4 rejected: it is to be avoided",
    )
    assert placement.reason.startswith("no host fits: h1 rejected: 2048 MiB short; ")
    assert scheduler.place([], [], _ask()).reason == "no host fits: there is no host"


async def test_an_instance_does_not_stand_in_its_own_way_and_stays_where_it_was() -> None:
    there = msgspec.structs.replace(await _instance("h1", cpu=1, memory_mib=4096), id="i-new")
    hosts = [_host("h1"), _host("h2", memory_mib=16384)]
    assert scheduler.place(hosts, [there], _ask(1, 4096, prefer="h1")).host == "h1"


async def test_how_many_fit() -> None:
    hosts = [_host("h1", memory_mib=2048), _host("h2", memory_mib=1024)]
    assert scheduler.place_many(hosts, [], _ask(), 3) == (3, "")
    fitting, why = scheduler.place_many(hosts, [], _ask(), 5)
    assert fitting == 3
    assert "1024 MiB short" in why
