"""The command line against the real front: what it prints, what it waits for, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from yuntai.cli import client as client_module
from yuntai.cli.__main__ import app

Run = Callable[..., Result]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("YUNTAI_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return invoke


def good(result: Result) -> str:
    assert result.exception is None, (result.output, repr(result.exception))
    assert result.exit_code == 0, result.output
    return result.stdout


def read(result: Result) -> Any:
    return json.loads(good(result))


def program(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yuntai.cli", *arguments],
        env={**os.environ, "YUNTAI_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_instance_from_birth_to_death(run: Run) -> None:
    made = read(run("instance", "create", "--image", "debian-13", "--name", "cli-vm", "--wait", "-o", "json"))
    text = json.dumps(made)
    listed = read(run("instance", "list", "-o", "json"))
    instance = listed[0]["InstanceId"]
    assert instance in text
    assert listed[0]["Status"] == "Running"
    table = good(run("instance", "list"))
    assert "cli-vm" in table
    assert "Running" in table
    shown = read(run("instance", "show", instance, "-o", "json"))
    assert shown["State"]["Host"] == "h1"
    assert "login:" in good(run("instance", "console", instance))
    good(run("instance", "reboot", instance, "--wait"))
    good(run("instance", "stop", instance, "--force", "--wait"))
    good(run("instance", "start", instance, "--wait"))
    good(run("instance", "delete", instance, "--force", "--wait"))
    assert read(run("instance", "list", "-o", "json")) == []


def test_disks_and_snapshots(run: Run) -> None:
    good(run("instance", "create", "--image", "debian-13", "--name", "disks", "--wait"))
    instance = read(run("instance", "list", "-o", "json"))[0]["InstanceId"]
    disk = read(run("disk", "create", "--size", "1", "--name", "extra", "--wait", "-o", "json"))["DiskId"]
    good(run("disk", "attach", disk, instance, "--wait"))
    assert read(run("disk", "show", disk, "-o", "json"))["InstanceId"] == instance
    good(run("disk", "resize", disk, "2"))
    snapshot = read(run("snapshot", "create", disk, "--name", "one", "--wait", "-o", "json"))["SnapshotId"]
    assert snapshot in good(run("snapshot", "list", "--disk", disk))
    assert read(run("snapshot", "show", snapshot, "-o", "json"))["SourceDiskId"] == disk
    good(run("disk", "detach", disk, instance, "--wait"))
    good(run("snapshot", "delete", snapshot))
    good(run("disk", "delete", disk, "--wait"))
    good(run("instance", "delete", instance, "--force", "--wait"))


def test_networks_groups_and_keys(run: Run) -> None:
    vpc = read(run("vpc", "create", "--cidr", "10.40.0.0/16", "--name", "net", "-o", "json"))["VpcId"]
    vswitch = read(run("vswitch", "create", vpc, "10.40.1.0/24", "-o", "json"))["VSwitchId"]
    assert vswitch in good(run("vswitch", "list", "--vpc", vpc))
    assert "10.40.1.0/24" in good(run("vswitch", "show", vswitch))
    group = read(run("security-group", "create", vpc, "--name", "web", "-o", "json"))["SecurityGroupId"]
    good(run("security-group", "allow", group, "--protocol", "tcp", "--ports", "80/80"))
    assert "80/80" in good(run("security-group", "show", group))
    good(run("security-group", "revoke", group, "--protocol", "tcp", "--ports", "80/80"))
    assert "80/80" not in good(run("security-group", "show", group))
    assert "PRIVATE KEY" in good(run("keypair", "create", "cli-key"))
    assert "cli-key" in good(run("keypair", "list"))
    good(run("keypair", "delete", "cli-key"))
    good(run("security-group", "delete", group))
    good(run("vswitch", "delete", vswitch))
    good(run("vpc", "delete", vpc))


def test_what_the_operator_sees(run: Run) -> None:
    assert "rack-1" in good(run("host", "list"))
    servers = read(run("chunkserver", "list", "-o", "json"))
    assert [server["id"] for server in servers] == ["cs-1", "cs-2", "cs-3"]
    volume = read(run("volume", "create", "1", "-o", "json"))["VolumeId"]
    assert "nbd" in good(run("volume", "connect", volume))
    good(run("volume", "disconnect", volume))
    good(run("volume", "resize", volume, "2"))
    assert read(run("volume", "show", volume, "-o", "json"))["SizeBytes"] == 2 << 30
    good(run("volume", "delete", volume))
    assert isinstance(read(run("job", "list", "-o", "json")), list)
    good(run("image", "list"))
    assert read(run("image", "show", "debian-13", "-o", "json"))["ImageId"] == "m-debian13"


def test_help_everywhere(run: Run) -> None:
    for arguments in ([], ["instance"], ["disk"], ["volume"], ["image"], ["security-group"]):
        assert "Usage" in run(*arguments, "--help").output


def test_a_refusal_names_the_request_and_ends_with_1(home: Path) -> None:
    ended = program(home, "snapshot", "delete", "s-0000000000000000")
    assert ended.returncode == 1
    assert "InvalidSnapshotId.NotFound" in ended.stderr
    assert "request id" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_not_there_is_said_with_a_way_out(home: Path) -> None:
    ended = program(home, "instance", "start", "i-0000000000000000")
    assert ended.returncode == 1
    assert "yuntai instance list" in ended.stderr


def test_wrong_usage_ends_with_2(home: Path) -> None:
    assert program(home, "instance", "start").returncode == 2
    assert program(home, "instance", "dance").returncode == 2


def test_an_api_that_does_not_answer_ends_with_3(tmp_path: Path) -> None:
    credentials = {"endpoint": "http://127.0.0.1:9", "access_key_id": "a", "access_key_secret": "b"}
    (tmp_path / "credentials.json").write_text(json.dumps(credentials))
    ended = program(tmp_path, "instance", "list")
    assert ended.returncode == 3
    assert "yuntai status" in ended.stderr


def test_no_credentials_say_where_they_should_be(tmp_path: Path) -> None:
    ended = program(tmp_path, "instance", "list")
    assert ended.returncode == 1
    assert "credentials.json" in ended.stderr


def test_parameters_become_flat() -> None:
    flat = client_module.flatten({"A": [1, 2], "B": {"C": True}, "D": [{"E": "x"}], "F": None, "G": ""})
    assert flat == {"A.1": "1", "A.2": "2", "B.C": "true", "D.1.E": "x"}
