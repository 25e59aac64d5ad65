"""What is read from the machine: control groups, processes, the system's name."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from yuntai.lab import cgroups
from yuntai.lab.layout import Home
from yuntai.lab.processes import ProcessId, identify
from yuntai.lab.record import read_record
from yuntai.lab.setup import packages, preflight

V1 = """\
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n"


def test_old_hierarchies_are_used_where_there_are_any() -> None:
    assert cgroups.detect(V1) == [
        cgroups.Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), ("cpu", "cpuacct"), 1),
        cgroups.Hierarchy(Path("/sys/fs/cgroup/memory"), ("memory",), 1),
    ]


def test_the_unified_hierarchy_is_used_alone() -> None:
    assert cgroups.detect(V2) == [cgroups.Hierarchy(Path("/sys/fs/cgroup"), cgroups.V2_CONTROLLERS, 2)]
    assert cgroups.detect("proc /proc proc rw 0 0\n") == []


def test_controllers_are_handed_on_once(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpuset cpu io memory\n")
    cgroups.enable_controllers(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"


def test_a_process_is_known_by_more_than_its_number() -> None:
    child = subprocess.Popen(["sleep", "60"])
    known = identify(child.pid)
    assert known is not None
    assert known.alive()
    other = ProcessId(known.pid, known.started_ticks + 1)
    assert not other.alive()
    other.signal(signal.SIGKILL)
    assert not known.wait(0.1)
    known.signal(signal.SIGKILL)
    assert known.wait(5), "a zombie does not count as alive"
    assert child.wait(5) == -signal.SIGKILL
    known.signal(signal.SIGKILL)
    assert identify(child.pid) is None


def test_a_torn_record_is_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folders = home.host("h1")
    folders.make()
    assert read_record(home, "h1") is None
    folders.record.write_text('{"init":')
    assert read_record(home, "h1") is None
    folders.record.write_text('{"init":[1,2],"keeper":[3,4],"image":"x"}')
    assert read_record(home, "h1") is None


def test_the_systems_name_is_read() -> None:
    assert preflight.os_release("# x\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='Debian 12'\n") == {
        "ID": "debian",
        "VERSION_ID": "12",
        "PRETTY_NAME": "Debian 12",
    }


def test_preflight_says_all_that_is_wrong_at_once_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "COLD_BYTES", 1 << 60)
    monkeypatch.setattr(preflight, "MEMORY_BYTES", 1 << 60)
    home = Home(tmp_path / "not" / "there")
    situation = preflight.Situation(home=home, api_port=0, cold=True, needs_network=False, running=False)
    if os.geteuid() != 0:
        assert [problem.way_out for problem in preflight.check(situation)] == ["run: sudo make up"]
        return
    texts = [problem.text for problem in preflight.check(situation)]
    assert any("GiB free, but" in text for text in texts)
    assert any("GiB of memory are available, but" in text for text in texts)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_mount_would_misread_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "a:b")
    situation = preflight.Situation(home=home, api_port=0, cold=True, needs_network=False, running=False)
    if os.geteuid() == 0 and preflight.codename():
        assert ["':' in it" in problem.text for problem in preflight.check(situation)] == [True]


def test_packages_that_are_not_there_are_found() -> None:
    assert packages.missing(("dpkg", "no-such-package-of-debian")) == ["no-such-package-of-debian"]
