"""Which host gets an instance: pure functions from hosts and instances to a placement with reasons.

:class:`~yuntai.control.scheduler.fleet.Fleet` holds who is where and what is free, and is kept up to date change by
change: 1,000 hosts with 50,000 instances are no more work for one placement than ten with five. The functions here
are for whoever asks once.

What an instance holds is derived from the records that name a host; there is no counter. A stopped instance keeps what
it holds, so it can always be started again; one that moves holds room at both hosts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.control.scheduler.fleet import Fleet
from yuntai.control.scheduler.request import Placement, Request, Room, request_of
from yuntai.control.scheduler.whole import empty_host

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yuntai.model.cluster import Host
    from yuntai.model.compute import Instance

__all__ = ["Fleet", "Placement", "Request", "Room", "empty_host", "place", "place_many", "request_of", "rooms"]


def rooms(hosts: Iterable[Host], instances: Iterable[Instance]) -> dict[str, Room]:
    """Return the room on each host, derived from the instances that name it."""
    return Fleet(hosts, instances).rooms()


def place(hosts: Sequence[Host], instances: Iterable[Instance], request: Request) -> Placement:
    """Choose a host for one instance."""
    return Fleet(hosts, instances).choose(request)


def place_many(hosts: Sequence[Host], instances: Sequence[Instance], request: Request, count: int) -> tuple[int, str]:
    """Return how many of ``count`` equal instances fit, and why the next one does not ("" when all do)."""
    return Fleet(hosts, instances).fit(request, count)
