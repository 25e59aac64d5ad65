"""The seam to OVN's northbound database: what the syncer needs of it, and its twin in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from yuntai.network import rows
from yuntai.network.rows import REFERENCES, Changes, Content, Key, Row

if TYPE_CHECKING:
    from collections.abc import Callable

# Rows of these tables live as long as another refers to them: ovn-nb.ovsschema has no isRoot for them.
OWNED_TABLES = frozenset(
    {
        "ACL",
        "Gateway_Chassis",
        "Logical_Router_Port",
        "Logical_Router_Static_Route",
        "Logical_Switch_Port",
        "NAT",
    }
)


class NorthboundError(Exception):
    """The database cannot be reached or refused a change. The next sync tries again."""


class Northbound(Protocol):
    """A northbound database."""

    async def apply(self, content: Content) -> Changes:
        """Make our rows those of ``content`` in one transaction and return what had to change.

        Raise :class:`NorthboundError` within a bounded time when that was not possible.
        """

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the event loop after anybody changed a row of the tables that we write."""

    async def close(self) -> None:
        """Let go of the connection."""


class MemoryNorthbound:
    """The twin: the same diff on a dictionary, with the checks that OVSDB makes of references."""

    def __init__(self) -> None:
        self.content: dict[Key, Row] = {}
        self.unreachable = False
        self.applied: list[Changes] = []
        self._callback: Callable[[], None] | None = None

    async def apply(self, content: Content) -> Changes:
        """See :meth:`Northbound.apply`."""
        if self.unreachable:
            raise NorthboundError("the twin was told to be unreachable")
        changes = rows.diff(content, self.content)
        after = rows.apply(self.content, changes)
        check_references(after)
        self.content = after
        self.applied.append(changes)
        return changes

    def on_change(self, callback: Callable[[], None]) -> None:
        """See :meth:`Northbound.on_change`."""
        self._callback = callback

    def tamper(self, content: Content) -> None:
        """Replace everything behind the syncer's back, as an operator with ovn-nbctl would."""
        self.content = dict(content)
        if self._callback is not None:
            self._callback()

    async def close(self) -> None:
        """See :meth:`Northbound.close`."""


def check_references(content: Content) -> None:
    """Raise :class:`NorthboundError` where a row refers to one that is not there, or an owned row has no owner."""
    owned: set[Key] = set()
    for key, row in content.items():
        unknown = row.refs.keys() - REFERENCES[key.table].keys()
        if unknown:
            raise NorthboundError(f"{key} has references {sorted(unknown)}, which its table does not have")
        for column, targets in row.refs.items():
            owned |= targets
            for target in targets:
                if target not in content or target.table != REFERENCES[key.table][column]:
                    raise NorthboundError(f"{key} refers in {column} to {target}, which is not there")
    for key in content:
        if key.table in OWNED_TABLES and key not in owned:
            raise NorthboundError(f"{key} belongs to no row, so OVSDB would drop it")
