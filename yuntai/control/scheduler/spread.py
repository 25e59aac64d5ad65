"""Deployment sets: who must not share a host, and which of the possible hosts is the best for the set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.scheduler.fleet import Fleet
    from yuntai.control.scheduler.request import Request
    from yuntai.model.cluster import Host


def why_not(fleet: Fleet, host: Host, request: Request) -> str:
    """Return which member of the instance's set keeps it from the host, "" if none does."""
    one = fleet.sets.get(request.deployment_set)
    if one is None or one.strategy == "LowLatency":
        return ""
    there = fleet.members.get(one.id, {}).get(host.id, set()) - {request.instance}
    if one.strategy == "AvailabilityGroup":
        there = {other for other in there if fleet.holds[other].group != request.group}
    if not there:
        return ""
    what = "another group of " if one.strategy == "AvailabilityGroup" else ""
    return f"it has {min(there)} of {what}the deployment set {one.id}"


def lets_go(fleet: Fleet, request: Request) -> bool:
    """Tell whether the instance's set gives up on it rather than keep it down when its host has failed."""
    one = fleet.sets.get(request.deployment_set)
    return one is not None and one.strategy != "LowLatency" and one.on_failure == "CancelMembershipAndStart"


@dataclass(frozen=True, slots=True)
class Wish:
    """How good the possible hosts are: a lower rank is better, and none is below ``best``."""

    fleet: Fleet
    strategy: str = ""
    hosts: Counter[str] | None = None  # members of the set by host
    racks: Counter[str] | None = None  # … and by rack
    best: int = 0

    def rank(self, host_id: str) -> int:
        """Return the host's rank."""
        if self.hosts is None or self.racks is None:
            return 0
        in_rack = self.racks[self.fleet.hosts[host_id].rack]
        if self.strategy == "LowLatency":
            return -(self.hosts[host_id] * (sum(self.hosts.values()) + 1) + in_rack)
        return in_rack

    def text(self, host_id: str) -> str:
        """Say why the host is good for the set, "" without a set."""
        if self.hosts is None or self.racks is None:
            return ""
        rack = self.fleet.hosts[host_id].rack
        return f"{self.hosts[host_id]} of its deployment set are on this host and {self.racks[rack]} in its rack {rack}"


def wish_of(fleet: Fleet, request: Request) -> Wish:
    """Return what the instance's set wishes."""
    one = fleet.sets.get(request.deployment_set)
    if one is None:
        return Wish(fleet)
    hosts: Counter[str] = Counter()
    racks: Counter[str] = Counter()
    for host_id, members in fleet.members.get(one.id, {}).items():
        count = len(members - {request.instance})
        if host_id in fleet.hosts and count:
            hosts[host_id] += count
            racks[fleet.hosts[host_id].rack] += count
    if one.strategy == "LowLatency":
        best = -(max(hosts.values(), default=0) * (sum(hosts.values()) + 1) + max(racks.values(), default=0))
        return Wish(fleet, one.strategy, hosts, racks, best)
    return Wish(fleet, one.strategy, hosts, racks, min((racks[rack] for rack in fleet.racks), default=0))
