"""The networks between lab hosts: one namespace with a switch for each network, and a cable from each to every host.

| network | switch in the fabric | host's end | carries |
|---|---|---|---|
| management | ``mgmt`` | ``eth0`` | etcd, API, storage, migration |
| underlay | ``under`` | ``under0`` in ``br-phy`` | Geneve between hosts |
| external | ``ext`` | ``ext0`` in ``br-ext`` | what guests call the outside |
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from yuntai.lab.spec import ClusterSpec, HostSpec

COMMAND_S = 20
NETNS_FOLDER = Path("/run/netns")
# OVS in user space reads frames from the cable as they are; a frame that leaves its checksum or its cutting into
# pieces to the device would never be finished.
_OFFLOADS = ("tx", "off", "tso", "off", "gso", "off", "gro", "off")


class FabricError(RuntimeError):
    """A network command failed; the text holds the command and what it said."""


@dataclass(frozen=True)
class Cable:
    """One cable from a host to a switch; ``user_space`` says that OVS reads the host's end."""

    switch: str
    device: str
    mtu: int
    user_space: bool

    def far_end(self, number: int) -> str:
        """Return the fabric's end for the host ``number``; device names hold 15 bytes."""
        return f"{self.switch}-{number}"


CABLES = (
    Cable("mgmt", "eth0", 9000, user_space=False),
    Cable("under", "under0", 9000, user_space=True),
    Cable("ext", "ext0", 1500, user_space=True),
)

FAULTY = ("mgmt", "under")
"""What cutting a host off means: no other host reaches it, while its guests may still reach the outside."""


def run(*command: str) -> str:
    """Run a command and return what it printed; raise :class:`FabricError` when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    if done.returncode != 0:
        raise FabricError(f"`{' '.join(command)}` failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def namespaces() -> list[str]:
    """Return the machine's named network namespaces."""
    return sorted(entry.name for entry in NETNS_FOLDER.iterdir()) if NETNS_FOLDER.is_dir() else []


def belongs(name: str, cluster: ClusterSpec) -> bool:
    """Return whether a namespace or control group of this name is the cluster's own, and not that of ``NAME-2``."""
    return name.rpartition("-")[0] == f"yt-{cluster.name}"


def hosts_in(cluster: ClusterSpec) -> list[str]:
    """Return the network namespaces of the cluster's hosts."""
    return [name for name in namespaces() if belongs(name, cluster) and name != cluster.fabric]


def ensure(cluster: ClusterSpec) -> None:
    """Make the fabric's namespace and switches where they are missing."""
    if cluster.fabric not in namespaces():
        run("ip", "netns", "add", cluster.fabric)
    run("ip", "-n", cluster.fabric, "link", "set", "lo", "up")
    for cable in CABLES:
        if not _has_link(cluster.fabric, cable.switch):
            run("ip", "-n", cluster.fabric, "link", "add", cable.switch, "type", "bridge")
        run("ip", "-n", cluster.fabric, "link", "set", cable.switch, "mtu", str(cable.mtu), "up")
    length = ipaddress.ip_network(cluster.management).prefixlen
    run("ip", "-n", cluster.fabric, "address", "replace", f"{cluster.gate}/{length}", "dev", "mgmt")


def attach(spec: HostSpec) -> None:
    """Make the host's network namespace and plug its cables in."""
    fabric, netns = spec.cluster.fabric, spec.netns
    run("ip", "netns", "add", netns)
    run("ip", "-n", netns, "link", "set", "lo", "up")
    for cable in CABLES:
        far, mtu = cable.far_end(spec.number), str(cable.mtu)
        run("ip", "link", "add", cable.device, "netns", netns, "type", "veth", "peer", "name", far, "netns", fabric)
        run("ip", "-n", fabric, "link", "set", far, "mtu", mtu, "master", cable.switch, "up")
        run("ip", "-n", netns, "link", "set", cable.device, "mtu", mtu, "up")
        if cable.user_space:
            for where, device in ((netns, cable.device), (fabric, far)):
                run("ip", "netns", "exec", where, "ethtool", "-K", device, *_OFFLOADS)
    run("ip", "-n", netns, "address", "add", spec.interface(spec.cluster.management), "dev", "eth0")


def detach(spec: HostSpec) -> None:
    """Remove the host's cables and network namespace, as far as they are there."""
    present = namespaces()
    if spec.cluster.fabric in present:
        for cable in CABLES:
            # The far ends first: this is synchronous, while deleting a namespace frees its ends some time later, and a
            # start in between would find their names taken.
            if _has_link(spec.cluster.fabric, cable.far_end(spec.number)):
                run("ip", "-n", spec.cluster.fabric, "link", "delete", cable.far_end(spec.number))
    if spec.netns in present:
        run("ip", "netns", "delete", spec.netns)


def set_plugged(spec: HostSpec, *, plugged: bool, switches: tuple[str, ...] = FAULTY) -> None:
    """Pull or plug in the host's cables to ``switches``, at the switch's end, as somebody in the rack would."""
    for switch in switches:
        far_end = f"{switch}-{spec.number}"
        run("ip", "-n", spec.cluster.fabric, "link", "set", far_end, "up" if plugged else "down")


def unplugged(spec: HostSpec) -> list[str]:
    """Return the switches that the host's cables are pulled out of."""
    if spec.cluster.fabric not in namespaces():
        return []
    shown = json.loads(run("ip", "-json", "-n", spec.cluster.fabric, "link", "show"))
    down = {link["ifname"] for link in shown if "UP" not in link["flags"]}
    return [cable.switch for cable in CABLES if cable.far_end(spec.number) in down]


def remove_if_unused(cluster: ClusterSpec) -> bool:
    """Remove the fabric once no host of the cluster is left; return whether it is gone."""
    if hosts_in(cluster):
        return False
    if cluster.fabric in namespaces():
        for cable in CABLES:
            if _has_link(cluster.fabric, cable.switch):
                run("ip", "-n", cluster.fabric, "link", "delete", cable.switch)
        run("ip", "netns", "delete", cluster.fabric)
    return True


def _has_link(netns: str, device: str) -> bool:
    command = ("ip", "-n", netns, "link", "show", "dev", device)
    return subprocess.run(command, capture_output=True, timeout=COMMAND_S, check=False).returncode == 0
