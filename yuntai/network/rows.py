"""OVN northbound content as plain data, and the difference between two contents. Pure.

A row is known by its table and our own id, which every row of ours carries in ``external_ids:yuntai:id``. Rows
without it are somebody else's: they are not in a :data:`Content`, so nothing here can touch them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

ID_KEY = "yuntai:id"
OWN_PREFIX = "yuntai:"

Value: TypeAlias = str | int | bool | tuple[str, ...] | Mapping[str, str]
"""A column: a scalar, a sorted tuple for a set (also for an optional column: none or one), or a map."""


class Key(NamedTuple):
    """Names a row: its table, and our id."""

    table: str
    id: str


@dataclass(frozen=True, slots=True)
class Row:
    """The columns that we own of a row, and its references to other rows of ours."""

    columns: Mapping[str, Value]
    refs: Mapping[str, frozenset[Key]] = field(default_factory=dict)


Content: TypeAlias = Mapping[Key, Row]

# The tables that we write, with the columns that refer to other rows. ovn-nb(5) has them all.
REFERENCES: Mapping[str, Mapping[str, str]] = {
    "Logical_Switch": {"ports": "Logical_Switch_Port", "dns_records": "DNS", "acls": "ACL"},
    "Logical_Switch_Port": {"dhcpv4_options": "DHCP_Options"},
    "Logical_Router": {
        "ports": "Logical_Router_Port",
        "nat": "NAT",
        "static_routes": "Logical_Router_Static_Route",
    },
    "Logical_Router_Port": {"gateway_chassis": "Gateway_Chassis"},
    "Logical_Router_Static_Route": {},
    "NAT": {},
    "Gateway_Chassis": {},
    "DHCP_Options": {},
    "DNS": {},
    "Port_Group": {"ports": "Logical_Switch_Port", "acls": "ACL"},
    "ACL": {},
}


@dataclass(frozen=True, slots=True)
class Update:
    """What of one row is to be changed: columns to set, references to add and to take away."""

    columns: Mapping[str, Value]
    add: Mapping[str, frozenset[Key]]
    remove: Mapping[str, frozenset[Key]]


@dataclass(frozen=True, slots=True)
class Changes:
    """How to get from one content to another."""

    create: Mapping[Key, Row] = field(default_factory=dict)
    update: Mapping[Key, Update] = field(default_factory=dict)
    delete: tuple[Key, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.create or self.update or self.delete)

    def __len__(self) -> int:
        return len(self.create) + len(self.update) + len(self.delete)

    def keys(self) -> set[Key]:
        """Return the rows that change."""
        return {*self.create, *self.update, *self.delete}


def diff(wanted: Content, actual: Content) -> Changes:
    """Return what makes ``actual`` hold exactly the rows of ``wanted``, with their columns and references.

    A row of ``actual`` may hold columns and references that ``wanted`` does not name; those are left alone.
    """
    update: dict[Key, Update] = {}
    for key, row in wanted.items():
        present = actual.get(key)
        if present is not None and (change := _update(row, present)) is not None:
            update[key] = change
    return Changes(
        create={key: row for key, row in wanted.items() if key not in actual},
        update=update,
        delete=tuple(sorted(key for key in actual if key not in wanted)),
    )


def apply(content: Content, changes: Changes) -> dict[Key, Row]:
    """Return ``content`` after ``changes``. The twin of OVN uses it; a test holds ``apply(a, diff(w, a)) == w``."""
    result = {key: row for key, row in content.items() if key not in changes.delete}
    result.update(changes.create)
    for key, change in changes.update.items():
        old = result[key]
        refs = dict(old.refs)
        for column in {*change.add, *change.remove}:
            kept = refs.get(column, frozenset()) - change.remove.get(column, frozenset())
            refs[column] = kept | change.add.get(column, frozenset())
        result[key] = Row(columns={**old.columns, **change.columns}, refs=refs)
    return result


def _update(wanted: Row, present: Row) -> Update | None:
    columns = {name: value for name, value in wanted.columns.items() if present.columns.get(name) != value}
    add: dict[str, frozenset[Key]] = {}
    remove: dict[str, frozenset[Key]] = {}
    for name, keys in wanted.refs.items():
        there = present.refs.get(name, frozenset())
        if missing := keys - there:
            add[name] = missing
        if surplus := there - keys:
            remove[name] = surplus
    return Update(columns, add, remove) if columns or add or remove else None
