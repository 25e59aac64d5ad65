"""From records to rows."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.network.records import group, port, rule, vpc, vswitch
from yuntai.network import plan
from yuntai.network.northbound import check_references
from yuntai.network.ovn import COLUMNS
from yuntai.network.plan import Records, build
from yuntai.network.rows import REFERENCES, Content, Key, apply, diff


def _full(**changes: object) -> Records:
    fields = {"vpcs": [vpc()], "vswitches": [vswitch()], "groups": [group()], "ports": [port()], "hosts": ["h1"]}
    return Records(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_guest_port() -> None:
    made = port(host="h1", hostname="web", instance="i-1")
    row = build(_full(ports=[made])).content[Key("Logical_Switch_Port", "port-1")]
    assert row.columns["name"] == "port-1"
    assert row.columns["addresses"] == row.columns["port_security"] == ("00:16:3e:01:01:0a 10.1.1.10",)
    assert row.columns["options"] == {"requested-chassis": "h1", "hostname": '"web"'}
    assert row.refs == {"dhcpv4_options": {Key("DHCP_Options", "vsw-1")}}
    assert row.columns["external_ids"] == {
        "yuntai:id": "port-1", "yuntai:eni": "eni-port-1", "yuntai:instance": "i-1",
    }  # fmt: skip


def test_a_port_that_migrates_is_bound_on_both_hosts() -> None:
    row = build(_full(ports=[port(host="h1", destination="h2")])).content[Key("Logical_Switch_Port", "port-1")]
    assert row.columns["options"] == {"requested-chassis": "h1,h2", "activation-strategy": "rarp"}


def test_the_service_port_has_the_metadata_addresses() -> None:
    content = build(_full()).content
    row = content[Key("Logical_Switch_Port", "vsw-1/service")]
    (address,) = row.columns["addresses"]
    assert re.fullmatch(r"02(:[0-9a-f]{2}){5} 10\.1\.1\.252 100\.100\.100\.200 169\.254\.169\.254", address)
    assert row.columns["type"] == "localport"
    options = content[Key("DHCP_Options", "vsw-1")].columns["options"]
    assert options["server_mac"] == content[Key("Logical_Router_Port", "vsw-1/router")].columns["mac"]
    assert options["classless_static_route"] == (
        "{100.100.100.200/32,10.1.1.252, 169.254.169.254/32,10.1.1.252, 0.0.0.0/0,10.1.1.1}"
    )


def test_a_vpc_without_an_outer_address_has_no_way_out() -> None:
    content = build(_full(vpcs=[vpc(ext_ip="")])).content
    assert not [key for key in content if key.table in {"NAT", "Gateway_Chassis", "Logical_Router_Static_Route"}]
    assert Key("Logical_Router", "vpc-1") in content


def test_gateways_spread_and_move_only_where_they_must() -> None:
    hosts = [f"h{n}" for n in range(1, 7)]
    before = {f"vpc-{n}": plan.gateway_hosts(f"vpc-{n}", hosts)[0] for n in range(600)}
    after = {vpc_id: plan.gateway_hosts(vpc_id, hosts[:-1])[0] for vpc_id in before}
    assert all(after[vpc_id] == host for vpc_id, host in before.items() if host != "h6")
    counts = [list(before.values()).count(host) for host in hosts]
    assert min(counts) > 60
    assert plan.gateway_hosts("vpc-1", []) == []


def test_bad_records_are_left_out_one_by_one_and_said_so() -> None:
    records = _full(
        vswitches=[vswitch(), vswitch("vsw-2", vpc="vpc-9"), vswitch("vsw-3", cidr="10.0.0.0/30")],
        ports=[
            port(),
            port("port-2"),
            port("port-3", ip="10.1.1.1"),
            port("port-4", ip="10.2.0.1"),
            port("port-5", vswitch="vsw-2"),
            port("port-6", ip="10.1.1.6", security_groups=("sg-9",)),
        ],
    )
    made = build(records)
    ports = {key.id for key in made.content if key.table == "Logical_Switch_Port" and key.id.startswith("port-")}
    assert ports == {"port-1", "port-6"}
    for name in ("vsw-2", "vsw-3", "port-2", "port-3", "port-4", "port-5", "sg-9"):
        assert any(name in problem for problem in made.problems), name
    check_references(made.content)
    # A port in a group that does not exist is still under the platform's defaults.
    assert Key("Logical_Switch_Port", "port-6") in made.content[Key("Port_Group", "platform")].refs["ports"]


_OCTET = st.integers(2, 9)
_PORTS = st.lists(
    st.builds(
        lambda n, v, ip, g: port(f"port-{n}", vswitch=f"vsw-{v}", ip=f"10.1.{v}.{ip}", security_groups=tuple(g)),
        st.integers(1, 6), st.integers(1, 3), _OCTET, st.sets(st.sampled_from(["sg-1", "sg-2", "sg-3"])),
    ),
    unique_by=lambda made: made.id,
)  # fmt: skip
_RECORDS = st.builds(
    lambda vpcs, vswitches, groups, ports, hosts: Records(
        vpcs=[vpc(f"vpc-{n}", ext_ip=ip) for n, ip in vpcs.items()],
        vswitches=[vswitch(f"vsw-{n}", vpc=f"vpc-{v}", cidr=f"10.1.{n}.0/24") for n, v in vswitches.items()],
        groups=[group(f"sg-{n}", rule(group=f"sg-{peer}")) for n, peer in groups.items()],
        ports=ports,
        hosts=sorted(hosts),
    ),
    st.dictionaries(st.integers(1, 2), st.sampled_from(["", "100.64.0.20"])),
    st.dictionaries(st.integers(1, 3), st.integers(1, 2)),
    st.dictionaries(st.integers(1, 3), st.integers(1, 3)),
    _PORTS,
    st.sets(st.sampled_from(["h1", "h2", "h3", "h4"])),
)


@given(_RECORDS)
@settings(max_examples=150, deadline=None)
def test_any_records_give_rows_that_ovsdb_accepts(records: Records) -> None:
    content = build(records).content
    check_references(content)
    for key, row in content.items():
        assert row.columns.keys() <= {*COLUMNS[key.table], "external_ids"}
        assert row.refs.keys() <= REFERENCES[key.table].keys()
        assert row.columns["external_ids"]["yuntai:id"] == key.id  # type: ignore[index,call-overload]


@given(_RECORDS, _RECORDS)
@settings(max_examples=150, deadline=None)
def test_the_difference_leads_from_any_content_to_any_other(one: Records, two: Records) -> None:
    before, after = build(one).content, build(two).content
    reached = apply(before, diff(after, before))
    assert _plain(reached) == _plain(after)
    assert not diff(after, reached)


def _plain(content: Content) -> dict[Key, object]:
    return {key: (row.columns, {name: refs for name, refs in row.refs.items() if refs}) for key, row in content.items()}
