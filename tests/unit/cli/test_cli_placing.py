"""The operator's commands on placement, against the real front."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.unit.api.fake_cloud import ACCOUNT
from yuntai.cli.__main__ import app

Run = Callable[..., Result]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("YUNTAI_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def good(result: Result) -> str:
    assert result.exception is None, (result.output, repr(result.exception))
    return result.stdout


def read(result: Result) -> Any:
    return json.loads(good(result))


def test_an_instance_is_explained(run: Run) -> None:
    made = read(run("instance", "create", "--image", "debian-13", "--wait", "-o", "json"))["InstanceIds"][0]
    text = good(run("instance", "explain", made))
    assert "h1 *" in text
    assert "it fits" in text
    answer = read(run("instance", "explain", made, "-o", "json"))
    assert (answer["Host"], answer["Hosts"][0]["Possible"]) == ("h1", True)


def test_the_table_of_types_is_edited(run: Run) -> None:
    good(run("instance-type", "create", "ecs.cli.tall", "--cpu", "2", "--memory", "512", "--nics", "2"))
    rows = {row["InstanceTypeId"]: row for row in read(run("instance-type", "list", "-o", "json"))}
    assert (rows["ecs.cli.tall"]["Cpu"], rows["ecs.cli.tall"]["EniQuantity"]) == (2, 2)
    assert "ecs.yt1.nano" in rows
    made = read(run("instance", "create", "--image", "debian-13", "--type", "ecs.cli.tall", "--wait", "-o", "json"))
    assert made["InstanceIds"]
    good(run("instance-type", "delete", "ecs.cli.tall"))
    assert "ecs.cli.tall" not in good(run("instance-type", "list"))
    assert run("instance-type", "delete", "ecs.cli.tall").exit_code == 1


def test_quotas_are_shown_and_set(run: Run) -> None:
    good(run("quota", "set", ACCOUNT, "vpcs", "3"))
    shown = {q["Name"]: q for q in read(run("quota", "list", ACCOUNT, "-o", "json"))}
    assert (shown["vpcs"]["Limit"], shown["vpcs"]["Own"]) == (3, True)
    good(run("quota", "set", ACCOUNT, "vpcs", "default"))
    assert "vpcs" in good(run("quota", "list"))
    assert run("quota", "set", ACCOUNT, "cats", "1").exit_code == 1
    assert run("quota", "set", ACCOUNT, "vpcs", "many").exit_code == 1


def test_the_reserve_is_set(run: Run) -> None:
    good(run("scheduler", "set", "--reserve-for-one-host"))
    assert read(run("scheduler", "show", "-o", "json"))["ReserveForOneHost"] is True
    refused = run("instance", "create", "--image", "debian-13")
    assert refused.exit_code == 1
    assert "could not take over a host that fails" in str(refused.exception)
    good(run("scheduler", "set", "--no-reserve"))
    assert read(run("scheduler", "show", "-o", "json"))["ReserveForOneHost"] is False


def test_how_long_hosts_are_awaited_is_set(run: Run) -> None:
    assert read(run("scheduler", "show", "-o", "json"))["AwaitHostsS"] == 300
    good(run("scheduler", "set", "--reserve-for-one-host"))
    assert good(run("scheduler", "set", "--await-hosts", "900")) == "hosts are awaited for 900 s after all were off\n"
    shown = read(run("scheduler", "show", "-o", "json"))
    assert (shown["AwaitHostsS"], shown["ReserveForOneHost"]) == (900, True)
    assert "choose 0 (never wait) to 86400" in str(run("scheduler", "set", "--await-hosts", "-1").exception)
    assert "MissingParameter" in str(run("scheduler", "set").exception)
    good(run("scheduler", "set", "--no-reserve", "--await-hosts", "300"))


def test_sets_and_dedicated_hosts(run: Run) -> None:
    made = good(run("deployment-set", "create", "--name", "apart", "--keep-stopped")).strip()
    instance = read(run("instance", "create", "--image", "debian-13", "--deployment-set", made, "-o", "json"))
    assert instance["InstanceIds"]
    assert made in good(run("deployment-set", "list"))
    assert run("deployment-set", "delete", made).exit_code == 1
    one = good(run("dedicated-host", "allocate")).strip()
    assert one in good(run("dedicated-host", "list"))
    assert "another machine is being looked for" in good(run("dedicated-host", "redeploy", one))
    good(run("dedicated-host", "release", one))
    assert one not in good(run("dedicated-host", "list"))


def test_a_card_is_plugged_and_limits_are_set(run: Run) -> None:
    instance = read(run("instance", "create", "--image", "debian-13", "--wait", "-o", "json"))["InstanceIds"][0]
    vswitch = read(run("vswitch", "list", "-o", "json"))[0]["VSwitchId"]
    card = good(run("nic", "create", "--vswitch", vswitch, "--name", "second")).strip()
    assert "InUse" in good(run("nic", "attach", card, instance, "--wait"))
    assert card in good(run("nic", "list", "--instance", instance))
    good(run("nic", "detach", card, "--wait"))
    good(run("nic", "delete", card))
    assert run("nic", "detach", card).exit_code == 1
    disk = read(run("disk", "list", "-o", "json"))[0]["DiskId"]
    good(run("disk", "limit", disk, "--iops", "100", "--mib-per-s", "10"))
    assert read(run("disk", "show", disk, "-o", "json"))["IOPS"] == 100
    assert run("disk", "limit", disk).exit_code == 1
    assert "20 %" in good(run("instance", "limit", instance, "--vcpu-percent", "20"))
    assert "no limit" in good(run("instance", "limit", instance, "--vcpu-percent", "0"))


def test_another_size_needs_a_restart(run: Run) -> None:
    instance = read(run("instance", "create", "--image", "debian-13", "--wait", "-o", "json"))["InstanceIds"][0]
    assert run("instance", "resize", instance, "--type", "ecs.yt1.micro").exit_code == 1
    good(run("instance", "resize", instance, "--type", "ecs.yt1.micro", "--restart"))
    shown = read(run("instance", "show", instance, "-o", "json"))
    assert (shown["InstanceType"], shown["Status"]) == ("ecs.yt1.micro", "Running")
