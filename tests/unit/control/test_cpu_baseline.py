"""The pure part of the CPU baseline: who lacks what, in words that name it, and how a pool's baseline changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from yuntai.control import cpu_baseline
from yuntai.model.cluster import Host, HostPool
from yuntai.model.compute import Instance

NOW = "2026-11-23T10:00:00Z"
FEATURES = ("avx", "avx2", "bmi2", "sse4.2")


def host(name: str = "h1", features: tuple[str, ...] = FEATURES, banks: int = 9, **changes: object) -> Host:
    made = Host(
        id=name,
        address="10.0.0.1",
        cpus=2,
        memory_mib=4096,
        accelerator="kvm",
        cpu_model="EPYC",
        cpu_vendor="AMD",
        cpu_features=features,
        mce_banks=banks,
        seen=NOW,
        vcpus_max=16,
        memory_mib_max=3000,
    )
    return replace(made, **changes)


def guest(features: tuple[str, ...] = FEATURES, banks: int = 9) -> Instance:
    return Instance(
        id="i-1", account="1", name="n", hostname="n", zone="z", instance_type="t", cpu=1, memory_mib=256, image="m",
        vpc="v", vswitch="w", port="p", security_groups=(), system_disk="d", created=NOW,
        cpu_features=features, mce_banks=banks,
    )  # fmt: skip


def test_what_is_missing_is_named() -> None:
    lesser = host("h2", ("avx", "sse4.2"), banks=6)
    assert cpu_baseline.missing(host(), FEATURES, 9, vendor="AMD", accelerator="kvm") == ()
    assert cpu_baseline.missing(lesser, FEATURES, 9) == (
        "its CPU lacks avx2, bmi2",
        "it has 6 machine-check banks, 9 are needed",
    )
    assert cpu_baseline.missing(host(), (), vendor="Intel", accelerator="tcg") == (
        "it runs guests by kvm, not by tcg",
        "its CPU is of AMD, not of Intel",
    )


def test_what_is_not_known_is_not_enough() -> None:
    silent = host(features=(), banks=0, cpu_vendor="")
    assert cpu_baseline.missing(silent, ("avx",), 9, vendor="AMD") == (
        "its CPU is of an unknown vendor, not of AMD",
        "it has not reported yet what its CPU can do",
        "it has not reported its machine-check banks, 9 are needed",
    )
    assert cpu_baseline.missing_for_pool(silent, None) == ()
    unknown = cpu_baseline.missing_for_guest(host("h2"), guest(features=(), banks=0), host())
    assert unknown == ("what CPU the guest was started with is not known; stop and start the instance once",)


def test_the_nine_bank_guest_does_not_go_to_the_six_bank_host() -> None:
    nine, six = host("h1"), host("h2", banks=6)
    assert cpu_baseline.missing_for_guest(six, guest(), nine) == ("it has 6 machine-check banks, 9 are needed",)
    assert cpu_baseline.missing_for_guest(nine, guest(banks=6), six) == ()
    elsewhere = cpu_baseline.missing_for_guest(host("h3", pool="big"), guest(), nine)
    assert elsewhere == ("it is in the pool big, the guest in default",)


def test_a_host_that_lost_a_feature_is_not_placed_on() -> None:
    pool = cpu_baseline.first("default", host(), NOW)
    assert cpu_baseline.missing_for_pool(host(), pool) == ()
    assert cpu_baseline.missing_for_pool(host(features=FEATURES[1:]), pool) == ("its CPU lacks avx",)
    assert cpu_baseline.missing_for_pool(host(accelerator="tcg"), pool) == ("it runs guests by tcg, not by kvm",)


def test_lowering_cannot_mix_vendors_or_accelerators() -> None:
    pool = cpu_baseline.first("default", host(), NOW)
    assert cpu_baseline.impossible(pool, host("h2", ("avx",), banks=6)) == ()
    assert cpu_baseline.impossible(pool, host("h2", cpu_vendor="Intel")) == ("its CPU is of Intel, not of AMD",)
    assert cpu_baseline.impossible(pool, host("h2", features=())) == ("what its CPU can do is not known",)


SOME = st.frozensets(st.sampled_from(("a", "b", "c", "d", "e")), min_size=1).map(lambda s: tuple(sorted(s)))


@given(st.lists(st.tuples(SOME, st.integers(1, 12)), min_size=1, max_size=6))
def test_every_host_can_give_the_baseline_of_its_pool(facts: list[tuple[tuple[str, ...], int]]) -> None:
    hosts = [host(f"h{number}", features, banks) for number, (features, banks) in enumerate(facts)]
    pool = cpu_baseline.first("default", hosts[0], NOW)
    for one in hosts[1:]:
        pool = cpu_baseline.lowered(pool, one, NOW)
    assert all(cpu_baseline.missing_for_pool(one, pool) == () for one in hosts)
    assert cpu_baseline.raised(pool, hosts, NOW) == pool, "nothing can be raised while all are there"
    for gone in range(len(hosts)):
        rest = hosts[:gone] + hosts[gone + 1 :]
        after = cpu_baseline.raised(pool, rest, NOW)
        assert set(after.cpu_features) >= set(pool.cpu_features)
        assert after.mce_banks >= pool.mce_banks
        assert all(cpu_baseline.missing_for_pool(one, after) == () for one in rest)


def test_raising_never_takes_anything_away() -> None:
    pool = HostPool(id="default", cpu_features=FEATURES, mce_banks=9, cpu_vendor="AMD", accelerator="kvm")
    assert cpu_baseline.raised(pool, [host(features=("avx",))], NOW) == pool
    assert cpu_baseline.raised(pool, [host(banks=6)], NOW) == pool
    assert cpu_baseline.raised(pool, [host(pool="big")], NOW) == pool
