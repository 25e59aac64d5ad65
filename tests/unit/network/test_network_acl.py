"""Rules of security groups: what they match, and which one wins."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.network.records import group, rule
from yuntai.network import acl
from yuntai.network.rows import Key


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"protocol": "tcp", "port_range": "22/22"}, "outport == @pg && ip4 && tcp && tcp.dst == 22"),
        ({"protocol": "udp", "port_range": "1/9"}, "outport == @pg && ip4 && udp && 1 <= udp.dst <= 9"),
        ({"protocol": "tcp", "port_range": "1/65535"}, "outport == @pg && ip4 && tcp"),
        ({"protocol": "icmp", "cidr": "0.0.0.0/0"}, "outport == @pg && icmp4"),
        ({"protocol": "gre"}, "outport == @pg && ip4 && ip.proto == 47"),
        ({"cidr": "10.1.2.3/8"}, "outport == @pg && ip4 && ip4.src == 10.0.0.0/8"),
        ({"cidr": "10.1.2.3"}, "outport == @pg && ip4 && ip4.src == 10.1.2.3"),
        ({"cidr": "10.1.2.3/32", "direction": "egress"}, "inport == @pg && ip4 && ip4.dst == 10.1.2.3"),
        ({"group": "sg-2"}, "outport == @pg && ip4 && ip4.src == $pg_sg_2_ip4"),
        ({"group": "sg-2", "direction": "egress"}, "inport == @pg && ip4 && ip4.dst == $pg_sg_2_ip4"),
    ],
)
def test_what_a_rule_matches(changes: dict[str, str], match: str) -> None:
    assert acl.rule_match("pg", rule(**changes), {"sg-2"}) == match


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"protocol": "tcp", "port_range": "0/22"}, "port_range"),
        ({"protocol": "tcp", "port_range": "22"}, "port_range"),
        ({"protocol": "tcp", "port_range": "9/8"}, "port_range"),
        ({"protocol": "tcp", "port_range": "22/22 || 1"}, "port_range"),
        ({"protocol": "icmp", "port_range": "22/22"}, "no ports"),
        ({"cidr": "10.0.0.0/33"}, "cidr"),
        ({"cidr": "::/0"}, "cidr"),
        ({"cidr": "0.0.0.0/0 || ip4"}, "cidr"),
        ({"group": "sg-9"}, "sg-9"),
        ({"priority": 0}, "priority"),
        ({"priority": 101}, "priority"),
    ],
)
def test_a_rule_that_cannot_be_expressed_is_left_out_and_said_so(changes: dict[str, object], word: str) -> None:
    bad, good = rule("sgr-bad", **changes), rule("sgr-good")
    rows, problems = acl.group_rows(group("sg-1", bad, good), [], {"sg-1": group()})
    assert Key("ACL", "sg-1/sgr-bad") not in rows
    assert Key("ACL", "sg-1/sgr-good") in rows
    (problem,) = problems
    assert "sg-1" in problem
    assert "sgr-bad" in problem
    assert word in problem


def test_every_pair_of_rules_is_ordered_as_ecs_orders_them() -> None:
    cases = list(itertools.product(range(1, 101), ("accept", "drop")))
    ordered = sorted(cases, key=lambda case: (case[0], case[1] != "drop"))
    got = sorted(cases, key=lambda case: -acl.rule_priority(rule(priority=case[0], policy=case[1])))
    assert got == ordered
    priorities = {acl.rule_priority(rule(priority=number, policy=policy)) for number, policy in cases}
    assert len(priorities) == len(cases)
    assert 500 < min(priorities) < max(priorities) < 32000


@pytest.mark.parametrize(
    ("kind", "inner", "reach"), [("normal", "Accept", True), ("normal", "Drop", False), ("enterprise", "Accept", False)]
)
def test_members_reach_each_other_where_the_group_says_so(kind: str, inner: str, reach: bool) -> None:
    one = group("sg-1", kind=kind, inner_access=inner)
    rows, _ = acl.group_rows(one, [], {"sg-1": one})
    assert (Key("ACL", "sg-1/inner") in rows) == reach


def test_the_platforms_lists_stand_above_and_below_every_rule() -> None:
    rows = acl.platform_rows([Key("Logical_Switch_Port", "p")])
    priority = {key.id.partition("/")[2]: row.columns["priority"] for key, row in rows.items() if key.table == "ACL"}
    assert priority["rogue-dhcp"] > priority["metadata"] == priority["dhcp"] == 32000
    assert priority["egress"] == priority["ingress"] == 100
    assert rows[Key("Port_Group", acl.PLATFORM)].refs["ports"] == {Key("Logical_Switch_Port", "p")}
