"""Cutting one host off from the block store alone: what it and others send each other about storage gets lost.

Management and storage share one cable here, so the host's routing sends the block store's packets to a switch without
any cable; nobody is told, as with a network that fails. What stays inside the host, its own chunk server say, is not
touched: the kernel looks up its own addresses before these rules.
"""

from __future__ import annotations

import json

from yuntai.lab.fabric import namespaces, run
from yuntai.lab.spec import CHUNKSERVER_PORT, RACKS, HostSpec

TABLE = "71"
NOWHERE = "nowhere"


def cut(spec: HostSpec) -> None:
    """Lose every packet between the host and others that is to or from a port of the block store."""
    if is_cut(spec):
        return
    if not _has_nowhere(spec):
        run("ip", "-n", spec.netns, "link", "add", NOWHERE, "type", "bridge")
    run("ip", "-n", spec.netns, "link", "set", NOWHERE, "arp", "off", "up")
    run("ip", "-n", spec.netns, "route", "replace", "default", "dev", NOWHERE, "table", TABLE)
    for rule in _rules(spec):
        run("ip", "-n", spec.netns, "rule", "add", *rule)


def mend(spec: HostSpec) -> None:
    """Undo :func:`cut`, also one that was cut short."""
    for _ in range(_count(spec)):
        run("ip", "-n", spec.netns, "rule", "delete", "lookup", TABLE)
    if _has_nowhere(spec):
        run("ip", "-n", spec.netns, "link", "delete", NOWHERE)  # and with it its route


def is_cut(spec: HostSpec) -> bool:
    """Return whether all of :func:`cut` holds."""
    return _count(spec) == len(_rules(spec))


def _rules(spec: HostSpec) -> list[tuple[str, ...]]:
    config = spec.config()
    chunkservers = f"{CHUNKSERVER_PORT}-{CHUNKSERVER_PORT + RACKS - 1}"
    ports = (chunkservers, str(config.gateway_port), str(config.master_port))
    return [("ipproto", "tcp", end, port, "lookup", TABLE) for port in ports for end in ("sport", "dport")]


def _count(spec: HostSpec) -> int:
    if spec.netns not in namespaces():
        return 0
    shown = json.loads(run("ip", "-json", "-n", spec.netns, "rule", "show"))
    return sum(one.get("table") == TABLE for one in shown)


def _has_nowhere(spec: HostSpec) -> bool:
    if spec.netns not in namespaces():
        return False
    return any(one["ifname"] == NOWHERE for one in json.loads(run("ip", "-json", "-n", spec.netns, "link", "show")))
