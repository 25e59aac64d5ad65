"""A whole cloud of lab hosts: up, down, and what is left of one that crashed. One host is a cloud, too."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from yuntai.lab import cgroups, fabric, lifecycle
from yuntai.lab.keeper import KeeperError, cluster_lock
from yuntai.lab.layout import CLAIMS, Home
from yuntai.lab.record import remove_claim, running
from yuntai.lab.spec import (
    ALL_ROLES,
    COMPUTE,
    ENGINES,
    MEMBERS,
    STORAGE,
    ClusterSpec,
    HostSpec,
    SpecError,
    check,
    host_name,
    load_cluster,
)
from yuntai.lab.status import HostStatus, report
from yuntai.lab.supervisor import Supervisor, SupervisorError

HOSTS_MAX = 32
HEALTHY_S = 240.0
POLL_S = 0.3
STOP_S = 60.0

Say = Callable[[str], None]
T = TypeVar("T")
R = TypeVar("R")


class CloudError(RuntimeError):
    """The cloud cannot be had as asked; the text says why and what to do."""


def plan(root: Path, hosts: int | None, changes: dict[str, object]) -> list[HostSpec]:
    """Return the hosts of the cloud in ``root`` as they should run: those it has, ``hosts`` of them at least.

    ``changes`` are fields of the cluster that differ from its last start; None stands for no change.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    last, known = load_cluster(root), lifecycle.host_specs(root)
    count = hosts if hosts is not None else max((host.number for host in known), default=1)
    if not 1 <= count <= HOSTS_MAX:
        raise SpecError(f"--hosts is {count}; choose 1 to {HOSTS_MAX}")
    members = MEMBERS if count >= MEMBERS else 1
    if last is None or not known:
        last = ClusterSpec(members=members)
    elif last.members != members:
        raise SpecError(
            f"the cloud in {root} keeps its state on {last.members}, but one of {count} hosts keeps it on {members}; "
            f"choose {'fewer than' if last.members == 1 else 'at least'} {MEMBERS} hosts, "
            "or another data folder: YUNTAI_HOME=… YUNTAI_CLUSTER=…"
        )
    if known and len(known) > count:
        raise SpecError(
            f"the cloud in {root} has {len(known)} hosts already, and --hosts is {count}; leave it out, or choose more"
        )
    cluster = msgspec.structs.replace(last, **given)
    return [_host(cluster, number) for number in range(1, count + 1)]


def _host(cluster: ClusterSpec, number: int) -> HostSpec:
    roles = ALL_ROLES if number <= cluster.members else (ENGINES, STORAGE, COMPUTE)
    return check(HostSpec(cluster=cluster, name=host_name(number), number=number, roles=roles))


def up(specs: list[HostSpec], root: Path, say: Say, timeout_s: float = HEALTHY_S) -> None:
    """Start the hosts at once and wait until every process of each answers; those that run are brought up to date."""
    began_s = time.monotonic()

    def start(spec: HostSpec) -> None:
        ran = running(spec.cluster.home(root), spec.name) is not None
        lifecycle.start(spec, root)
        say(f"{spec.name} {'ran already' if ran else 'runs'}")

    try:
        at_once(start, specs)
        waiting = [spec.name for spec in specs]
        while waiting:
            reports = dict(zip(waiting, at_once(lambda name: report(root, name), waiting), strict=True))
            for name, found in reports.items():
                if found is not None and found.healthy:
                    say(f"{name}: all {len(found.processes)} processes answer")
                    waiting.remove(name)
            if waiting and time.monotonic() - began_s > timeout_s:
                raise CloudError(_what_is_wrong(reports, waiting, timeout_s))
            time.sleep(POLL_S if waiting else 0)
    except KeeperError as error:
        raise CloudError(str(error)) from error


def _what_is_wrong(reports: dict[str, HostStatus | None], waiting: list[str], timeout_s: float) -> str:
    lines = [f"not every process answers after {timeout_s:.0f} s; `yuntai lab status` shows all of them"]
    for name in waiting:
        found = reports[name]
        lines += [f"{name}: it is gone again"] if found is None or found.wrong else []
        lines += [f"{name} {one.name}: {one.wrong}" for one in (found.processes if found else []) if one.wrong]
    return "\n".join(lines)


def down(root: Path, grace_s: float = lifecycle.GUEST_GRACE_S) -> list[str]:
    """Stop every host of the cloud in ``root`` and leave nothing but data; return the names of those that ran.

    In the order of a building that is switched off: what judges hosts first, so that nobody takes the silence of the
    others for their death, then the guests everywhere, then what serves their disks.
    """
    specs = lifecycle.host_specs(root)
    alive = [spec for spec in specs if running(spec.cluster.home(root), spec.name) is not None]
    awake = [spec for spec in alive if not cgroups.is_frozen(cgroups.machine(), spec.netns)]
    if len(alive) > 1:
        at_once(lambda spec: _stop_program(spec, root, "control"), awake)
        at_once(lambda spec: _stop_guests(spec, root, grace_s), awake)
        at_once(lambda spec: _stop_program(spec, root, "gateway"), awake)
        grace_s = 0  # the guests have had it
    stopped = at_once(lambda spec: lifecycle.stop(root, spec.name, grace_s), list(reversed(specs)))
    cluster = load_cluster(root)
    if cluster is not None:
        with cluster_lock(Home(root)):
            sweep(cluster, root)
    return [spec.name for spec, ran in zip(reversed(specs), stopped, strict=True) if ran]


def sweep(cluster: ClusterSpec, root: Path) -> None:
    """Remove what no host's record tells of: everything on the machine that bears the cluster's name."""
    claim = CLAIMS / cluster.name
    if claim.exists() and Path(claim.read_text()) != root:
        return
    trees = cgroups.machine()
    groups = {entry.name for tree in trees for entry in tree.path.iterdir() if fabric.belongs(entry.name, cluster)}
    for group in groups:
        cgroups.remove(trees, group)
    for netns in fabric.hosts_in(cluster):
        fabric.run("ip", "netns", "delete", netns)
    fabric.remove_if_unused(cluster)
    remove_claim(cluster)


def _stop_program(spec: HostSpec, root: Path, name: str) -> None:
    """Stop one program of a host; a host that cannot be asked is stopped as a whole afterwards anyway."""
    try:
        Supervisor(spec.cluster.home(root).host(spec.name).supervisor_socket, STOP_S).stop_if_present(name)
    except SupervisorError as error:
        print(f"{spec.name}: {name} is stopped together with it: {error}")


def _stop_guests(spec: HostSpec, root: Path, grace_s: float) -> None:
    home = spec.cluster.home(root)
    record = running(home, spec.name)
    if record is not None:
        lifecycle.stop_guests(home, spec.name, record, grace_s)


def at_once(work: Callable[[T], R], items: list[T]) -> list[R]:
    """Do ``work`` for every item at the same time and return the results in order; raise the first error, if any."""
    if not items:
        return []
    with ThreadPoolExecutor(len(items)) as pool:
        return [future.result() for future in [pool.submit(work, item) for item in items]]
