"""A server joins a running cloud as a real one does: bare engines, one command, one token; its CPU is the lesser one.

One story: each test goes on where the one before it ended.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.functional.cloud import READY_S, Cloud, running_cloud
from yuntai.cli.client import YUNTAI
from yuntai.control import cpu_baseline
from yuntai.lab import lifecycle
from yuntai.lab.enter import command_inside
from yuntai.lab.spec import COMPUTE, ENGINES, STORAGE
from yuntai.model.cluster import Host, HostPool
from yuntai.model.compute import Instance

LACKS = ("avx2", "bmi2")
BANKS = 6
DISKS = ("/var/lib/yuntai/chunks/4", "/var/lib/yuntai/chunks/5", "/var/lib/yuntai/chunks/6")
JOIN = ["--rack", "rack-9", "--trial", *(word for path in DISKS for word in ("--disk", path))]

pytestmark = [pytest.mark.functional, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=1) as made:
        bare = msgspec.structs.replace(
            made.specs[0], name="h2", number=2, roles=(ENGINES, STORAGE, COMPUTE), bare=True, cpu_lacks=LACKS
        )
        lifecycle.start(bare, made.root)
        yield made


def join(cloud: Cloud, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the join command on the server, as its operator would."""
    command = ("env", "PYTHONPATH=/opt/yuntai/src", "/opt/yuntai/venv/bin/python", "-m", "yuntai.cli.join")
    return subprocess.run(
        command_inside(cloud.record("h2"), *command, *words),
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=False,
    )


def token(cloud: Cloud, *words: str) -> str:
    return str(json.loads(cloud.cli("host", "token", *words, "-o", "json"))["Token"])


def shown(cloud: Cloud, name: str) -> dict[str, Any]:
    found = [one for one in cloud.api.every(YUNTAI, "DescribeHosts", "Hosts", "Host") if one["HostId"] == name]
    return found[0] if found else {}


def chassis(cloud: Cloud) -> list[str]:
    """Return the hosts that the virtual network knows."""
    return cloud.inside("h1", "ovn-sbctl", "--bare", "--columns=name", "list", "Chassis").split()


@pytest.fixture(scope="module")
def permit(cloud: Cloud) -> str:
    """Return the token by which the server is let in at last."""
    return token(cloud, "--lower-baseline")


def test_everything_wrong_is_named_at_once_and_nothing_is_changed(cloud: Cloud) -> None:
    cloud.until(lambda: shown(cloud, "h1").get("CpuFeatures"), "h1 has said what its CPU can do")
    wrong = ["--address", "10.99.0.1", "--disk", "/proc", "--disk", "/dev/shm", "--mce-banks", str(BANKS)]
    refused = join(cloud, token(cloud), *wrong)
    assert refused.returncode == 1, refused.stdout + refused.stderr
    for text in (
        "its CPU lacks avx2, bmi2, which guests of the pool default have",
        f"guests find {BANKS} machine-check banks here, those of the pool default have 10",
        "10.99.0.1 is none of this machine's addresses",
        "/proc is not empty",
        "/dev/shm is on tmpfs",
        "which rack it is in is not known",
        "nothing was changed",
    ):
        assert text in refused.stderr, refused.stderr
    assert shown(cloud, "h2") == {}


def test_what_is_no_token_opens_nothing(cloud: Cloud) -> None:
    assert "no host token" in join(cloud, "ytj1.AAAA", *JOIN).stderr
    assert "no host token" in join(cloud, "hello", *JOIN).stderr


def test_a_server_with_the_lesser_cpu_joins_when_it_is_allowed_to(cloud: Cloud, permit: str) -> None:
    ready = join(cloud, permit, *JOIN, "--check")
    assert ready.returncode == 0, ready.stderr
    assert shown(cloud, "h2") == {}, "a check joins nothing"
    joined = join(cloud, permit, *JOIN, "--mce-banks", str(BANKS))
    assert joined.returncode == 0, joined.stdout + joined.stderr
    assert "h2 is a host of" in joined.stdout
    host = shown(cloud, "h2")
    assert (host["Status"], host["Rack"], host["Pool"], host["MceBanks"]) == ("up", "rack-9", "default", BANKS)
    assert not set(LACKS) & set(host["CpuFeatures"])
    assert set(LACKS) <= set(shown(cloud, "h1")["CpuFeatures"])
    assert host["Unfit"] == []
    (pool,) = json.loads(cloud.cli("host", "pools", "-o", "json"))
    assert (pool["Hosts"], pool["MceBanks"]) == (["h1", "h2"], BANKS)
    assert not set(LACKS) & set(pool["CpuFeatures"])
    cloud.until(lambda: cloud.well("h2"), "its services answer")
    assert [one["ChunkServerId"] for one in host["ChunkServers"]] == ["cs-4", "cs-5", "cs-6"]


def test_the_same_server_may_ask_again_and_no_other(cloud: Cloud, permit: str) -> None:
    again = join(cloud, permit, *JOIN, "--mce-banks", str(BANKS))
    assert again.returncode == 0, again.stderr
    other = join(cloud, permit, *JOIN, "--mce-banks", str(BANKS), "--name", "h9")
    assert other.returncode == 1
    assert "stand in the way" in other.stderr or "used already" in other.stderr, other.stderr


async def test_a_guest_gets_the_baseline_and_its_record_says_what_it_has(cloud: Cloud) -> None:
    instance_id = cloud.run_instance("weak")
    async with cloud.store() as store:
        instance = (await store.need(Instance, instance_id)).value
        hosts = {one.value.id: one.value for one in await store.list(Host)}
        pool = (await store.need(HostPool, "default")).value
    assert instance.cpu_features == pool.cpu_features
    text = cloud.inside(instance.host, "virsh", "dumpxml", instance_id)
    assert "<feature policy='disable' name='avx2'/>" in text
    assert "check='full'" in text or "check='partial'" in text
    on_h1 = msgspec.structs.replace(instance, host="h1", cpu_features=(*instance.cpu_features, "avx2"), mce_banks=10)
    assert cpu_baseline.missing_for_guest(hosts["h2"], on_h1, hosts["h1"]) == (
        "its CPU lacks avx2",
        f"it has {BANKS} machine-check banks, 10 are needed",
    )
    cloud.cli("instance", "delete", instance_id, "--force", "--wait")


def test_a_drained_host_leaves_for_good_and_the_baseline_rises(cloud: Cloud) -> None:
    cloud.cli("host", "drain", "h2", "--storage", "--wait", "--timeout", str(READY_S), timeout_s=READY_S + 60)
    assert "h2" in chassis(cloud)
    cloud.cli("host", "remove", "h2", "--yes")
    lifecycle.stop(cloud.root, "h2", 0)
    assert shown(cloud, "h2") == {}
    (pool,) = json.loads(cloud.cli("host", "pools", "-o", "json"))
    assert set(LACKS) <= set(pool["CpuFeatures"])
    assert pool["MceBanks"] == 10
    cloud.until(lambda: "h2" not in chassis(cloud), "its chassis is gone")
