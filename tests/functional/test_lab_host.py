"""A real host with real engines: it starts, repairs itself, is entered, and leaves nothing, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.lab_site import Site, engines_only, require_lab
from tests.ports import free_port
from yuntai.lab.enter import run_inside
from yuntai.lab.keeper import KeeperError
from yuntai.lab.layout import REPOSITORY
from yuntai.lab.processes import identify
from yuntai.lab.record import running
from yuntai.lab.status import ProcessStatus, report, wait_healthy
from yuntai.lab.supervisor import Supervisor

pytestmark = pytest.mark.functional
HEALTHY_S = 60
ENGINES = ["etcd", "ovn-nb", "ovn-sb", "ovn-northd", "ovsdb", "ovs-vswitchd", "ovn-controller", "libvirtd"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("lab"), engines_only(require_lab(), f"t{os.getpid()}"))
    try:
        yield site
    finally:
        site.stop()


@pytest.fixture
def host(site: Site) -> Site:
    """Return the site with its host healthy."""
    site.start()
    status = wait_healthy(site.root, "h1", HEALTHY_S)
    assert status is not None
    assert status.healthy, status
    return site


def process(site: Site, name: str) -> ProcessStatus:
    status = report(site.root, "h1")
    assert status is not None
    return next(process for process in status.processes if process.name == name)


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


def test_every_engine_answers_and_is_described(host: Site) -> None:
    status = report(host.root, "h1")
    assert status is not None
    assert [process.name for process in status.processes] == ENGINES
    for one in status.processes:
        assert one.pid > 1
        assert one.rss_bytes > 1_000_000
        assert one.version[0].isdigit(), one
    record = host.record()
    assert "is healthy" in run_inside(
        record, "sh", "-c", "ETCDCTL_API=3 etcdctl --endpoints=10.79.0.1:2379 endpoint health 2>&1"
    )
    assert "h1" in run_inside(record, "ovn-sbctl", "--timeout=10", "--bare", "--columns=name", "list", "chassis")
    assert run_inside(record, "ovn-nbctl", "--timeout=10", "--db=tcp:10.79.0.1:6641", "show") == ""
    assert run_inside(record, "ovs-vsctl", "--timeout=10", "list-br").split() == ["br-ext", "br-int", "br-phy"]
    assert "QEMU 10" in run_inside(record, "virsh", "version")


def test_addresses_and_mappings_are_the_contracts(host: Site) -> None:
    record = host.record()
    addresses = run_inside(record, "ip", "-brief", "-4", "address")
    for device, address in (("eth0", "10.79.0.1/24"), ("br-phy", "172.17.0.1/24"), ("br-ext", "100.65.0.1/24")):
        assert any(line.startswith(device) and address in line for line in addresses.splitlines()), addresses
    mapping = run_inside(record, "ovs-vsctl", "get", "open_vswitch", ".", "external_ids:ovn-bridge-mappings")
    assert mapping.strip().strip('"') == "ext:br-ext"


def test_the_host_sees_its_own_folders_and_no_others(host: Site) -> None:
    record = host.record()
    assert run_inside(record, "stat", "-c", "%a %n", "/etc/yuntai/secrets", "/etc/yuntai/secrets/token").split() == [
        *("700", "/etc/yuntai/secrets", "600", "/etc/yuntai/secrets/token"),
    ]
    assert run_inside(record, "sh", "-c", "ls -A /.old 2>/dev/null; cat /proc/1/comm").split() == ["tini"]
    assert (
        run_inside(record, "sh", "-c", "touch /opt/yuntai/src/x 2>&1 || true").strip().endswith("Read-only file system")
    )
    images = host.home.shared
    if images.is_relative_to(REPOSITORY):
        inside = f"/opt/yuntai/src/{images.relative_to(REPOSITORY)}"
        assert run_inside(record, "ls", "-A", inside) == ""
    run_inside(record, "sh", "-c", "echo kept > /var/lib/yuntai/kept")
    assert (host.home.host("h1").data / "kept").read_text() == "kept\n"


def test_our_python_runs_inside(host: Site) -> None:
    code = "import libvirt, msgspec, aiohttp, structlog; from yuntai import config; print(config.load().host)"
    assert run_inside(host.record(), "/opt/yuntai/venv/bin/python", "-c", code) == "h1\n"


@pytest.mark.parametrize("name", ["etcd", "ovsdb", "ovs-vswitchd", "libvirtd", "ovn-nb"])
def test_a_killed_engine_comes_back(host: Site, name: str) -> None:
    record, before = host.record(), process(host, name)
    os.kill(before.pid, signal.SIGKILL)

    def back() -> bool:
        now = process(host, name)
        return now.pid not in (0, before.pid) and now.state == "running"

    until(back, f"{name} is back")
    status = wait_healthy(host.root, "h1", HEALTHY_S)
    assert status is not None
    assert status.healthy, status
    assert process(host, name).restarts == before.restarts + 1
    if name in ("ovsdb", "ovs-vswitchd"):
        until(lambda: "172.17.0.1/24" in run_inside(record, "ip", "address", "show", "br-phy"), "br-phy's address")


def test_a_stopped_program_is_reported_and_can_be_started(host: Site) -> None:
    supervisor = Supervisor(host.home.host("h1").supervisor_socket)
    supervisor.stop_if_present("ovn-northd")
    stopped = process(host, "ovn-northd")
    assert (stopped.state, stopped.pid, stopped.rss_bytes) == ("stopped", 0, 0)
    assert stopped.wrong.startswith("stopped: ")
    supervisor.start("ovn-northd")
    until(lambda: process(host, "ovn-northd").state == "running", "northd runs again")


def test_a_second_start_changes_nothing(host: Site) -> None:
    assert host.start() == host.record()


def test_another_home_cannot_take_the_name(host: Site, tmp_path: Path) -> None:
    thief = Site(tmp_path, host.spec)
    with pytest.raises(KeeperError, match="already runs from"):
        thief.start()
    assert thief.stop() is False
    assert host.record().init.alive()


def test_the_pipe_reaches_an_address_inside(host: Site) -> None:
    command = [sys.executable, "-m", "yuntai.lab.netpipe", "--pid", str(host.record().init.pid), "10.79.0.1", "2379"]
    request = b"GET /version HTTP/1.0\r\n\r\n"
    done = subprocess.run(command, input=request, capture_output=True, timeout=30, check=False, cwd=REPOSITORY)
    assert b'"etcdserver":"3.5.' in done.stdout, done.stderr
    closed = subprocess.run([*command[:-1], "9"], capture_output=True, timeout=30, check=False, cwd=REPOSITORY)
    assert b"netpipe: 10.79.0.1:9 in" in closed.stderr
    assert b"Connection refused" in closed.stderr


def test_the_pipe_reaches_a_namespace_made_inside(host: Site) -> None:
    record = host.record()
    run_inside(
        record, "sh", "-c", "ip netns add inner; ip -n inner link set lo up; ip -n inner address add 10.5.0.1/32 dev lo"
    )
    server = subprocess.Popen(
        [
            *("nsenter", "--target", str(record.init.pid), "--mount", "--net", "--pid"),
            *("ip", "netns", "exec", "inner", "busybox", "nc", "-l", "-p", "80", "-e", "cat"),
        ]
    )
    try:
        command = [sys.executable, "-m", "yuntai.lab.netpipe", "--pid", str(record.init.pid), "--netns", "inner"]

        def echoes() -> bool:
            done = subprocess.run(
                [*command, "10.5.0.1", "80"],
                input=b"hello",
                capture_output=True,
                timeout=30,
                check=False,
                cwd=REPOSITORY,
            )
            return done.stdout == b"hello"

        until(echoes, "the echo from the inner namespace")
    finally:
        server.kill()
        server.wait(10)


def test_the_forward_leads_a_loopback_port_inside(host: Site) -> None:
    port, netns = free_port(), f"/run/netns/{host.spec.netns}"
    command = [sys.executable, "-m", "yuntai.lab.forward", "--netns", netns, str(port), "10.79.0.1:2379"]
    forward = subprocess.Popen(command, cwd=REPOSITORY)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                return b'"health":"true"' in answer.read()
        except OSError:
            return False

    try:
        until(answers, "the forward answers")
        second = subprocess.run(command, capture_output=True, timeout=30, check=False, cwd=REPOSITORY)
        assert b"Address already in use" in second.stderr
        assert b"free the port, or choose another" in second.stderr
    finally:
        forward.terminate()
        assert forward.wait(10) == 0


def test_stopping_leaves_nothing_but_data(host: Site) -> None:
    run_inside(host.record(), "sh", "-c", "ip tuntap add stray mode tap; setsid sleep 300 >/dev/null 2>&1 &")
    assert host.stop() is True
    until(lambda: host.leftovers() == [], f"nothing is left, but {host.leftovers()}")
    assert (host.home.host("h1").data / "etcd").is_dir()
    assert host.stop() is False


@pytest.mark.parametrize("victim", ["keeper", "init", "supervisord", "both"])
def test_whatever_is_killed_stop_leaves_nothing(host: Site, victim: str) -> None:
    record = host.record()
    if victim == "supervisord":
        # The whole host ends with its supervisor, this command's own shell perhaps before it is done.
        with contextlib.suppress(subprocess.SubprocessError):
            run_inside(record, "sh", "-c", "kill -KILL $(cat /run/supervisord.pid)")
    if victim in ("keeper", "both"):
        os.kill(record.keeper.pid, signal.SIGKILL)
        assert record.keeper.wait(10)
    if victim == "keeper":
        status = report(host.root, "h1")
        assert status is not None
        assert "its keeper was killed" in status.wrong
    if victim in ("init", "both"):
        os.kill(record.init.pid, signal.SIGKILL)
    if victim != "keeper":
        assert record.init.wait(10)
    host.stop()
    until(lambda: host.leftovers() == [], f"nothing is left, but {host.leftovers()}")
    host.start()
    status = wait_healthy(host.root, "h1", HEALTHY_S)
    assert status is not None
    assert status.healthy, status


def test_a_dead_host_is_cleaned_by_its_keeper_at_once(host: Site) -> None:
    record = host.record()
    record.init.signal(signal.SIGKILL)
    assert record.keeper.wait(10)
    assert running(host.home, "h1") is None
    until(lambda: host.leftovers() == [], f"nothing is left, but {host.leftovers()}")
    assert identify(record.init.pid) != record.init


def test_a_start_that_cannot_work_says_why_and_leaves_nothing(host: Site) -> None:
    host.stop()
    blocked = host.home.host("h1").merged
    blocked.rmdir()
    blocked.write_text("not a folder")
    try:
        with pytest.raises((KeeperError, OSError)):
            host.start()
    finally:
        blocked.unlink()
    until(lambda: host.leftovers() == [], f"nothing is left, but {host.leftovers()}")


def test_a_machine_with_the_unified_hierarchy_serves_too(tmp_path: Path) -> None:
    """In a mount namespace where only cgroup v2 is mounted, as on a present-day distribution."""
    images = require_lab()
    script = """
        umount -l -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
        lab="$0 -m yuntai.lab.host --home $1"
        $lab start --cluster "$2" --engines-only --images "$3"
        $lab exec -- cat /proc/1/cgroup
        $lab stop
        ls -d /sys/fs/cgroup/yt-"$2"* 2>/dev/null || echo clean
    """
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", script, sys.executable]
    done = subprocess.run(
        [*command, str(tmp_path), f"u{os.getpid()}", str(images)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert "all 8 processes answer" in done.stdout
    assert "0::/init" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == "clean"
