"""Who is where and what is free: kept up to date change by change, and asked for placements.

A fleet is fed records (:meth:`Fleet.put_host`, :meth:`Fleet.put_instance` …) or holds (:meth:`Fleet.hold`: an instance
is about to be written there). Hosts that may take anything stand in an order, the roomiest first, so that a plain
request is mostly answered by the first one looked at. The rules are in :mod:`.rules`, the reserve in :mod:`.reserve`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from yuntai.control.scheduler import rules, spread
from yuntai.control.scheduler.request import Placement, Request, Room
from yuntai.model.base import now_utc
from yuntai.model.placement import SchedulerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from yuntai.model.cluster import Host, HostPool
    from yuntai.model.compute import Instance
    from yuntai.model.placement import DeploymentSet

_DEFAULTS = SchedulerSettings(id="scheduler")


@dataclass(frozen=True, slots=True)
class Hold:
    """What one instance holds, and where."""

    cpu: int
    memory_mib: int
    hosts: tuple[str, ...]
    deployment_set: str = ""
    group: int = 0


class Fleet:
    """All hosts with what they hold."""

    def __init__(
        self,
        hosts: Iterable[Host] = (),
        instances: Iterable[Instance] = (),
        sets: Iterable[DeploymentSet] = (),
        settings: SchedulerSettings = _DEFAULTS,
        pools: Iterable[HostPool] = (),
    ) -> None:
        self.hosts: dict[str, Host] = {}
        self.holds: dict[str, Hold] = {}
        self.sets: dict[str, DeploymentSet] = {}
        self.settings = settings
        self.pools: dict[str, HostPool] = {pool.id: pool for pool in pools}
        # host → what is held there, instances in it, also of hosts that are not known (yet)
        self.used: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.guests: dict[str, set[str]] = defaultdict(set)
        self.members: dict[str, dict[str, set[str]]] = {}  # deployment set → host → instances
        self.racks: Counter[str] = Counter()  # hosts that may take anything, by rack
        self._order: list[tuple[int, int, str]] = []  # of those hosts: -MiB free, -vCPUs free, id
        self._keys: dict[str, tuple[int, int, str]] = {}
        self._free = [0, 0]  # of those hosts, together
        self._largest: Room | None = None
        for one in sets:
            self.put_set(one)
        for host in hosts:
            self.put_host(host)
        for instance in instances:
            self.put_instance(instance)

    # What it is fed.

    def put_host(self, host: Host) -> None:
        """Take in a host that is new or changed."""
        self._close(host.id)
        self._largest = None
        self.hosts[host.id] = host
        self._open(host.id)

    def remove_host(self, host_id: str) -> None:
        """Forget a host; what instances hold there comes back with it."""
        self._close(host_id)
        self._largest = None
        self.hosts.pop(host_id, None)

    def put_pool(self, pool: HostPool) -> None:
        """Take in a pool that is new or changed."""
        self.pools[pool.id] = pool

    def put_set(self, one: DeploymentSet) -> None:
        """Take in a deployment set that is new or changed."""
        self.sets[one.id] = one

    def put_instance(self, instance: Instance) -> None:
        """Take in an instance that is new or changed."""
        hosts = tuple(dict.fromkeys(h for h in (instance.host, instance.migrating_to) if h))
        self._set_hold(
            instance.id,
            Hold(instance.cpu, instance.memory_mib, hosts, instance.deployment_set, instance.deployment_set_group),
        )

    def hold(self, request: Request, host: str, *, besides: bool = False) -> None:
        """Let an instance hold room at ``host``: instead of what it holds, or ``besides`` that while it moves."""
        before = self.holds.get(request.instance)
        hosts = (*before.hosts, host) if besides and before is not None else (host,)
        unique = tuple(dict.fromkeys(hosts))
        self._set_hold(
            request.instance, Hold(request.cpu, request.memory_mib, unique, request.deployment_set, request.group)
        )

    def remove_instance(self, instance_id: str) -> None:
        """Forget an instance and what it holds."""
        self._set_hold(instance_id, None)

    def _set_hold(self, instance_id: str, new: Hold | None) -> None:
        old = self.holds.get(instance_id)
        if old == new:
            return
        if old is not None:
            del self.holds[instance_id]
            for host in old.hosts:
                self._move(instance_id, old, host, -1)
        if new is not None:
            self.holds[instance_id] = new
            for host in new.hosts:
                self._move(instance_id, new, host, 1)

    def _move(self, instance_id: str, hold: Hold, host: str, sign: int) -> None:
        was_open = self._close(host)
        used = self.used[host]
        used[0] += sign * hold.cpu
        used[1] += sign * hold.memory_mib
        there = self.members.setdefault(hold.deployment_set, {}) if hold.deployment_set else {}
        if sign > 0:
            self.guests[host].add(instance_id)
            there.setdefault(host, set()).add(instance_id)
        else:
            self.guests[host].discard(instance_id)
            there.get(host, set()).discard(instance_id)
            if not there.get(host):
                there.pop(host, None)
        if was_open:
            self._open(host)

    def _close(self, host_id: str) -> bool:
        """Take a host from the order; return whether it was in it."""
        key = self._keys.pop(host_id, None)
        if key is None:
            return False
        del self._order[bisect_left(self._order, key)]
        self._free[0] += key[1]
        self._free[1] += key[0]
        rack = self.hosts[host_id].rack
        self.racks[rack] -= 1
        if not self.racks[rack]:
            del self.racks[rack]
        return True

    def _open(self, host_id: str) -> None:
        host = self.hosts[host_id]
        if rules.closed(host):
            return
        room = self.room(host_id)
        key = (-room.memory_mib, -room.vcpus, host_id)
        insort(self._order, key)
        self._keys[host_id] = key
        self._free[0] += room.vcpus
        self._free[1] += room.memory_mib
        self.racks[host.rack] += 1

    # What it is asked.

    def room(self, host_id: str) -> Room:
        """Return the room on one host."""
        host, (vcpus, memory_mib) = self.hosts[host_id], self.used[host_id]
        return Room(host.vcpus_max - vcpus, host.memory_mib_max - memory_mib)

    def rooms(self) -> dict[str, Room]:
        """Return the room on each host."""
        return {host: self.room(host) for host in self.hosts}

    def open_hosts(self) -> list[str]:
        """Return the hosts that may take anything, the roomiest first."""
        return [key[2] for key in self._order]

    def free_without(self, instance_id: str) -> Room:
        """Return what would be free on those hosts together if an instance held nothing."""
        own = self.holds.get(instance_id)
        times = sum(host in self._keys for host in own.hosts) if own is not None else 0
        if own is None or not times:
            return Room(self._free[0], self._free[1])
        return Room(self._free[0] + times * own.cpu, self._free[1] + times * own.memory_mib)

    def largest(self) -> Room:
        """Return the most vCPUs and the most memory that one of those hosts has, free or not."""
        if self._largest is None:
            there = [self.hosts[host_id] for host_id in self._keys]
            self._largest = Room(
                max((h.vcpus_max for h in there), default=0), max((h.memory_mib_max for h in there), default=0)
            )
        return self._largest

    def choose(self, request: Request) -> Placement:
        """Choose a host: the one it was on if that still fits, else the best by spreading, then by room, then by id.

        What a failed host had leaves its deployment set where that is what the set is told to do, and where nothing
        fits otherwise.
        """
        placement = self._choose(request)
        if not placement.host and request.host_failed and spread.lets_go(self, request):
            other = self._choose(request.alone())
            if other.host:
                return replace(other, leaves_set=request.deployment_set)
        return placement

    def _choose(self, request: Request) -> Placement:
        now = now_utc()
        rejections: list[tuple[str, str]] = []
        if request.prefer in self.hosts:
            why = rules.why_not(self, request.prefer, request, now)
            if not why:
                return Placement(request.prefer, why="it was there before, and it fits")
        wish = spread.wish_of(self, request)
        best, best_rank = "", 0
        for host_id in self._candidates(request):
            why = rules.why_not(self, host_id, request, now)
            if why:
                rejections.append((host_id, why))
                continue
            rank = wish.rank(host_id)
            if not best or rank < best_rank:
                best, best_rank = host_id, rank
            if best_rank <= wish.best:
                break
        if best:
            return Placement(best, tuple(rejections), self._reason(best, request, wish))
        return Placement("", tuple(sorted(rejections)))

    def explain(self, request: Request) -> list[tuple[str, str]]:
        """Return for each host why it cannot take the instance, "" where it can."""
        now = now_utc()
        return [(host_id, rules.why_not(self, host_id, request, now)) for host_id in sorted(self.hosts)]

    def place_all(self, requests: Iterable[Request]) -> list[tuple[Request, Placement]]:
        """Place many, the highest priority first and of one priority the largest first; what is placed holds its room.

        One that does not fit keeps no other from being tried: smaller ones may still fit.
        """
        placed = []
        for request in sorted(requests, key=lambda r: (-r.priority, -r.memory_mib, -r.cpu, r.instance)):
            placement = self.choose(request)
            if placement.host:
                self.hold(request.alone() if placement.leaves_set else request, placement.host)
            placed.append((request, placement))
        return placed

    def fit(self, request: Request, count: int) -> tuple[int, str]:
        """Return how many of ``count`` equal new instances fit, and why the next one does not ("" when all do).

        The fleet is left as it was.
        """
        held: list[str] = []
        try:
            for number in range(count):
                one = replace(request, instance=f"new-{number}")
                placement = self.choose(one)
                if not placement.host:
                    return number, placement.reason
                self.hold(one, placement.host)
                held.append(one.instance)
            return count, ""
        finally:
            for instance_id in held:
                self.remove_instance(instance_id)

    def _candidates(self, request: Request) -> Iterator[str]:
        """Yield every host, those that may take anything first and the roomiest of them first."""
        if not request.dedicated_host:
            yield from (key[2] for key in self._order)
        yield from sorted(h for h in self.hosts if request.dedicated_host or h not in self._keys)

    def _reason(self, host_id: str, request: Request, wish: spread.Wish) -> str:
        room = self.room(host_id)
        text = f"it had the most memory left of those that fit ({room.memory_mib} MiB, {room.vcpus} vCPUs)"
        if request.dedicated_host:
            text = f"it is the dedicated host {request.dedicated_host}"
        return f"{wish.text(host_id)}; {text}" if wish.text(host_id) else text
