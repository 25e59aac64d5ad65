"""Which host gets an instance: a pure function from hosts and instances to a placement with reasons.

What an instance holds is derived from the instance records that name a host; there is no counter. A stopped instance
keeps what it holds, so it can always be started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yuntai.model.cluster import Host
    from yuntai.model.compute import Instance


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed. ``prefer`` is the host that it was on; ``avoid`` are hosts that must not be taken."""

    instance: str
    cpu: int
    memory_mib: int
    prefer: str = ""
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Placement:
    """The chosen host ("" = none fits) and, for each host that was not possible, why."""

    host: str
    rejected: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Say in one line why nothing fits."""
        return "no host fits: " + ("; ".join(self.rejected) if self.rejected else "there is no host")


@dataclass(frozen=True, slots=True)
class Room:
    """What of a host is not handed out yet."""

    vcpus: int
    memory_mib: int


def rooms(hosts: Iterable[Host], instances: Iterable[Instance]) -> dict[str, Room]:
    """Return the room on each host, derived from the instances that name it."""
    free = {host.id: [host.vcpus_max, host.memory_mib_max] for host in hosts}
    for instance in instances:
        if instance.host in free:
            free[instance.host][0] -= instance.cpu
            free[instance.host][1] -= instance.memory_mib
    return {host: Room(vcpus, memory) for host, (vcpus, memory) in free.items()}


def place(hosts: Sequence[Host], instances: Iterable[Instance], request: Request) -> Placement:
    """Choose a host: the one it was on if that still fits, else the one with the most memory left, then by id."""
    others = [i for i in instances if i.id != request.instance]
    room = rooms(hosts, others)
    rejected = []
    fits = []
    for host in sorted(hosts, key=lambda h: h.id):
        why = _why_not(host, room[host.id], request)
        if why:
            rejected.append(f"{host.id} rejected: {why}")
        else:
            fits.append(host.id)
    if not fits:
        return Placement("", tuple(rejected))
    best = min(fits, key=lambda h: (h != request.prefer, -room[h].memory_mib, -room[h].vcpus, h))
    return Placement(best, tuple(rejected))


def place_many(hosts: Sequence[Host], instances: Sequence[Instance], request: Request, count: int) -> tuple[int, str]:
    """Return how many of ``count`` equal instances fit, and why the next one does not ("" when all do)."""
    free = rooms(hosts, instances)
    for done in range(count):
        fits = [h for h in hosts if not _why_not(h, free[h.id], request)]
        if not fits:
            why = tuple(f"{h.id} rejected: {_why_not(h, free[h.id], request)}" for h in hosts)
            return done, Placement("", why).reason
        best = max(fits, key=lambda h: free[h.id].memory_mib).id
        free[best] = Room(free[best].vcpus - request.cpu, free[best].memory_mib - request.memory_mib)
    return count, ""


def _why_not(host: Host, room: Room, request: Request) -> str:
    if host.status != "up":
        return f"it is {host.status}"
    if host.maintenance:
        return f"it is {host.maintenance}"
    if host.id in request.avoid:
        return "it is to be avoided"
    short = []
    if room.memory_mib < request.memory_mib:
        short.append(f"{request.memory_mib - room.memory_mib} MiB short")
    if room.vcpus < request.cpu:
        short.append(f"{request.cpu - room.vcpus} vCPU short")
    return ", ".join(short)
