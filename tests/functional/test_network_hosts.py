"""The network over two hosts: the overlay between them, each host's own metadata, a port that moves, the way out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.functional import network_scripts as scripts
from tests.functional.network_site import ALLOW_ALL, Guest, Site
from yuntai.lab.layout import Home, default_home

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.functional, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Site]:
    if not Home(default_home()).image.exists():
        pytest.skip("no host image; run: make test")
    site = Site.start(Path(tempfile.mkdtemp(prefix="ytnet")), hosts=2)
    yield site
    site.stop()


@pytest.fixture
def site(hosts: Site) -> Iterator[Site]:
    yield hosts
    hosts.clear()


def _pair(site: Site) -> tuple[Guest, Guest]:
    vswitch = site.vswitch(site.vpc("10.1.0.0/16", 20), "10.1.1.0/24")
    group = site.group(site.vpcs[vswitch.vpc], ALLOW_ALL)
    one, two = (site.guest(vswitch, f"10.1.1.1{n}", group, host=host) for n, host in enumerate(site.hosts))
    return one, two


def test_guests_on_two_hosts_reach_each_other_and_each_its_own_hosts_metadata(site: Site) -> None:
    one, two = _pair(site)
    site.until(lambda: one.pings(two.port.ip), "a ping through the tunnel")
    two.serve(8000, "large " * 20_000)
    # The server is only just starting.
    site.until(lambda: len(one.get(f"http://{two.port.ip}:8000/") or "") == 120_000, "a page of many full packets")
    vswitch = site.vswitches[one.port.vswitch]
    for host, guest in zip(site.hosts, (one, two), strict=True):
        host.serve(host.service_netns(vswitch), 80, f"meta of {host.spec.name}")
        expected = f"meta of {host.spec.name}"
        site.until(lambda g=guest, e=expected: g.get("http://100.100.100.200/") == e, expected)


def test_both_hosts_guests_leave_by_the_routers_address(site: Site) -> None:
    site.ask("spawn", command=["python3", "-c", scripts.WHO_ASKS])
    for guest in _pair(site):
        site.until(lambda g=guest: g.get("http://100.64.0.1:8099/") == "100.64.0.20", "an answer from outside")


def test_a_port_moves_with_its_address(site: Site) -> None:
    one, two = _pair(site)
    site.until(lambda: two.pings(one.port.ip), "a ping before the move")
    target = site.hosts[1]
    site.put(msgspec.structs.replace(one.port, destination=target.spec.name))
    moved = Guest(target, one.port, one.cidr)
    moved.plug()
    moved.address()
    both = ("get", "Logical_Switch_Port", one.port.id, "options")
    site.until(lambda: "h1,h2" in site.nbctl(*both), "the port on both hosts")
    assert two.pings(one.port.ip), "the old host serves until the new one is told to"
    one.unplug()
    site.put(msgspec.structs.replace(one.port, host=target.spec.name))
    one.host = target
    moved_s = site.until(lambda: two.pings(one.port.ip), "a ping after the move")
    vswitch = site.vswitches[one.port.vswitch]
    target.serve(target.service_netns(vswitch), 80, "meta here")
    site.until(lambda: one.get("http://100.100.100.200/") == "meta here", "metadata after the move")
    netns = f"vsw-{vswitch.id}"
    site.until(lambda: netns not in site.run("ip", "netns", "list")["out"], "the old host's namespace to go")
    print(f"answers {moved_s:.2f} s after the move's end")
