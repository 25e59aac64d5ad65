"""What the pure planners cost, in processor time: filling an empty cloud, one more, a set, a rack that is lost."""

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
    began = time.process_time()
    fleet = Fleet(there, instances)
    yield "planner, in processor time: the fleet of all records, s", round(time.process_time() - began, 2)
    empty = Fleet(there)
    began = time.process_time()
    for one in instances:
        request = Request(one.id, one.cpu, one.memory_mib)
        empty.hold(request, empty.choose(request).host)
    yield "planner: placements into an empty cloud, per s", round(len(instances) / (time.process_time() - began))
    yield "planner: placements into the full cloud, per s", round(_more(fleet, ""))
    fleet.put_set(DeploymentSet(id="ds-1", account="a", created=""))
    yield "planner: placements into one deployment set, per s", round(_more(fleet, "ds-1"))
    failed = frozenset(host.id for host in there if host.rack == "rack-00")
    for host in there:
        if host.id in failed:
            fleet.put_host(replace(host, status="down"))
    began = time.process_time()
    lost = planner.lost(instances, failed, migrations_too=True)
    placed = fleet.place_all(planner.request_for(one, failed) for one in lost)
    took_s = time.process_time() - began
    fitting = sum(bool(placement.host) for _, placement in placed)
    yield f"planner: a lost rack, {len(failed)} hosts, {len(lost)} VMs, {fitting} placed, ms", round(took_s * 1e3)


def _more(fleet: Fleet, deployment_set: str, count: int = 500) -> float:
    began = time.process_time()
    for number in range(count):
        request = Request(f"more-{number}", 1, 512, deployment_set=deployment_set)
        fleet.hold(request, fleet.choose(request).host)
    took_s = time.process_time() - began
    for number in range(count):
        fleet.remove_instance(f"more-{number}")
    return count / took_s
