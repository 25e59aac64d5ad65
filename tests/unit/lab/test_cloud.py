from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest

from yuntai.lab import cloud, fabric
from yuntai.lab.hostfiles import HOOKS, host_files
from yuntai.lab.layout import Home
from yuntai.lab.services import services
from yuntai.lab.spec import CENTRAL, CONTROL, ClusterSpec, HostSpec, SpecError


def keep(root: Path, specs: list[HostSpec]) -> None:
    """Write down the hosts as their start does."""
    for spec in specs:
        folders = Home(root).host(spec.name)
        folders.make()
        folders.spec.write_bytes(msgspec.json.encode(spec))
        Home(root).cluster.write_bytes(msgspec.json.encode(spec.cluster))


def test_three_of_many_hosts_keep_the_state_and_each_has_one_chunk_server(tmp_path: Path) -> None:
    specs = cloud.plan(tmp_path, 5, {"racks": 2, "name": "many"})
    assert [spec.name for spec in specs] == ["h1", "h2", "h3", "h4", "h5"]
    assert [spec.name for spec in specs if CENTRAL in spec.roles] == ["h1", "h2", "h3"]
    assert [spec.name for spec in specs if CONTROL in spec.roles] == ["h1", "h2", "h3"]
    servers = [spec.chunkservers() for spec in specs]
    assert [[(one.id, one.rack) for one in of_host] for of_host in servers] == [
        [(1, "rack-1")], [(2, "rack-2")], [(3, "rack-1")], [(4, "rack-2")], [(5, "rack-1")],
    ]  # fmt: skip


def test_every_host_knows_all_members_and_a_member_asks_itself_first(tmp_path: Path) -> None:
    configs = [spec.config() for spec in cloud.plan(tmp_path, 4, {})]
    assert configs[1].etcd == ["10.78.0.2:2379", "10.78.0.3:2379", "10.78.0.1:2379"]
    assert configs[3].etcd == ["10.78.0.1:2379", "10.78.0.2:2379", "10.78.0.3:2379"]
    assert configs[2].ovn_nb == "tcp:10.78.0.3:6641,tcp:10.78.0.1:6641,tcp:10.78.0.2:6641"
    assert configs[2].ovn_sb == "tcp:10.78.0.3:6642,tcp:10.78.0.1:6642,tcp:10.78.0.2:6642"


def test_one_or_two_hosts_keep_the_state_on_the_first(tmp_path: Path) -> None:
    one, two = cloud.plan(tmp_path, 2, {})
    assert CENTRAL in one.roles
    assert CENTRAL not in two.roles
    assert two.config().etcd == ["10.78.0.1:2379"]
    assert [server.id for server in two.chunkservers()] == [4, 5, 6]


def test_the_first_member_founds_the_databases_and_the_others_join(tmp_path: Path) -> None:
    one, two, _ = cloud.plan(tmp_path, 3, {})
    named = {service.name: service for service in services(two)}
    members = "h1=http://10.78.0.1:2380,h2=http://10.78.0.2:2380,h3=http://10.78.0.3:2380"
    assert members in named["etcd"].command
    assert "join-cluster /var/lib/yuntai/ovn/ovnsb.db.new OVN_Southbound tcp:10.78.0.2:6644" in named["ovn-sb"].prepare
    assert "create-cluster" in next(service for service in services(one) if service.name == "ovn-sb").prepare
    assert "tcp:10.78.0.2:2379|tcp:10.78.0.3:2379|tcp:10.78.0.1:2379" in named["agent"].needs


def test_the_hooks_of_a_member_are_shell_that_keeps_lists_whole(tmp_path: Path) -> None:
    hooks = {
        path: text
        for path, (text, _) in host_files(cloud.plan(tmp_path, 3, {})[1], "uuid").items()
        if path.startswith(HOOKS)
    }
    for path, text in hooks.items():
        done = subprocess.run(["/bin/sh", "-n"], input=text, text=True, capture_output=True, timeout=10, check=False)
        assert done.returncode == 0, f"{path}: {done.stderr}"
    words = shlex.split(hooks[f"{HOOKS}/ovs-vswitchd.prepare"])
    # OVS takes a value with a comma only in quotes of its own.
    assert 'external_ids:ovn-remote="tcp:10.78.0.2:6642,tcp:10.78.0.3:6642,tcp:10.78.0.1:6642"' in words


def test_a_cloud_comes_up_again_as_it_was_and_may_grow(tmp_path: Path) -> None:
    keep(tmp_path, cloud.plan(tmp_path, 3, {"name": "mine", "racks": 2}))
    again = cloud.plan(tmp_path, None, {"racks": None})
    assert (len(again), again[0].cluster.name, again[0].cluster.racks) == (3, "mine", 2)
    grown = cloud.plan(tmp_path, 4, {})
    assert grown[:3] == again, "a new host changes nothing of the others, so none of them restarts"


@pytest.mark.parametrize(
    ("had", "wanted", "says"),
    [
        (1, 4, "keeps its state on 1, but one of 4 hosts keeps it on 3; choose fewer than 3 hosts"),
        (4, 2, "keeps its state on 3, but one of 2 hosts keeps it on 1; choose at least 3 hosts"),
        (5, 4, "has 5 hosts already, and --hosts is 4"),
        (1, 0, "--hosts is 0; choose 1 to 32"),
        (1, 33, "--hosts is 33; choose 1 to 32"),
    ],
)
def test_a_size_that_cannot_be_had_is_refused(tmp_path: Path, had: int, wanted: int, says: str) -> None:
    keep(tmp_path, cloud.plan(tmp_path, had, {}))
    with pytest.raises(SpecError) as caught:
        cloud.plan(tmp_path, wanted, {})
    assert says in str(caught.value)


def test_a_cluster_does_not_take_anothers_namespaces_for_its_own() -> None:
    lab = ClusterSpec(name="lab")
    assert fabric.belongs("yt-lab-h1", lab)
    assert not fabric.belongs("yt-lab-2-h1", lab)
    assert fabric.belongs("yt-lab-2-h1", ClusterSpec(name="lab-2"))
