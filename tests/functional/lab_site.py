"""A lab host of a test's own: a cluster name, networks and a data folder that meet nobody else's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from yuntai.lab import cgroups, fabric, lifecycle
from yuntai.lab.layout import CLAIMS, Home, default_home
from yuntai.lab.processes import processes_with
from yuntai.lab.record import Record, running
from yuntai.lab.spec import CENTRAL, ENGINES, ClusterSpec, HostSpec


def require_lab() -> Path:
    """Return the home whose image the tests share; skip where a lab cannot be."""
    images = Home(default_home())
    if os.geteuid() != 0:
        pytest.skip("a lab host needs root")
    if not (images.image_venv / "bin/supervisord").exists():
        pytest.skip("no host image; run: make test")
    return images.root


def engines_only(images: Path, name: str) -> HostSpec:
    """Return a host with etcd, OVN, OVS and libvirt, and nothing of ours."""
    cluster = ClusterSpec(
        name=name,
        management="10.79.0.0/24",
        underlay="172.17.0.0/24",
        external="100.65.0.0/24",
        api_port=0,
        images=str(images),
    )
    return HostSpec(cluster=cluster, roles=(CENTRAL, ENGINES))


class Site:
    """One host, started from a folder of its own."""

    def __init__(self, root: Path, spec: HostSpec) -> None:
        self.root, self.spec = root, spec
        self.home = spec.cluster.home(root)

    def start(self) -> Record:
        """Start the host."""
        return lifecycle.start(self.spec, self.root)

    def stop(self) -> bool:
        """Stop the host."""
        return lifecycle.stop(self.root, self.spec.name, grace_s=2)

    def record(self) -> Record:
        """Return the running host's record."""
        record = running(self.home, self.spec.name)
        assert record is not None
        return record

    def leftovers(self) -> list[str]:
        """Return everything that the cluster has left on the machine, its data aside."""
        return leftovers(self.spec.cluster, self.root)


def leftovers(cluster: ClusterSpec, root: Path) -> list[str]:
    """Return everything that the cluster with its data in ``root`` has left on the machine, its data aside."""
    name, fabric_path = f"yt-{cluster.name}-", f"/run/netns/{cluster.fabric}"
    found = [entry for entry in fabric.namespaces() if entry.startswith(name)]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(root) in line]
    for tree in cgroups.machine():
        found += [str(path) for path in tree.path.glob(f"{name}*")]
    found += [str(path) for host in lifecycle.host_names(root) for path in Home(root).host(host).run.iterdir()]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, timeout=10, check=True).stdout
    found += [line for line in links.splitlines() if "mgmt-" in line or "under-" in line or "ext-" in line]
    claim = CLAIMS / cluster.name
    found += [str(claim)] if claim.exists() else []
    return found + [f"process {one.pid}" for word in (str(root), fabric_path) for one in processes_with(word)]
