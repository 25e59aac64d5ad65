"""The fleet: kept up to date change by change it answers as one made anew, and each rule refuses with its reason."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from yuntai.control.scheduler import Fleet, Request, request_of
from yuntai.model.cluster import Host, HostPool
from yuntai.model.compute import Instance
from yuntai.model.placement import DeploymentSet, SchedulerSettings

RESERVED = SchedulerSettings(id="scheduler", reserve_for_one_host=True)


def host(name: str, *, vcpus: int = 8, memory_mib: int = 4096, **more: Any) -> Host:
    return Host(
        id=name,
        address="10.0.0.1",
        cpus=vcpus,
        memory_mib=memory_mib,
        accelerator="kvm",
        seen="",
        vcpus_max=vcpus,
        memory_mib_max=memory_mib,
        **more,
    )


def instance(name: str, at: str, *, cpu: int = 1, memory_mib: int = 1024, **more: Any) -> Instance:
    return Instance(
        id=name,
        account="a",
        name=name,
        hostname=name,
        zone="z",
        instance_type="t",
        cpu=cpu,
        memory_mib=memory_mib,
        image="m",
        host=at,
        vpc="v",
        vswitch="s",
        port="p",
        security_groups=(),
        system_disk="d",
        created="2026-01-01T00:00:00Z",
        **more,
    )


def ask(name: str = "i-new", cpu: int = 1, memory_mib: int = 1024, **more: Any) -> Request:
    return Request(name, cpu, memory_mib, **more)


def apart(name: str = "ds-1", **more: Any) -> DeploymentSet:
    return DeploymentSet(id=name, account="a", created="", **more)


@pytest.mark.parametrize("seed", range(8))
def test_changes_one_by_one_give_what_all_at_once_gives(seed: int) -> None:
    draw = random.Random(seed)
    hosts = {f"h{n}": host(f"h{n}", rack=f"r{n % 3}", memory_mib=8192) for n in range(9)}
    there: dict[str, Instance] = {}
    sets = [apart(), apart("ds-2", strategy="AvailabilityGroup"), apart("ds-3", strategy="LowLatency")]
    fleet = Fleet(hosts.values(), (), sets)
    for number in range(300):
        match draw.randrange(5):
            case 0 if there:
                gone = draw.choice(sorted(there))
                del there[gone]
                fleet.remove_instance(gone)
            case 1:
                name = draw.choice(sorted(hosts))
                hosts[name] = replace(
                    hosts[name],
                    status=draw.choice(["up", "up", "down"]),
                    maintenance=draw.choice(["", "", "draining"]),
                    dedicated=draw.choice(["", "", "dh-1"]),
                )
                fleet.put_host(hosts[name])
            case 2 if there:
                name = draw.choice(sorted(there))
                there[name] = replace(there[name], migrating_to=draw.choice(["", *sorted(hosts), "unknown"]))
                fleet.put_instance(there[name])
            case _:
                name = f"i{number}"
                there[name] = instance(
                    name, draw.choice(["", *sorted(hosts)]), deployment_set=draw.choice(["", "ds-1", "ds-2", "ds-3"])
                )
                fleet.put_instance(there[name])
        if number % 10 == 0:
            fresh = Fleet(hosts.values(), there.values(), sets)
            assert fleet.rooms() == fresh.rooms()
            assert fleet.open_hosts() == fresh.open_hosts()
            assert fleet.free_without("") == fresh.free_without("")
            for wanted in ("", "ds-1", "ds-2", "ds-3"):
                request = ask(deployment_set=wanted, group=1, memory_mib=draw.choice([512, 4096, 7000]))
                assert fleet.choose(request) == fresh.choose(request)
                assert fleet.explain(request) == fresh.explain(request)


def test_a_moving_instance_holds_room_at_both_hosts() -> None:
    fleet = Fleet([host("h1"), host("h2")], [instance("i-1", "h1", memory_mib=3072, migrating_to="h2")])
    assert {h: room.memory_mib for h, room in fleet.rooms().items()} == {"h1": 1024, "h2": 1024}
    assert fleet.choose(ask(memory_mib=2048)).rejected == ("h1 rejected: 1024 MiB short", "h2 rejected: 1024 MiB short")
    fleet.hold(ask("i-2"), "h1")
    fleet.hold(ask("i-2"), "h2", besides=True)
    assert {h: room.memory_mib for h, room in fleet.rooms().items()} == {"h1": 0, "h2": 0}


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (host("h1", status="down"), "it is down"),
        (host("h1", maintenance="draining"), "it is draining"),
        (host("h1", dedicated="dh-1"), "it is the dedicated host dh-1"),
        (host("h1", memory_mib=512, vcpus=0), "512 MiB short, 1 vCPU short"),
        (
            host("h1", jailed_until="2999-01-01T00:00:00Z", downs=("a", "b", "c")),
            "it was down 3 times lately and takes nothing before 2999-01-01T00:00:00Z",
        ),
        (host("h1", jailed_until="2001-01-01T00:00:00Z", downs=("a",)), ""),
        (host("h1"), ""),
    ],
)
def test_why_a_host_takes_nothing(there: Host, why: str) -> None:
    fleet = Fleet([there])
    assert fleet.explain(ask()) == [("h1", why)]
    assert fleet.choose(ask()).host == ("" if why else "h1")


def test_only_who_asks_for_it_comes_to_a_dedicated_host() -> None:
    fleet = Fleet([host("h1", dedicated="dh-1"), host("h2")])
    assert fleet.choose(ask(dedicated_host="dh-1")).host == "h1"
    assert fleet.choose(ask()).host == "h2"
    assert fleet.explain(ask(dedicated_host="dh-1"))[1] == ("h2", "it is not the dedicated host dh-1")


def test_a_host_that_lacks_what_its_pool_promises_takes_nothing() -> None:
    pool = HostPool(id="default", cpu_features=("avx2", "sse2"), mce_banks=9)
    good = host("h1", cpu_features=("avx2", "sse2"), mce_banks=10)
    fleet = Fleet([good, replace(good, id="h2", cpu_features=("sse2",), mce_banks=6)], pools=[pool])
    assert fleet.explain(ask())[0] == ("h1", "")
    assert fleet.explain(ask())[1] == ("h2", "its CPU lacks avx2, it has 6 machine-check banks, 9 are needed")


def test_what_the_asker_finds_wrong_with_a_host_is_said() -> None:
    fleet = Fleet([host("h1"), host("h2")])
    request = ask(unfit=lambda one: ("its CPU lacks avx2", "too few banks") if one.id == "h1" else ())
    assert fleet.choose(request).host == "h2"
    assert fleet.explain(request)[0] == ("h1", "its CPU lacks avx2, too few banks")


def test_a_set_is_apart_on_hosts_and_spread_over_racks() -> None:
    hosts = [host(f"h{n}", rack=f"r{n % 3}", memory_mib=8192 - n) for n in range(1, 7)]
    fleet = Fleet(hosts, [], [apart()])
    placed = fleet.place_all(ask(f"i-{n}", deployment_set="ds-1") for n in range(7))
    chosen = [placement.host for _, placement in placed]
    assert chosen[:3] == ["h1", "h2", "h3"]
    assert len({fleet.hosts[h].rack for h in chosen[:3]}) == 3
    assert len({fleet.hosts[h].rack for h in chosen[3:6]}) == 3
    assert chosen[6] == ""
    assert "h1 rejected: it has i-0 of the deployment set ds-1" in placed[6][1].rejected
    assert fleet.choose(request_of(instance("i-0", "h1", deployment_set="ds-1"))).host == "h1"


def test_groups_of_a_set_are_apart_and_a_group_is_not() -> None:
    fleet = Fleet(
        [host("h1"), host("h2", memory_mib=2048)],
        [instance("i-1", "h1", deployment_set="ds-1", deployment_set_group=1)],
        [apart(strategy="AvailabilityGroup")],
    )
    assert fleet.choose(ask(deployment_set="ds-1", group=2)).host == "h2"
    assert fleet.explain(ask(deployment_set="ds-1", group=1)) == [("h1", ""), ("h2", "")]
    assert fleet.explain(ask(deployment_set="ds-1", group=2))[0] == (
        "h1",
        "it has i-1 of another group of the deployment set ds-1",
    )


def test_a_set_for_low_latency_stays_together_where_it_fits() -> None:
    hosts = [
        host("h1", rack="r1"),
        host("h2", rack="r2", memory_mib=16384),
        host("h3", rack="r1", memory_mib=2048),
        host("h4", rack="r3", memory_mib=16384),
    ]
    fleet = Fleet(
        hosts, [instance("i-1", "h1", deployment_set="ds-1", memory_mib=2048)], [apart(strategy="LowLatency")]
    )
    assert fleet.choose(ask(deployment_set="ds-1", memory_mib=1024)).host == "h1"
    fleet.hold(ask("i-2", memory_mib=2048), "h1")
    assert fleet.choose(ask(deployment_set="ds-1", memory_mib=1024)).host == "h3"
    assert fleet.choose(ask(deployment_set="ds-1", memory_mib=4096)).host in ("h2", "h4")


def test_room_for_the_failure_of_one_host_is_kept() -> None:
    fleet = Fleet([host("h1"), host("h2"), host("h3")], settings=RESERVED)
    placed = fleet.place_all(ask(f"i-{n}", memory_mib=512) for n in range(24))
    assert sum(bool(placement.host) for _, placement in placed) == 16
    assert "the rest could not take over a host that fails: 512 MiB short" in placed[-1][1].reason
    for failed in fleet.hosts:
        rest = Fleet([h for h in fleet.hosts.values() if h.id != failed], settings=RESERVED)
        for request, placement in placed:
            if placement.host not in ("", failed):
                rest.hold(request, placement.host)
        moved = rest.place_all(replace_use(request) for request, placement in placed if placement.host == failed)
        assert all(placement.host for _, placement in moved)
    assert fleet.choose(ask(memory_mib=512, uses_reserve=True)).host
    # Who has its place already is not asked again.
    mine, there = next((request, placement.host) for request, placement in placed if placement.host)
    assert fleet.choose(Request(mine.instance, 1, 512, prefer=there)).host == there


def replace_use(request: Request) -> Request:
    return Request(request.instance, request.cpu, request.memory_mib, uses_reserve=True)


def test_the_reserve_counts_what_fits_not_what_adds_up() -> None:
    # 3 x 1.5 GiB are free together, but nowhere 3 GiB for the instance of a host that fails.
    fleet = Fleet([host(f"h{n}", memory_mib=4608) for n in range(4)], settings=RESERVED)
    for number in range(4):
        fleet.hold(ask(f"i-{number}", memory_mib=3072 if number == 0 else 2048), f"h{number}")
    fleet.hold(ask("i-x", memory_mib=512), "h3")
    why = dict(fleet.explain(ask(memory_mib=1024)))
    assert why["h0"] == "if h0 failed, i-0 (3072 MiB, 1 vCPUs) would fit nowhere else"


def test_priorities_come_first_and_small_ones_fill_what_is_left() -> None:
    fleet = Fleet([host("h1", memory_mib=3072)])
    placed = fleet.place_all(
        [
            ask("i-low", memory_mib=1024, priority=10),
            ask("i-big", memory_mib=4096, priority=90),
            ask("i-high", memory_mib=2048, priority=80),
            ask("i-also", memory_mib=2048, priority=20),
        ]
    )
    assert [(request.instance, placement.host) for request, placement in placed] == [
        ("i-big", ""),
        ("i-high", "h1"),
        ("i-also", ""),
        ("i-low", "h1"),
    ]


def test_asking_how_many_fit_changes_nothing() -> None:
    fleet = Fleet([host("h1"), host("h2")], [], [apart()])
    before = fleet.rooms()
    assert fleet.fit(ask(deployment_set="ds-1"), 3)[0] == 2
    assert fleet.rooms() == before
    assert not fleet.holds


def test_a_reason_names_some_hosts_and_counts_the_others() -> None:
    fleet = Fleet([host(f"h{n:04}", memory_mib=100 + n) for n in range(50)] + [host("x", status="down")])
    reason = fleet.choose(ask()).reason
    assert reason.startswith("no host fits: h0000 rejected: 924 MiB short; ")
    assert reason.endswith("; and of 35 more: 34 are short of memory, 1 it is down")
