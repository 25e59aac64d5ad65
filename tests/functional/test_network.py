"""The network on the real engines: OVN, OVS and namespaces of one lab host. Guests are namespaces on br-int."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.functional import network_scripts as scripts
from tests.functional.network_site import ALLOW_ALL, Guest, Site
from yuntai.lab.layout import Home, default_home
from yuntai.model.network import Rule
from yuntai.network import addresses, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.model.network import VSwitch

pytestmark = [pytest.mark.functional, pytest.mark.timeout(120)]
CIDR = "10.1.0.0/16"
SUBNET = "10.1.1.0/24"
HTTP = Rule(id="sgr-http", direction="ingress", protocol="tcp", port_range="8000/8000", cidr="0.0.0.0/0")


@pytest.fixture(scope="module")
def host() -> Iterator[Site]:
    if not Home(default_home()).image.exists():
        pytest.skip("no host image; run: make test")
    site = Site.start(Path(tempfile.mkdtemp(prefix="ytnet")))
    yield site
    site.stop()


@pytest.fixture
def site(host: Site) -> Iterator[Site]:
    yield host
    host.clear()


def _net(site: Site, number: int = 20) -> VSwitch:
    return site.vswitch(site.vpc(CIDR, number), SUBNET)


def _pair(site: Site, *rules: Rule, inner: str = "Drop") -> tuple[Guest, Guest, Site]:
    """Return a guest, and one behind a group with these rules that serves `hello` on port 8000."""
    vswitch = _net(site)
    vpc = site.vpcs[vswitch.vpc]
    client = site.guest(vswitch, "10.1.1.10", site.group(vpc))
    server = site.guest(vswitch, "10.1.1.11", site.group(vpc, *rules, inner=inner))
    server.serve(8000, "hello")
    return client, server, site


def test_dhcp_gives_address_routes_name_and_mtu(site: Site) -> None:
    vswitch = _net(site)
    guest = site.guest(vswitch, "10.1.1.10", hostname="web-1", addressed=False)
    script = "#!/bin/sh\n[ $1 = bound ] && env\nexit 0\n"
    site.run("sh", "-c", f"printf %s '{script}' > /tmp/udhcpc-print && chmod 755 /tmp/udhcpc-print")
    done = guest.run(
        *("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", "/tmp/udhcpc-print"),
        *("-O", "hostname", "-O", "mtu", "-O", "staticroutes", "-O", "dns"),
    )
    got = dict(line.partition("=")[::2] for line in done["out"].splitlines() if "=" in line)
    assert got["ip"] == "10.1.1.10", done
    assert (got["mask"], got["router"], got["dns"]) == ("24", "10.1.1.1", "10.1.1.252")
    assert (got["mtu"], got["hostname"]) == ("1400", "web-1")
    assert got["staticroutes"] == "100.100.100.200/32 10.1.1.252 169.254.169.254/32 10.1.1.252 0.0.0.0/0 10.1.1.1"


def test_metadata_is_reached_even_when_the_group_refuses_everything(site: Site) -> None:
    vswitch = _net(site)
    refuse = [
        Rule(id=f"sgr-{way}", direction=way, protocol="all", cidr="0.0.0.0/0", policy="drop")
        for way in ("ingress", "egress")
    ]
    guest = site.guest(vswitch, "10.1.1.10", site.group(site.vpcs[vswitch.vpc], *refuse))
    site.serve(site.service_netns(vswitch), 80, "meta")
    for address in addresses.METADATA:
        site.until(lambda address=address: guest.get(f"http://{address}/") == "meta", f"metadata at {address}")


def test_operator_reaches_a_guest_from_the_hosts_namespace(site: Site) -> None:
    vswitch = _net(site)
    guest = site.guest(vswitch, "10.1.1.10", site.group(site.vpcs[vswitch.vpc], HTTP))
    guest.serve(8000, "way in")
    netns = site.service_netns(vswitch)
    fetch = ("ip", "netns", "exec", netns, "busybox", "wget", "-q", "-T", "2", "-O", "-", "http://10.1.1.10:8000/")
    site.until(lambda: site.run(*fetch)["out"] == "way in", "a connection from the namespace")


def test_ingress_is_refused_until_a_rule_allows_and_open_connections_are_cut_when_it_is_revoked(site: Site) -> None:
    vswitch = _net(site)
    vpc = site.vpcs[vswitch.vpc]
    client, group = site.guest(vswitch, "10.1.1.10", site.group(vpc)), site.group(vpc, inner="Drop")
    server = site.guest(vswitch, "10.1.1.11", group)
    site.ask("spawn", command=["ip", "netns", "exec", server.netns, "python3", "-c", scripts.ECHO])
    site.run("sh", "-c", f"cat > /tmp/talk.py <<'E'\n{scripts.TALK}E")
    talk = ["sh", "-c", f"exec ip netns exec {client.netns} python3 /tmp/talk.py > /tmp/talk.out"]
    site.ask("spawn", command=talk)

    def lines() -> list[str]:
        return site.run("cat", "/tmp/talk.out")["out"].splitlines()

    time.sleep(1)
    assert lines() == []
    for word, rules in (("answers", [HTTP]), ("silent", []), ("answers", [HTTP]), ("silent", [])):
        before, changed_s = len(lines()), time.time()
        site.set_rules(group, *rules)
        site.until(lambda before=before: len(lines()) > before, f"the connection {word}")
        what, at = lines()[before].split()
        assert what == word
        print(f"{word} {float(at) - changed_s:.3f} s after the rules were written")
        time.sleep(0.5)
    assert len(lines()) == 4


def test_drop_wins_at_equal_priority_and_the_lower_number_wins_over_it(site: Site) -> None:
    client, server, _ = _pair(site, HTTP)
    (group,) = server.port.security_groups
    site.until(lambda: client.get("http://10.1.1.11:8000/", 1) == "hello", "the allowed page")
    drop = Rule(id="sgr-drop", direction="ingress", protocol="tcp", port_range="8000/8000", policy="drop")
    site.set_rules(site.groups[group], HTTP, drop)
    site.until(lambda: client.get("http://10.1.1.11:8000/", 1) is None, "drop at equal priority")
    later = Rule(id="sgr-drop", direction="ingress", protocol="all", policy="drop", priority=2)
    site.set_rules(site.groups[group], HTTP, later)
    site.until(lambda: client.get("http://10.1.1.11:8000/", 1) == "hello", "accept of priority 1 before drop of 2")


def test_members_reach_each_other_and_a_rule_may_name_a_group(site: Site) -> None:
    vswitch = _net(site)
    vpc = site.vpcs[vswitch.vpc]
    web, database = site.group(vpc), site.group(vpc, inner="Drop")
    first, second = (site.guest(vswitch, f"10.1.1.{n}", web) for n in (10, 11))
    third = site.guest(vswitch, "10.1.1.12", database)
    site.until(lambda: first.pings("10.1.1.11"), "a member of the same group")
    assert second.pings("10.1.1.10")
    assert not first.pings("10.1.1.12")
    site.set_rules(database, Rule(id="sgr-web", direction="ingress", protocol="icmp", group=web.id))
    site.until(lambda: first.pings("10.1.1.12"), "a member of the group that the rule names")
    assert not third.pings("10.1.1.10")


def test_a_guest_cannot_use_an_address_or_mac_that_is_not_its_own(site: Site) -> None:
    vswitch = _net(site)
    group = site.group(site.vpcs[vswitch.vpc], ALLOW_ALL)
    guest, peer = (site.guest(vswitch, f"10.1.1.{n}", group) for n in (10, 11))
    site.until(lambda: guest.pings("10.1.1.11"), "an honest ping")
    guest.run("ip", "address", "add", "10.1.1.99/24", "dev", "eth0")
    assert not guest.pings("10.1.1.11", "-I", "10.1.1.99")
    guest.run("ip", "link", "set", "eth0", "address", "00:16:3e:99:99:99")
    assert not guest.pings("10.1.1.11")
    guest.run("ip", "link", "set", "eth0", "address", guest.port.mac)
    site.until(lambda: guest.pings("10.1.1.11"), "an honest ping again")
    assert peer.pings("10.1.1.10")


def test_a_guest_cannot_play_dhcp_server(site: Site) -> None:
    vswitch = _net(site)
    group = site.group(site.vpcs[vswitch.vpc], ALLOW_ALL)
    rogue, victim = (site.guest(vswitch, f"10.1.1.{n}", group) for n in (10, 11))
    listen = ["sh", "-c", f"exec ip netns exec {victim.netns} python3 -c '{scripts.LISTEN}' > /tmp/offers"]
    site.ask("spawn", command=listen)

    def heard() -> str:
        assert rogue.run("python3", "-c", scripts.OFFER)["code"] == 0
        return site.run("cat", "/tmp/offers")["out"]

    site.until(lambda: "6767" in heard(), "the harmless packet")
    assert "67" not in heard().split()


def test_two_vpcs_with_the_same_addresses_do_not_meet(site: Site) -> None:
    ours, theirs = _net(site, 20), _net(site, 21)
    guests = {}
    for name, vswitch in (("ours", ours), ("theirs", theirs)):
        group = site.group(site.vpcs[vswitch.vpc], ALLOW_ALL)
        guests[name] = [site.guest(vswitch, f"10.1.1.{n}", group) for n in (10, 11)]
        guests[name][1].serve(8000, name)
    for name, (client, _) in guests.items():
        site.until(lambda c=client, n=name: c.get("http://10.1.1.11:8000/") == n, f"the page of {name}")
    only = site.guest(theirs, "10.1.1.50", site.group(site.vpcs[theirs.vpc], ALLOW_ALL))
    assert guests["theirs"][0].pings("10.1.1.50")
    assert not guests["ours"][0].pings("10.1.1.50")
    assert only.pings("10.1.1.10")


def test_vswitches_of_one_vpc_are_routed(site: Site) -> None:
    vpc = site.vpc(CIDR, 20)
    group = site.group(vpc, ALLOW_ALL)
    one = site.guest(site.vswitch(vpc, "10.1.1.0/24"), "10.1.1.10", group)
    two = site.guest(site.vswitch(vpc, "10.1.2.0/24"), "10.1.2.10", group)
    site.until(lambda: one.pings("10.1.2.10"), "a guest in another vSwitch")
    assert two.pings("10.1.1.10")


def test_guests_leave_by_the_routers_address_and_never_reach_the_hosts_management_side(site: Site) -> None:
    guest = site.guest(_net(site, 33), "10.1.1.10")
    site.ask("spawn", command=["python3", "-c", scripts.WHO_ASKS])
    site.until(lambda: guest.get("http://100.64.0.1:8099/") == "100.64.0.33", "an answer from outside")
    # The same server listens on the management address; only the provider network's is for guests.
    local = site.run("busybox", "wget", "-q", "-T", "2", "-O", "-", f"http://{site.spec.address}:8099/")
    assert local["out"] == site.spec.address
    assert guest.get(f"http://{site.spec.address}:8099/") is None


def test_names_of_a_vpc_are_answered(site: Site) -> None:
    vswitch = _net(site)
    guest = site.guest(vswitch, "10.1.1.10", hostname="web-1")
    answer = ("python3", "-c", scripts.RESOLVE)
    site.until(lambda: guest.run(*answer)["out"].strip() == "10.1.1.10", "the name's address")


def test_what_is_deleted_or_changed_by_hand_comes_back_and_foreign_rows_stay(site: Site) -> None:
    vswitch = _net(site)
    guest = site.guest(vswitch, "10.1.1.10")
    site.nbctl("ls-add", "foreign", "--", "lsp-add", "foreign", "foreign-port")
    site.nbctl("lsp-add", vswitch.id, "foreign-guest")
    site.nbctl("lsp-del", guest.port.id)
    port = ("--if-exists", "get", "Logical_Switch_Port", guest.port.id)
    repaired_s = site.until(lambda: guest.port.ip in site.nbctl(*port, "addresses"), "the deleted port")
    site.nbctl("set", "Logical_Switch_Port", guest.port.id, "port_security=[]")
    site.until(lambda: guest.port.ip in site.nbctl(*port, "port_security"), "port security")
    site.nbctl("clear", "Logical_Switch_Port", guest.port.id, "external_ids")
    site.until(lambda: "yuntai:id" in site.nbctl(*port, "external_ids"), "our mark")
    site.nbctl("clear", "Logical_Switch", vswitch.id, "ports")
    site.until(lambda: guest.port.id in site.nbctl("lsp-list", vswitch.id), "the switch's ports")
    assert "foreign-port" in site.nbctl("lsp-list", "foreign")
    site.nbctl("ls-del", "foreign")
    log = site.central.log.read_text()
    assert f"Logical_Switch_Port {guest.port.id}" in log
    print(f"deleted port back after {repaired_s:.2f} s")


@pytest.mark.parametrize("emptied", ["rows", "database"])
def test_an_emptied_ovn_is_rebuilt(site: Site, emptied: str) -> None:
    vswitch = _net(site)
    group = site.group(site.vpcs[vswitch.vpc], ALLOW_ALL)
    one, two = (site.guest(vswitch, f"10.1.1.{n}", group) for n in (10, 11))
    site.until(lambda: one.pings("10.1.1.11"), "a ping")
    if emptied == "rows":
        tables = "Logical_Switch Logical_Router Port_Group DHCP_Options DNS"
        script = f"for t in {tables}; do ovn-nbctl --timeout=5 --all destroy $t; done"
    else:
        control = "/opt/yuntai/venv/bin/supervisorctl -c /etc/yuntai/supervisord.conf"
        script = f"{control} stop ovn-nb; rm /var/lib/yuntai/ovn/ovnnb.db; {control} start ovn-nb"
    done = site.run("sh", "-c", script, timeout_s=40)
    assert done["code"] == 0, done
    rebuilt_s = site.until(lambda: one.port.id in site.run("ovn-nbctl", "--timeout=5", "show")["out"], "rows")
    working_s = site.until(lambda: one.pings("10.1.1.11") and two.pings("10.1.1.10"), "a ping after that")
    print(f"{emptied}: rows back after {rebuilt_s:.2f} s, ping after {working_s:.2f} s more")


def test_metadata_survives_a_restart_of_the_switch_daemon(site: Site) -> None:
    vswitch = _net(site)
    guest = site.guest(vswitch, "10.1.1.10")
    site.serve(site.service_netns(vswitch), 80, "meta")
    site.until(lambda: guest.get("http://100.100.100.200/") == "meta", "metadata")
    # The pid of the host's own daemon, from its own pid file; the supervisor starts it again.
    assert site.run("sh", "-c", "kill -9 $(cat /run/openvswitch/ovs-vswitchd.pid)")["code"] == 0
    back_s = site.until(lambda: guest.get("http://100.100.100.200/", 1) == "meta", "metadata after the restart")
    print(f"metadata back {back_s:.2f} s after kill -9 of ovs-vswitchd")


def test_a_namespace_lives_as_long_as_its_vswitch_has_a_guest_here(site: Site) -> None:
    vswitch = _net(site)
    guest = site.guest(vswitch, "10.1.1.10")
    netns = site.service_netns(vswitch)
    site.run("ip", "netns", "exec", netns, "ip", "link", "delete", "eth0")
    site.until(lambda: "100.100.100.200" in site.run("ip", "-n", netns, "address")["out"], "the lost link")
    site.ask("delete", kind="port", id=guest.port.id)
    site.until(lambda: netns not in site.run("ip", "netns", "list")["out"], "the removal")
    interface = names.host_interface(vswitch.id)
    site.until(lambda: interface not in site.run("ovs-vsctl", "list-ports", "br-int")["out"], "the interface's removal")
