"""Lab hosts of the network tests' own, with guests that are network namespaces instead of virtual machines."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from yuntai.lab import lifecycle
from yuntai.lab.enter import command_inside
from yuntai.lab.layout import default_home
from yuntai.lab.spec import CENTRAL, ENGINES, ClusterSpec, HostSpec
from yuntai.lab.status import wait_healthy
from yuntai.model.base import Record, new_id
from yuntai.model.cluster import Host
from yuntai.model.network import Port, Rule, SecurityGroup, Vpc, VSwitch
from yuntai.network import addresses, names

if TYPE_CHECKING:
    from collections.abc import Callable

CREATED = "2026-01-01T00:00:00Z"
ANSWER_S = 60.0
PYTHON = "/opt/yuntai/venv/bin/python"
ALLOW_ALL = Rule(id="sgr-all", direction="ingress", protocol="all", cidr="0.0.0.0/0")


@dataclass
class Inside:
    """A host, and the helper that runs in it."""

    spec: HostSpec
    log: Path
    helper: subprocess.Popen[str]

    @classmethod
    def start(cls, home: Path, spec: HostSpec) -> Inside:
        record = lifecycle.start(spec, home)
        status = wait_healthy(home, spec.name, 60)
        assert status is not None
        assert status.healthy, status
        role = "central" if CENTRAL in spec.roles else "host"
        command = command_inside(record, PYTHON, "-m", "tests.functional.network_inside", role)
        log = home / f"inside-{spec.name}.log"
        helper = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, bufsize=1
        )
        return cls(spec, log, helper)

    def stop(self) -> None:
        assert self.helper.stdin is not None
        self.helper.stdin.close()
        try:
            self.helper.wait(20)
        except subprocess.TimeoutExpired:
            self.helper.kill()

    def ask(self, op: str, **arguments: Any) -> Any:
        assert self.helper.stdin is not None
        assert self.helper.stdout is not None
        self.helper.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        ready, _, _ = select.select([self.helper.stdout], [], [], ANSWER_S)
        assert ready, f"no answer to {op} in {ANSWER_S} s; see {self.log}"
        line = self.helper.stdout.readline()
        assert line, f"the helper is gone: {self.log.read_text()[-2000:]}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["ok"]

    def run(self, *command: str, timeout_s: float = 20) -> dict[str, Any]:
        return dict(self.ask("run", command=list(command), timeout_s=timeout_s))

    def serve(self, netns: str, port: int, text: str) -> int:
        folder = f"/tmp/www-{netns}-{port}"
        self.run("sh", "-c", f"mkdir -p {folder} && printf %s '{text}' > {folder}/index.html")
        enter = ["ip", "netns", "exec", netns] if netns else []
        return int(self.ask("spawn", command=[*enter, "busybox", "httpd", "-f", "-p", str(port), "-h", folder]))

    def service_netns(self, vswitch: VSwitch) -> str:
        netns = names.netns(vswitch.id)
        until(lambda: netns in self.run("ip", "netns", "list")["out"], "the vSwitch's namespace")
        until(lambda: "100.100.100.200" in self.run("ip", "-n", netns, "address")["out"], "its addresses")
        return netns


@dataclass
class Guest:
    """A port with a namespace behind it."""

    host: Inside
    port: Port
    cidr: str

    @property
    def netns(self) -> str:
        return f"g-{self.port.id[:8]}"

    def plug(self) -> None:
        self.host.ask("guest", netns=self.netns, port=self.port.id, mac=self.port.mac)

    def unplug(self) -> None:
        self.host.ask("remove_guest", netns=self.netns, port=self.port.id)

    def run(self, *command: str, timeout_s: float = 20) -> dict[str, Any]:
        return self.host.run("ip", "netns", "exec", self.netns, *command, timeout_s=timeout_s)

    def address(self) -> None:
        """Take the address as DHCP would give it, without the exchange."""
        prefix, service = self.cidr.partition("/")[2], addresses.service(self.cidr)
        for line in (
            f"address add {self.port.ip}/{prefix} dev eth0",
            "link set eth0 mtu 1400",
            f"route add default via {addresses.gateway(self.cidr)}",
            *(f"route add {target} via {service}" for target in addresses.METADATA),
        ):
            assert self.host.run("ip", "-n", self.netns, *line.split())["code"] == 0, line

    def serve(self, port: int, text: str) -> int:
        return self.host.serve(self.netns, port, text)

    def get(self, url: str, timeout_s: int = 2) -> str | None:
        """Return the page, None when it cannot be had."""
        done = self.run("busybox", "wget", "-q", "-T", str(timeout_s), "-O", "-", url)
        return done["out"] if done["code"] == 0 else None

    def pings(self, target: str, *options: str) -> bool:
        return bool(self.run("ping", "-c", "2", "-i", "0.2", "-W", "1", *options, target)["code"] == 0)


@dataclass
class Site:
    """The hosts, the first of them the central one, and the records made so far."""

    home: Path
    hosts: list[Inside] = field(default_factory=list)
    vpcs: dict[str, Vpc] = field(default_factory=dict)
    vswitches: dict[str, VSwitch] = field(default_factory=dict)
    groups: dict[str, SecurityGroup] = field(default_factory=dict)
    guests: list[Guest] = field(default_factory=list)

    @classmethod
    def start(cls, home: Path, hosts: int = 1) -> Site:
        images = os.environ.get("YUNTAI_TEST_IMAGES") or default_home()
        cluster = ClusterSpec(name=f"net{os.getpid()}", api_port=0, images=str(images))
        site = cls(home)
        try:
            for number in range(1, hosts + 1):
                roles = (CENTRAL, ENGINES) if number == 1 else (ENGINES,)
                spec = HostSpec(cluster=cluster, name=f"h{number}", number=number, roles=roles)
                site.hosts.append(Inside.start(home, spec))
                site.put(
                    Host(
                        id=spec.name, address=spec.address, cpus=1, memory_mib=1, accelerator="tcg", seen=CREATED,
                        vcpus_max=1, memory_mib_max=1,
                    )
                )  # fmt: skip
        except BaseException:
            site.stop()
            raise
        return site

    def stop(self) -> None:
        for host in self.hosts:
            host.stop()
        lifecycle.stop_all(self.home)
        if "YUNTAI_TEST_KEEP" not in os.environ:
            shutil.rmtree(self.home, ignore_errors=True)

    @property
    def central(self) -> Inside:
        return self.hosts[0]

    @property
    def spec(self) -> HostSpec:
        return self.central.spec

    def ask(self, op: str, **arguments: Any) -> Any:
        return self.central.ask(op, **arguments)

    def run(self, *command: str, timeout_s: float = 20) -> dict[str, Any]:
        return self.central.run(*command, timeout_s=timeout_s)

    def service_netns(self, vswitch: VSwitch) -> str:
        return self.central.service_netns(vswitch)

    def serve(self, netns: str, port: int, text: str) -> int:
        return self.central.serve(netns, port, text)

    def nbctl(self, *command: str) -> str:
        done = self.run("ovn-nbctl", "--timeout=10", *command)
        assert done["code"] == 0, done
        return str(done["out"])

    def put(self, record: Record) -> None:
        self.ask("put", kind=type(record).KIND, record=msgspec.to_builtins(record))

    def vpc(self, cidr: str, number: int) -> Vpc:
        vpc = Vpc(
            id=new_id("vpc"), account="1", cidr=cidr, created=CREATED, route_table="vtb-1", router="vrt-1",
            ext_ip=f"100.64.0.{number}",
        )  # fmt: skip
        self.vpcs[vpc.id] = vpc
        self.put(vpc)
        return vpc

    def vswitch(self, vpc: Vpc, cidr: str) -> VSwitch:
        vswitch = VSwitch(id=new_id("vsw"), account="1", vpc=vpc.id, zone="z", cidr=cidr, created=CREATED)
        self.vswitches[vswitch.id] = vswitch
        self.put(vswitch)
        return vswitch

    def group(self, vpc: Vpc, *rules: Rule, inner: Literal["Accept", "Drop"] = "Accept") -> SecurityGroup:
        group = SecurityGroup(
            id=new_id("sg"), account="1", vpc=vpc.id, rules=rules, created=CREATED, inner_access=inner
        )
        self.groups[group.id] = group
        self.put(group)
        return group

    def set_rules(self, group: SecurityGroup, *rules: Rule) -> None:
        self.put(msgspec.structs.replace(group, rules=rules))

    def guest(
        self,
        vswitch: VSwitch,
        ip: str,
        *groups: SecurityGroup,
        hostname: str = "",
        addressed: bool = True,
        host: Inside | None = None,
    ) -> Guest:
        place = host or self.central
        port = Port(
            id=str(uuid.uuid4()), eni=new_id("eni"), account="1", vpc=vswitch.vpc, vswitch=vswitch.id, ip=ip,
            mac=addresses.guest_mac(ip), security_groups=tuple(group.id for group in groups), hostname=hostname,
            host=place.spec.name, created=CREATED,
        )  # fmt: skip
        self.put(port)
        guest = Guest(place, port, vswitch.cidr)
        self.guests.append(guest)
        guest.plug()
        if addressed:
            guest.address()
        self.until(lambda: "true" in self.nbctl("--if-exists", "get", "Logical_Switch_Port", port.id, "up"), "port up")
        return guest

    def clear(self) -> None:
        """Remove every guest and record, as a test's end."""
        for guest in self.guests:
            guest.unplug()
            self.ask("delete", kind=Port.KIND, id=guest.port.id)
        for records in (self.groups, self.vswitches, self.vpcs):
            for record in records.values():
                self.ask("delete", kind=record.KIND, id=record.id)
            records.clear()
        self.guests.clear()

    @staticmethod
    def until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> float:
        return until(condition, what, timeout_s)


def until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> float:
    """Wait until the condition holds; return how long that took."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)
    return time.monotonic() - started_s
