"""A cloud of several lab hosts for a test file, with faults as methods: use it as a fixture of the whole module.

    @pytest.fixture(scope="module")
    def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
        with running_cloud(tmp_path_factory.mktemp("cloud"), hosts=3) as made:
            yield made

Whatever a test does to it, it is gone afterwards. A test that kills, freezes or cuts off hosts calls :meth:`repair` at
its end (or its start), so that the next one finds all hosts up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.functional.lab_site import require_lab
from tests.ports import free_port
from yuntai.cli.client import YUNTAI, Api, ApiRefusedError, Credentials, UnreachableError
from yuntai.lab import cloud as lab
from yuntai.lab import fabric, faults
from yuntai.lab.enter import run_inside
from yuntai.lab.layout import REPOSITORY, Home
from yuntai.lab.processes import ProcessId, identify
from yuntai.lab.record import Record, running
from yuntai.lab.spec import HostSpec
from yuntai.lab.status import ProcessStatus, report
from yuntai.lab.supervisor import Supervisor
from yuntai.state import EtcdStore

READY_S = 240.0
"""How long a cloud, a host or a guest may take on a machine that is several times slower than a laptop."""
CLI_S = 180.0
KEY_PAIR = "test"

T = TypeVar("T")


class Cloud:
    """A running cloud. Its API is at :attr:`api`, its state at :meth:`store`, its data in :attr:`root`."""

    def __init__(self, root: Path, specs: list[HostSpec]) -> None:
        self.root, self.specs = root, specs
        self.home = Home(root)
        self.hosts = [spec.name for spec in specs]
        self.cluster = specs[0].cluster
        self._etcd_port = free_port()
        self._forward: subprocess.Popen[bytes] | None = None
        self._images: set[str] = set()

    @property
    def api(self) -> Api:
        """A client of the API, through whichever of the API hosts lives."""
        return Api(msgspec.json.decode(self.home.credentials.read_bytes(), type=Credentials), timeout_s=30)

    def store(self) -> EtcdStore:
        """Return a store on the cloud's etcd; use it with ``async with``."""
        if self._forward is None:
            netns = str(fabric.NETNS_FOLDER / self.cluster.fabric)
            members = [f"{address}:2379" for address in self.cluster.member_addresses()]
            words = ["--netns", netns, "--health", "/health", str(self._etcd_port), *members]
            command = [sys.executable, "-m", "yuntai.lab.forward", *words]
            self._forward = subprocess.Popen(command, cwd=REPOSITORY)
        return EtcdStore([f"127.0.0.1:{self._etcd_port}"])

    # Faults.

    def kill(self, host: str) -> None:
        """Cut the host's power."""
        faults.kill(self.root, host)

    def freeze(self, host: str) -> None:
        """Stop everything in the host where it stands."""
        faults.freeze(self.root, host)

    def thaw(self, host: str) -> None:
        """Let a frozen host go on."""
        faults.thaw(self.root, host)

    def isolate(self, host: str) -> None:
        """Pull the host's cables to the other hosts."""
        faults.isolate(self.root, host)

    def cut_storage(self, host: str) -> None:
        """Cut the host off from the block store alone."""
        faults.cut_storage(self.root, host)

    def heal(self, host: str) -> None:
        """Plug the host's cables in again, and mend its path to the block store."""
        faults.heal(self.root, host)

    def restart(self, host: str) -> None:
        """Reset the host, or start one that is off; :meth:`wait_up` waits until it is there."""
        faults.restart(self.root, host)

    def repair(self) -> None:
        """Undo every fault and wait until all hosts are up."""
        for host in self.hosts:
            if running(self.home, host) is None:
                self.restart(host)
                continue
            afflictions = faults.afflictions(self.root, host)
            if "frozen" in afflictions:
                self.thaw(host)
            if any(one != "frozen" for one in afflictions):
                self.heal(host)
        self.wait_up()

    def forgive(self, *hosts: str) -> None:
        """Let these hosts (all of them by default) take guests again, however often they failed lately."""

        def forgiven(host: str) -> bool:
            try:
                return "Forgiven" in self.api.operator("ForgiveHost", HostId=host)
            except (UnreachableError, ApiRefusedError) as error:
                print(f"{host} is not forgiven yet: {error}")
                return False

        for host in hosts or self.hosts:
            self.until(lambda host=host: forgiven(host), f"{host} is forgiven")

    def crash(self) -> None:
        """Kill everything at once and without warning: every keeper, then every host."""
        records = [record for host in self.hosts if (record := running(self.home, host)) is not None]
        for one in [*(record.keeper for record in records), *(record.init for record in records)]:
            one.signal(signal.SIGKILL)
        for record in records:
            assert record.init.wait(READY_S)

    def start(self) -> None:
        """Start the cloud as `yuntai lab up` does, and wait until it is up."""
        lab.up(self.specs, self.root, print, READY_S)
        self.wait_up()

    def stop(self) -> None:
        """End the cloud as `yuntai lab down` does."""
        self.close()
        lab.down(self.root, grace_s=0)

    def close(self) -> None:
        """End what the tests themselves started beside the cloud."""
        if self._forward is not None:
            self._forward.terminate()
            self._forward.wait(10)
            self._forward = None

    # Hosts and their processes.

    def spec(self, host: str) -> HostSpec:
        """Return what the host is."""
        return faults.find(self.root, host)

    def record(self, host: str) -> Record:
        """Return the running host's record."""
        return faults.find_running(self.root, host)[1]

    def inside(self, host: str, *command: str, timeout_s: float = 30) -> str:
        """Run a command in the host and return what it printed."""
        return run_inside(self.record(host), *command, timeout_s=timeout_s)

    def process(self, host: str, name: str) -> ProcessStatus:
        """Return how a supervised process of the host is; its pid is the machine's."""
        status = report(self.root, host)
        assert status is not None
        return next(one for one in status.processes if one.name == name)

    def signal(self, host: str, name: str, number: signal.Signals = signal.SIGKILL) -> ProcessId:
        """Send a signal to a supervised process of the host and return which one it was."""
        found = identify(self.process(host, name).pid)
        assert found is not None, f"{name} of {host} does not run"
        found.signal(number)
        return found

    def kill_process(self, host: str, name: str) -> None:
        """Kill a supervised process of the host, without asking whether it answers."""
        Supervisor(self.home.host(host).supervisor_socket).call("signalProcess", name, "KILL")

    def log(self, host: str, name: str) -> str:
        """Return what a process of the host has logged."""
        return (self.home.host(host).log / "yuntai" / f"{name}.log").read_text(errors="replace")

    def afflicted(self, host: str) -> bool:
        """Return whether a fault is on the host: off, frozen, or cut off."""
        return running(self.home, host) is None or bool(faults.afflictions(self.root, host))

    def wait_up(self, *hosts: str, timeout_s: float = READY_S) -> None:
        """Wait until the API shows these hosts up (all of them by default) and their processes answer."""
        wanted = hosts or tuple(self.hosts)
        self.until(lambda: set(wanted) <= self.hosts_up(), f"{wanted} are up", timeout_s)
        for host in wanted:
            self.until(lambda host=host: self.well(host), f"{host}'s processes answer", timeout_s)

    def well(self, host: str) -> bool:
        """Return whether every process of the host answers."""
        status = report(self.root, host)
        return status is not None and status.healthy

    def hosts_up(self) -> set[str]:
        """Return the hosts that the API shows up; none while it does not answer."""
        try:
            found = list(self.api.every(YUNTAI, "DescribeHosts", "Hosts", "Host"))
        except (UnreachableError, ApiRefusedError):
            return set()
        return {str(one["HostId"]) for one in found if one["Status"] == "up"}

    # Guests.

    def cli(self, *words: str, timeout_s: float = CLI_S) -> str:
        """Run ``yuntai WORDS`` on this cloud and return what it printed."""
        environment = {**os.environ, "YUNTAI_HOME": str(self.root), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "yuntai.cli", *words]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=REPOSITORY
        )
        assert done.returncode == 0, f"yuntai {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def run_instance(self, name: str, *words: str, image: str = "tiny") -> str:
        """Start an instance with the options ``words`` of ``yuntai instance create``; return its id when it runs."""
        if image not in self._images:
            self._prepare_guests(image)
        given = ("--image", image, "--key", KEY_PAIR, "--type", "ecs.yt1.nano", "--name", name)
        wait = ("--wait", "--timeout", str(READY_S))
        return self.cli("instance", "create", *given, *wait, *words, timeout_s=READY_S + CLI_S)

    def _prepare_guests(self, image: str) -> None:
        key = self.root / "ssh" / "id_ed25519"
        if not key.exists():
            key.parent.mkdir(mode=0o700)
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)]
            subprocess.run(words, check=True, timeout=30)
            self.cli("keypair", "create", KEY_PAIR, "--public-key", f"{key}.pub")
        file = self.cluster.home(self.root).guest / f"{image}.qcow2"

        def imported() -> bool:
            # For some seconds after a host is healed the block store's leader may not have heard its server again.
            try:
                self.cli("image", "import", str(file), "--name", image, timeout_s=READY_S)
            except AssertionError as error:
                if "NoPlacement" not in str(error):
                    raise
                print(f"no image yet: {error}")
                return False
            return True

        self.until(imported, f"the image {image} is imported")
        self._images.add(image)

    def ssh(self, instance: str, command: str) -> str:
        """Run a command in a guest, as soon as it lets us; return what it printed."""

        def answer() -> str | None:
            try:
                return self.cli("instance", "ssh", instance, command, timeout_s=60) + "\n"
            except (AssertionError, subprocess.TimeoutExpired) as error:
                print(f"no login to {instance} yet: {error}")
                return None

        return self.until(answer, f"a login to {instance}").strip()

    @staticmethod
    def until(look: Callable[[], T | None], what: str, timeout_s: float = READY_S) -> T:
        """Return the first answer of ``look`` that is true; fail after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not (seen := look()):
            assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
            time.sleep(0.1)
        return seen


@contextmanager
def running_cloud(root: Path, hosts: int = 3, racks: int = 3) -> Iterator[Cloud]:
    """Start a cloud with its data in ``root``; end it, whatever has become of it."""
    images = require_lab()
    name = f"c{os.getpid()}x{free_port()}"
    changes: dict[str, object] = {"name": name, "racks": racks, "api_port": free_port(), "images": str(images)}
    cloud = Cloud(root, lab.plan(root, hosts, changes))
    try:
        cloud.start()
        yield cloud
    finally:
        cloud.stop()
