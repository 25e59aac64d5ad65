"""What the pure planners cost: filling an empty cloud, one more, a set, a rack that is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench.control import cloud
from yuntai.control.failover import planner
from yuntai.control.scheduler import Fleet, Request
from yuntai.model.compute import Instance
from yuntai.model.placement import DeploymentSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.control.cloud import Size


def figures(size: Size) -> Iterator[tuple[str, object]]:
    """Yield every figure with its name."""
    there = cloud.hosts(size)
    instances = [one for one in cloud.records(size) if isinstance(one, Instance)]
    began = time.perf_counter()
    fleet = Fleet(there, instances)
    yield "making the fleet of all records, s", round(time.perf_counter() - began, 2)
    empty = Fleet(there)
    began = time.perf_counter()
    for one in instances:
        request = Request(one.id, one.cpu, one.memory_mib)
        empty.hold(request, empty.choose(request).host)
    yield "placements into an empty cloud, per s", round(len(instances) / (time.perf_counter() - began))
    yield "placements into the full cloud, per s", round(_more(fleet, ""))
    fleet.put_set(DeploymentSet(id="ds-1", account="a", created=""))
    yield "placements into one deployment set, per s", round(_more(fleet, "ds-1"))
    failed = frozenset(host.id for host in there if host.rack == "rack-00")
    for host in there:
        if host.id in failed:
            fleet.put_host(replace(host, status="down"))
    began = time.perf_counter()
    lost = planner.lost(instances, failed, migrations_too=True)
    placed = fleet.place_all(planner.request_for(one, failed) for one in lost)
    took_s = time.perf_counter() - began
    fitting = sum(bool(placement.host) for _, placement in placed)
    yield f"plan for a lost rack: {len(failed)} hosts, {len(lost)} VMs, {fitting} placed, ms", round(took_s * 1e3)


def _more(fleet: Fleet, deployment_set: str, count: int = 500) -> float:
    began = time.perf_counter()
    for number in range(count):
        request = Request(f"more-{number}", 1, 512, deployment_set=deployment_set)
        fleet.hold(request, fleet.choose(request).host)
    took_s = time.perf_counter() - began
    for number in range(count):
        fleet.remove_instance(f"more-{number}")
    return count / took_s
