"""What a preflight makes of what it found: everything at once, each with a way out. And what tokens look like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from yuntai.compute.cpu import CpuFacts
from yuntai.join.findings import Disk, Findings, Path, judge
from yuntai.model.joinwire import Hello, Peer, PoolNeeds, Token, TokenError, read_token, write_token

VERSIONS = {"yuntai": "0.1.0", "qemu": "10.0.13", "libvirt": "11.3.0", "openvswitch": "3.5.0"}
HELLO = Hello(
    cluster="c",
    now_unix_s=0.0,
    pool=PoolNeeds(id="default", accelerator="kvm", cpu_vendor="AMD", cpu_features=("avx", "avx2"), mce_banks=9),
    lower_baseline=False,
    rack="",
    peers=(Peer(id="h1", address="10.0.0.1"),),
    versions={"yuntai": "0.1.4", "qemu": "10.0.13", "libvirt": "11.3.0", "kernel": "6.12"},
    gateway_port=7200,
    agent_port=7400,
    tls=False,
)
GOOD = Findings(
    root=True,
    machine="x86_64",
    name="h2",
    address="10.0.0.2",
    local_addresses=frozenset({"10.0.0.2", "127.0.0.1"}),
    cpu_flags=frozenset({"svm"}),
    kvm_device=True,
    kvm_runs=True,
    cpu=CpuFacts(model="EPYC", vendor="AMD", features=("avx", "avx2", "clwb"), mce_banks=10),
    cpu_problem="",
    skew_s=0.2,
    uncertain_s=0.01,
    memory_mib=65536,
    paths=(Path(peer="h1", address="10.0.0.1", mtu=9000, whole=True, small=True),),
    disks=(Disk(path="/a", free_bytes=1 << 40, device=1, kind="ext4"),),
    versions=VERSIONS,
)


def problems(found: Findings = GOOD, hello: Hello = HELLO, rack: str = "rack-1") -> list[str]:
    return [problem.text for problem in judge(found, hello, rack=rack)]


def test_a_good_server_has_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"root": False}, "needs root"),
        ({"machine": "aarch64"}, "aarch64"),
        ({"memory_mib": 512}, "512 MiB of memory"),
        ({"other_cluster": "old"}, "belongs to the cluster old"),
        ({"address": "10.0.0.1", "local_addresses": frozenset({"10.0.0.1"})}, "the address of the host h1"),
        ({"cpu_flags": frozenset()}, "neither vmx nor svm"),
        ({"kvm_device": False}, "no /dev/kvm"),
        ({"kvm_runs": False}, "a probe guest does not run"),
        ({"cpu": None, "cpu_problem": "no socket"}, "not known: no socket"),
        ({"skew_s": -3.0}, "3.0 s behind"),
        ({"skew_s": 3.0}, "3.0 s ahead"),
        ({"local_addresses": frozenset()}, "none of this machine's addresses"),
        ({"ports_taken": ((7200, "Address already in use"),)}, "port 7200 of 10.0.0.2"),
        ({"versions": {**VERSIONS, "qemu": "9.2.0"}}, "qemu is 9.2.0 here"),
        ({"versions": {**VERSIONS, "yuntai": "0.2.0"}}, "yuntai is 0.2.0 here, the cluster has 0.1.4"),
        ({"versions": {**VERSIONS, "openvswitch": ""}}, "openvswitch is not here"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], text: str) -> None:
    (one,) = problems(replace(GOOD, **changes))
    assert text in one


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vendor": "Intel"}, "of Intel, those of the pool default of AMD"),
        ({"features": ("avx",)}, "lacks avx2"),
        ({"mce_banks": 6}, "6 machine-check banks here, those of the pool default have 9"),
    ],
)
def test_an_unequal_cpu_is_named_and_may_be_allowed(changes: dict[str, Any], text: str) -> None:
    assert GOOD.cpu is not None
    lesser = replace(GOOD, cpu=replace(GOOD.cpu, **changes))
    (one,) = problems(lesser)
    assert text in one
    allowed = problems(lesser, msgspec.structs.replace(HELLO, lower_baseline=True))
    assert allowed == ([one] if "vendor" in changes else []), "vendors never mix"
    assert problems(lesser, msgspec.structs.replace(HELLO, pool=PoolNeeds(id="new", known=False))) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"small": False, "whole": False}, "does not answer a ping"),
        ({"whole": False}, "packets of 9000 bytes"),
        ({"mtu": 1400}, "the MTU towards the host h1 (10.0.0.1) is 1400"),
    ],
)
def test_paths(changes: dict[str, Any], text: str) -> None:
    (one,) = problems(replace(GOOD, paths=(replace(GOOD.paths[0], **changes),)))
    assert text in one


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"problem": "Permission denied"}, "/a: Permission denied"),
        ({"kind": "tmpfs"}, "is on tmpfs"),
        ({"foreign": "photos"}, "it has photos"),
        ({"free_bytes": 1 << 30}, "1.0 GiB free"),
    ],
)
def test_disks(changes: dict[str, Any], text: str) -> None:
    (one,) = problems(replace(GOOD, disks=(replace(GOOD.disks[0], **changes),)))
    assert text in one


def test_two_folders_on_one_disk() -> None:
    two = replace(GOOD, disks=(GOOD.disks[0], replace(GOOD.disks[0], path="/b")))
    (one,) = problems(two)
    assert "/b and /a are on one file system" in one
    assert judge(two, HELLO, rack="r", trial=True) == []


def test_everything_at_once() -> None:
    bad = replace(GOOD, root=False, skew_s=9.0, cpu_flags=frozenset(), local_addresses=frozenset())
    assert len(problems(bad, rack="")) == 5


def test_a_cluster_with_certificates() -> None:
    tls = msgspec.structs.replace(HELLO, tls=True)
    assert "none is given" in problems(hello=tls)[0]
    assert problems(replace(GOOD, versions={**VERSIONS, "certificate": "given"}), tls) == []


def test_tokens_are_one_word_and_read_back() -> None:
    token = Token(endpoints=("10.0.0.1:8443",), fingerprint=b"f" * 32, id="ht-1", secret=b"\x00\xff" * 16)
    text = write_token(token)
    assert text.split() == [text]
    assert read_token(f"  {text}\n") == token
    for wrong in ("", "hello", "ytj1.", "ytj1.ä", text[:-9], text.removeprefix("ytj1."), "ytj1.kQ"):
        with pytest.raises(TokenError, match="no host token"):
            read_token(wrong)
