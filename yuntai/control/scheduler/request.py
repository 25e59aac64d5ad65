"""What is asked of the scheduler, and what it answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yuntai.model.cluster import Host
    from yuntai.model.compute import Instance

NAMED_MAX = 16
"""A reason names each host up to so many; of more it counts those that say the same."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be placed. ``prefer`` is the host that it was on; ``avoid`` are hosts that must not be taken."""

    instance: str
    cpu: int
    memory_mib: int
    prefer: str = ""
    avoid: frozenset[str] = frozenset()
    deployment_set: str = ""
    group: int = 0  # within the deployment set
    dedicated_host: str = ""
    unfit: Callable[[Host], Sequence[str]] | None = None  # what else is wrong with a host (a guest that moves: its CPU)
    uses_reserve: bool = False  # what is held back for the failure of a host is for this one too
    priority: int = 50
    host_failed: bool = False  # its deployment set may let it go rather than leave it without a host

    def alone(self) -> Request:
        """Return the request without its deployment set."""
        return replace(self, deployment_set="", group=0)


def request_of(instance: Instance, *, prefer: bool = True, uses_reserve: bool = False) -> Request:
    """Return the request for an instance that is to be started, with its own host preferred unless it is to move."""
    return Request(
        instance=instance.id,
        cpu=instance.cpu,
        memory_mib=instance.memory_mib,
        prefer=instance.host if prefer else "",
        avoid=frozenset() if prefer or not instance.host else frozenset({instance.host}),
        deployment_set=instance.deployment_set,
        group=instance.deployment_set_group,
        dedicated_host=instance.dedicated_host,
        uses_reserve=uses_reserve,
        priority=instance.priority,
    )


@dataclass(frozen=True, slots=True)
class Placement:
    """The chosen host ("" = none fits) and, for each host that was looked at and not possible, why."""

    host: str
    rejections: tuple[tuple[str, str], ...] = ()
    why: str = ""  # of the chosen host, for a person
    leaves_set: str = ""  # the deployment set that it must leave to be there

    @property
    def rejected(self) -> tuple[str, ...]:
        """Return one line for each host that was not possible."""
        return tuple(f"{host} rejected: {why}" for host, why in self.rejections)

    @property
    def reason(self) -> str:
        """Say in one line why nothing fits."""
        if not self.rejections:
            return "no host fits: there is no host"
        if len(self.rejections) <= NAMED_MAX:
            return "no host fits: " + "; ".join(self.rejected)
        named = "; ".join(self.rejected[:NAMED_MAX])
        rest = Counter(kind_of(why) for _, why in self.rejections[NAMED_MAX:])
        counted = ", ".join(f"{count} {why}" for why, count in sorted(rest.items(), key=lambda r: (-r[1], r[0])))
        return f"no host fits: {named}; and of {sum(rest.values())} more: {counted}"


def kind_of(why: str) -> str:
    """Return a reason without what differs from host to host."""
    words = " ".join("…" if any(c.isdigit() for c in word) else word for word in why.split())
    return words.replace("… MiB short", "are short of memory").replace("… vCPU short", "are short of vCPUs")


@dataclass(frozen=True, slots=True)
class Room:
    """What of a host is not handed out yet."""

    vcpus: int
    memory_mib: int
