from __future__ import annotations

import configparser
import json
import shlex
import subprocess

import msgspec
import pytest

from yuntai.config import Config
from yuntai.lab.hostfiles import HOOKS, files_digest, host_files, supervisor_config
from yuntai.lab.services import services
from yuntai.lab.spec import CENTRAL, COMPUTE, ENGINES, STORAGE, ClusterSpec, HostSpec, SpecError, check

ALONE = HostSpec(cluster=ClusterSpec())
SECOND = HostSpec(cluster=ClusterSpec(name="two"), name="h2", number=2, roles=(ENGINES, STORAGE, COMPUTE))
UUID = "6f1c1f6e-5f0e-4b87-9d0c-2f1d6d6f0e11"


def supervisor(spec: HostSpec) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(inline_comment_prefixes=None)
    parser.read_string(supervisor_config(services(spec)))
    return parser


def test_a_single_host_runs_every_process_of_the_product_in_order() -> None:
    assert [service.name for service in services(ALONE)] == [
        *("etcd", "ovn-nb", "ovn-sb", "ovn-northd", "ovsdb", "ovs-vswitchd", "ovn-controller", "libvirtd"),
        *("chunkserver-1", "chunkserver-2", "chunkserver-3", "gateway"),
        *("master", "control", "api", "agent", "guard", "metadata"),
    ]


def test_a_further_host_runs_no_second_etcd_and_points_at_the_first() -> None:
    names = [service.name for service in services(SECOND)]
    assert "etcd" not in names
    assert "chunkserver-4" in names
    config = SECOND.config()
    assert config.address == "10.78.0.2"
    assert config.etcd == ["10.78.0.1:2379"]
    assert config.ovn_nb == "tcp:10.78.0.1:6641"
    assert [server.rack for server in config.chunkservers] == ["rack-1", "rack-2", "rack-3"]


def test_the_supervisor_starts_in_order_and_never_gives_up() -> None:
    parser = supervisor(ALONE)
    programs = [section for section in parser.sections() if section.startswith("program:")]
    assert [int(parser[section]["priority"]) for section in programs] == list(range(1, len(programs) + 1))
    for section in programs:
        assert parser[section]["autorestart"] == "true"
        assert parser[section]["startsecs"] == "0"
        assert int(parser[section]["stdout_logfile_maxbytes"]) > 0
        assert int(parser[section]["stdout_logfile_backups"]) > 0
    assert parser["unix_http_server"]["chmod"] == "0600"


def test_every_command_waits_for_what_it_needs_and_then_becomes_the_program() -> None:
    command = shlex.split(supervisor(ALONE)["program:ovn-controller"]["command"])
    assert command[command.index("--need") + 1] == "unix:/run/openvswitch/db.sock"
    assert command[command.index("--prepare") + 1] == f"{HOOKS}/ovn-controller.prepare"
    assert command[command.index("--") + 1] == "ovn-controller"


def test_the_configuration_file_is_what_the_processes_read() -> None:
    text, mode = host_files(ALONE, UUID)["/etc/yuntai/yuntai.json"]
    assert mode == 0o644
    assert msgspec.json.decode(text, type=Config) == ALONE.config()
    assert json.loads(text)["chunkservers"][2] == {
        "id": 3,
        "rack": "rack-3",
        "port": 7103,
        "path": "/var/lib/yuntai/chunks/3",
    }


def test_hooks_are_shell_that_parses() -> None:
    hooks = {path: text for path, (text, _) in host_files(ALONE, UUID).items() if path.startswith(HOOKS)}
    assert f"{HOOKS}/ovs-vswitchd.after" in hooks
    for path, text in hooks.items():
        done = subprocess.run(["/bin/sh", "-n"], input=text, text=True, capture_output=True, timeout=10, check=False)
        assert done.returncode == 0, f"{path}: {done.stderr}"


def test_qemu_and_libvirt_are_told_about_the_host() -> None:
    files = host_files(SECOND, UUID)
    assert f'host_uuid = "{UUID}"' in files["/etc/libvirt/libvirtd.conf"][0]
    assert 'listen_addr = "10.78.0.2"' in files["/etc/libvirt/libvirtd.conf"][0]
    for line in ('security_driver = "none"', "namespaces = []", 'stdio_handler = "file"', 'user = "root"'):
        assert line in files["/etc/libvirt/qemu.conf"][0].splitlines()


def test_the_digest_of_a_hosts_files_follows_its_spec() -> None:
    assert files_digest(ALONE, UUID) == files_digest(HostSpec(cluster=ClusterSpec()), UUID)
    assert files_digest(ALONE, UUID) != files_digest(SECOND, UUID)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (HostSpec(cluster=ClusterSpec(name="Lab")), "cluster name is 'Lab'"),
        (HostSpec(cluster=ClusterSpec(), name="h_1"), "host name is 'h_1'"),
        (HostSpec(cluster=ClusterSpec(), number=255), "host number is 255, but `management` 10.78.0.0/24 has 1 to 253"),
        (HostSpec(cluster=ClusterSpec(external="100.64.0.1/24")), "cluster `external` is '100.64.0.1/24'"),
        (HostSpec(cluster=ClusterSpec(api_port=70000)), "`api_port` is 70000; choose a port"),
        (HostSpec(cluster=ClusterSpec(), roles=(CENTRAL, "bar")), "roles has bar; choose from central"),
    ],
)
def test_a_spec_that_cannot_be_made_says_why(spec: HostSpec, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        check(spec)
    assert says in str(caught.value)
