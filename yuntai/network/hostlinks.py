"""Namespaces and links of a host, by iproute2 and ovs-vsctl. Blocking; :mod:`yuntai.network.local` runs it in a thread.

Every step looks first and does only what is missing, so it may be killed anywhere and started again.
"""

from __future__ import annotations

import array
import fcntl
import json
import socket
import struct
import subprocess
from typing import TYPE_CHECKING, Any

from yuntai.network import names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yuntai.network.local import ServiceNet

COMMAND_TIMEOUT_S = 15.0
OVSDB_TIMEOUT_S = 5
# Guests' own limit, which leaves room for the tunnel's headers: without it large answers to guests would be lost.
MTU_BYTES = 1400
VSWITCH_KEY = "yuntai-vswitch"
# linux/sockios.h and linux/ethtool.h.
_SIOCETHTOOL = 0x8946
_OFFLOADS = {"tx checksums": 0x17, "TSO": 0x1F, "GSO": 0x24, "GRO": 0x2C}


class HostLinksError(Exception):
    """A namespace or link could not be set up or removed; the text has the command and what it said."""


class HostLinks:
    """See :class:`yuntai.network.local.System`."""

    def sync(self, wanted: Iterable[ServiceNet]) -> list[str]:
        """Make the host's namespaces the wanted ones; go on after one that fails, and raise at the end."""
        nets = list(wanted)
        done: list[str] = []
        failed: list[str] = []
        present, bound = _namespaces(), _bound()
        for netns in sorted(present - {net.netns for net in nets}):
            _attempt(failed, done, _remove_namespace, netns)
        for interface in sorted(bound.keys() - {net.host_interface for net in nets}):
            _attempt(failed, done, _remove_interface, interface)
        interfaces = _interfaces()
        for net in nets:
            _attempt(failed, done, _ensure, net, net.netns in present, interfaces, bound.get(net.host_interface))
        if failed:
            raise HostLinksError("; ".join(failed))
        return done


def _attempt(failed: list[str], done: list[str], step: Any, *arguments: Any) -> None:
    try:
        done += step(*arguments)
    except HostLinksError as error:
        failed.append(str(error))


def _ensure(net: ServiceNet, present: bool, interfaces: set[str], bound: str | None) -> list[str]:
    done: list[str] = []
    found = _links(net.netns) if present else None
    if found is None:
        if present:  # a file that no longer holds a namespace: left by a host that died
            _run("ip", "netns", "delete", net.netns)
        _run("ip", "netns", "add", net.netns)
        done.append(f"made {net.netns}")
        found = _links(net.netns) or {}
    if names.SERVICE_INTERFACE not in found or net.host_interface not in interfaces:
        _make_pair(net, interfaces)
        done.append(f"linked {net.netns}")
        found = _links(net.netns) or {}
    done += _settle(net, found)
    if bound != net.logical_port:
        _bind(net)
        done.append(f"bound {net.logical_port}")
    return done


def _make_pair(net: ServiceNet, interfaces: set[str]) -> None:
    passing = names.passing_interface(net.vswitch)
    for leftover in (net.host_interface, passing):
        if leftover in interfaces:
            _run("ip", "link", "delete", leftover)
    # The other end of a pair whose first end was just deleted goes with it; this is for one made by hand.
    if names.SERVICE_INTERFACE in (_links(net.netns) or {}):
        _run("ip", "-n", net.netns, "link", "delete", names.SERVICE_INTERFACE)
    _run("ip", "link", "add", net.host_interface, "type", "veth", "peer", "name", passing)
    # OVS reads raw packets: a checksum left for the hardware would stay wrong, a large segment would not fit.
    _offloads_off(net.host_interface)
    _offloads_off(passing)
    _run("ip", "link", "set", passing, "netns", net.netns, "name", names.SERVICE_INTERFACE)
    _run("ip", "link", "set", net.host_interface, "up", "addrgenmode", "none")


def _settle(net: ServiceNet, found: dict[str, dict[str, Any]]) -> list[str]:
    """Bring the link inside the namespace to its addresses; return what was done."""
    lines: list[str] = []
    if "UP" not in found.get("lo", {}).get("flags", ()):
        lines.append("link set lo up")
    link = found.get(names.SERVICE_INTERFACE, {})
    if link.get("address") != net.mac or link.get("mtu") != MTU_BYTES or "UP" not in link.get("flags", ()):
        lines.append(f"link set {names.SERVICE_INTERFACE} address {net.mac} mtu {MTU_BYTES} addrgenmode none up")
    has = {f"{info['local']}/{info['prefixlen']}" for info in link.get("addr_info", ()) if info["family"] == "inet"}
    lines += [f"address delete {address} dev {names.SERVICE_INTERFACE}" for address in sorted(has - {*net.addresses})]
    lines += [f"address add {address} dev {names.SERVICE_INTERFACE}" for address in net.addresses if address not in has]
    if not lines:
        return []
    _run("ip", "-n", net.netns, "-batch", "-", text="\n".join(lines) + "\n")
    return [f"set {net.netns}: {', '.join(lines)}"]


def _bind(net: ServiceNet) -> None:
    port = net.host_interface
    ids = (f"external_ids:iface-id={net.logical_port}", f"external_ids:{VSWITCH_KEY}={net.vswitch}")
    bridge = names.INTEGRATION_BRIDGE
    _vsctl("--", "--may-exist", "add-port", bridge, port, "--", "set", "Interface", port, *ids)


def _remove_namespace(netns: str) -> list[str]:
    _run("ip", "netns", "delete", netns)
    return [f"removed {netns}"]


def _remove_interface(interface: str) -> list[str]:
    _vsctl("--", "--if-exists", "del-port", names.INTEGRATION_BRIDGE, interface)
    if interface in _interfaces():
        _run("ip", "link", "delete", interface)
    return [f"removed {interface}"]


def _namespaces() -> set[str]:
    listed = _run_json("ip", "-json", "netns", "list")
    return {entry["name"] for entry in listed if entry["name"].startswith(names.NETNS_PREFIX)}


def _interfaces() -> set[str]:
    return {entry["ifname"] for entry in _run_json("ip", "-json", "link") if "ifname" in entry}


def _links(netns: str) -> dict[str, dict[str, Any]] | None:
    """Return the links of a namespace with their addresses, None when the name leads to no namespace."""
    try:
        found = _run_json("ip", "-json", "-n", netns, "address")
    except HostLinksError:
        return None
    return {entry["ifname"]: entry for entry in found if "ifname" in entry}


def _bound() -> dict[str, str]:
    """Return our interfaces in OVS with the logical port that each is bound to."""
    select = ("--format=json", "--columns=name,external_ids", "list", "Interface")
    table = _run_json("ovs-vsctl", f"--timeout={OVSDB_TIMEOUT_S}", *select)
    bound = {}
    for name, (_map, pairs) in table["data"] if table else ():
        ids = dict(pairs)
        if VSWITCH_KEY in ids:
            bound[name] = ids.get("iface-id", "")
    return bound


def _vsctl(*arguments: str) -> str:
    # --no-wait would hide that the daemon is away; the timeout bounds that wait.
    return _run("ovs-vsctl", f"--timeout={OVSDB_TIMEOUT_S}", *arguments)


def _run_json(*command: str) -> Any:
    """Run a command that prints JSON; what prints nothing has nothing to list."""
    text = _run(*command)
    try:
        return json.loads(text) if text.strip() else []
    except ValueError as error:
        raise HostLinksError(f"{' '.join(command)}: not JSON: {text[:200]!r}") from error


def _run(*command: str, text: str | None = None) -> str:
    try:
        result = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostLinksError(f"{' '.join(command)}: {error}") from error
    if result.returncode != 0:
        raise HostLinksError(f"{' '.join(command)}: exit {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def _offloads_off(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for name, command in _OFFLOADS.items():
            value = array.array("B", struct.pack("=II", command, 0))
            request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
            try:
                fcntl.ioctl(handle, _SIOCETHTOOL, request)
            except OSError as error:
                raise HostLinksError(f"{interface}: {name} cannot be turned off: {error.strerror}") from error
