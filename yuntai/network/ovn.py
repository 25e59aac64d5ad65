"""The driver of OVN's northbound database, over one long-lived OVSDB connection.

The connection lives in a thread of its own (ovsdbapp's); reading, comparing and writing happen there as one command
of one transaction, so nothing changes under the comparison. Reading takes only the rows that carry our id, and writing
changes only columns that the plan names, so rows and keys of others stay as they are.

The protocol is RFC 7047. What is relied on of the client library: a transaction on a lost connection is repeated until
its timeout; the replica in memory is rebuilt after a reconnect, also when the database came back empty.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl import connection as ovsdb_connection
from ovsdbapp.backend.ovs_idl import idlutils, transaction

from yuntai import log
from yuntai.network import ovsdb_schema, rows
from yuntai.network.northbound import NorthboundError
from yuntai.network.rows import ID_KEY, OWN_PREFIX, REFERENCES, Changes, Content, Key, Row, Update

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

_LOG = log.get("network.ovn")
SCHEMA = "OVN_Northbound"
TIMEOUT_S = 15.0
SCHEMA_S = 3.0
PROBE_MS = 2500
"""A member that says nothing for so long is asked, and left when it stays silent for as long again."""
# Only these are replicated to us, so that what ovn-northd writes (`up`, say) does not wake the syncer.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Logical_Switch": ("name",),
    "Logical_Switch_Port": ("name", "type", "addresses", "port_security", "options"),
    "Logical_Router": ("name", "options"),
    "Logical_Router_Port": ("name", "mac", "networks"),
    "Logical_Router_Static_Route": ("ip_prefix", "nexthop", "output_port"),
    "NAT": ("type", "external_ip", "logical_ip"),
    "Gateway_Chassis": ("name", "chassis_name", "priority"),
    "DHCP_Options": ("cidr", "options"),
    "DNS": ("records",),
    "Port_Group": ("name",),
    "ACL": ("direction", "priority", "match", "action", "name"),
}
# Indexes of ovn-nb.ovsschema: OVSDB refuses a second row of the same name.
UNIQUELY_NAMED = frozenset({"Logical_Switch_Port", "Logical_Router_Port", "Port_Group", "Gateway_Chassis"})


class OvnNorthbound:
    """See :class:`yuntai.network.northbound.Northbound`."""

    def __init__(self, remote: str, timeout_s: float = TIMEOUT_S) -> None:
        """Take a connection string such as ``tcp:10.0.0.1:6641``, or several of a cluster joined by commas."""
        self._remote = remote
        self._timeout_s = timeout_s
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ovn-nb")
        self._connection: Any = None
        self._connecting: asyncio.Future[Any] | None = None
        self._callback: Callable[[], None] | None = None
        self._replica = _Replica()

    def on_change(self, callback: Callable[[], None]) -> None:
        """See :meth:`Northbound.on_change`."""
        self._callback = callback

    async def apply(self, content: Content) -> Changes:
        """See :meth:`Northbound.apply`."""
        connection = await self._connected()
        command = _Sync(content, self._replica)
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._commit, connection, command)
        except exceptions.TimeoutException as error:
            raise NorthboundError(f"OVN northbound {self._remote} did not answer in {self._timeout_s} s") from error
        except Exception as error:
            raise NorthboundError(f"OVN northbound {self._remote}: {type(error).__name__}: {error}") from error
        return command.result

    async def close(self) -> None:
        """See :meth:`Northbound.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.to_thread(connection.stop, self._timeout_s)
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _connected(self) -> Any:
        """Return the connection, made at the first call. A slow first answer is waited for again at the next call."""
        if self._connection is None:
            loop = asyncio.get_running_loop()
            if self._connecting is None:
                self._connecting = loop.run_in_executor(self._executor, self._connect, loop)
            try:
                self._connection = await asyncio.wait_for(asyncio.shield(self._connecting), self._timeout_s)
            except TimeoutError as error:
                raise NorthboundError(f"OVN northbound {self._remote} did not answer in {self._timeout_s} s") from error
            except Exception as error:
                self._connecting = None
                raise NorthboundError(f"OVN northbound {self._remote} cannot be reached: {error}") from error
            self._connecting = None
            _LOG.info("connected to OVN northbound", remote=self._remote)
        return self._connection

    def _connect(self, loop: asyncio.AbstractEventLoop) -> Any:
        helper = idlutils.create_schema_helper(ovsdb_schema.fetch(self._remote, SCHEMA, SCHEMA_S))
        for table, columns in COLUMNS.items():
            helper.register_columns(table, [*columns, *REFERENCES[table], "external_ids"])
        idl = ovsdb_connection.OvsdbIdl(self._remote, helper, probe_interval=PROBE_MS)

        def forget(_event: str, row: Any, _updates: Any = None) -> None:
            self._replica.forget(row.uuid)

        def run() -> bool:
            # Not `notify`: a replica that is dropped for a database that came back empty tells of no row.
            before = idl.change_seqno
            result = bool(run_idl())
            if idl.change_seqno != before and self._callback is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._callback)
            return result

        run_idl = idl.run
        idl.notify, idl.run = forget, run
        connection = ovsdb_connection.Connection(idl, self._timeout_s)
        connection.start()
        return connection

    @staticmethod
    def _commit(connection: Any, command: _Sync) -> None:
        command.idl = connection.idl
        transact = transaction.Transaction(command, connection, connection.timeout, check_error=True, log_errors=False)
        transact.add(command)
        if transact.commit() is None:
            raise RuntimeError("the transaction was aborted")


class _Replica:
    """Rows as plain data, read once and again only after they changed: comparing 1,000 ports costs milliseconds."""

    def __init__(self) -> None:
        self._known: dict[UUID, _Plain] = {}

    def forget(self, uuid: UUID) -> None:
        self._known.pop(uuid, None)

    def row(self, table: str, row: Any) -> _Plain:
        known = self._known.get(row.uuid)
        if known is None:
            known = self._known[row.uuid] = _Plain.read(table, row)
        return known

    def keep(self, uuids: set[UUID]) -> None:
        """Drop what is no longer there; a replica that is rebuilt does not tell of the rows that it lost."""
        if len(self._known) > len(uuids):
            self._known = {uuid: plain for uuid, plain in self._known.items() if uuid in uuids}


@dataclass(frozen=True, slots=True)
class _Plain:
    columns: Mapping[str, rows.Value]
    own_ids: Mapping[str, str]
    refs: Mapping[str, tuple[UUID, ...]]

    @classmethod
    def read(cls, table: str, row: Any) -> _Plain:
        columns: dict[str, rows.Value] = {}
        for column in COLUMNS[table]:
            value = getattr(row, column)
            columns[column] = tuple(sorted(value)) if isinstance(value, list) else value
        own_ids = {name: value for name, value in row.external_ids.items() if name.startswith(OWN_PREFIX)}
        columns["external_ids"] = own_ids
        refs = {column: tuple(target.uuid for target in getattr(row, column)) for column in REFERENCES[table]}
        return cls(columns, own_ids, refs)

    def row(self, keys: Mapping[UUID, Key]) -> Row:
        refs = {column: frozenset(keys[uuid] for uuid in uuids if uuid in keys) for column, uuids in self.refs.items()}
        return Row(self.columns, refs)


class _Sync:
    """The command that ovsdbapp runs in the connection's thread; it runs again when the transaction is repeated."""

    def __init__(self, wanted: Content, replica: _Replica) -> None:
        self.idl: Any = None
        self.result = Changes()
        self._wanted = wanted
        self._replica = replica
        self._rows: dict[Key, Any] = {}

    def run_idl(self, txn: Any) -> None:
        """Compare and write; called by the library."""
        actual, surplus = self._read()
        self.result = rows.diff(self._wanted, actual)
        for row in surplus:
            self._detach(row)
            row.delete()
        for key in self.result.delete:
            self._rows[key].delete()
        for key in self.result.create:
            self._rows[key] = txn.insert(self.idl.tables[key.table])
        for key, wanted in self.result.create.items():
            self._fill(key, wanted)
        for key, change in self.result.update.items():
            self._change(key, change)

    def post_commit(self, _txn: Any) -> None:
        """Nothing to do; called by the library."""

    def _read(self) -> tuple[dict[Key, Row], list[Any]]:
        """Return our rows, and those that have the key of another (two syncers at once can make such).

        A row that lost our id but has a name of ours is taken back: OVSDB would refuse a second one of that name.
        """
        names = {
            (key.table, row.columns["name"]): key for key, row in self._wanted.items() if key.table in UNIQUELY_NAMED
        }
        self._rows, surplus = {}, []
        plain: dict[Key, _Plain] = {}
        seen: set[UUID] = set()
        for table in COLUMNS:
            for row in list(self.idl.tables[table].rows.values()):
                seen.add(row.uuid)
                found = self._replica.row(table, row)
                yuntai_id = found.own_ids.get(ID_KEY)
                key = Key(table, yuntai_id) if yuntai_id else names.get((table, found.columns.get("name", "")))
                if key is None:
                    continue
                if self._rows.setdefault(key, row) is row:
                    plain[key] = found
                else:
                    surplus.append(row)
        self._replica.keep(seen)
        keys = {row.uuid: key for key, row in self._rows.items()}
        return {key: found.row(keys) for key, found in plain.items()}, surplus

    def _fill(self, key: Key, wanted: Row) -> None:
        row = self._rows[key]
        for column, value in wanted.columns.items():
            setattr(row, column, _ovsdb(value))
        for column, targets in wanted.refs.items():
            setattr(row, column, [self._rows[target] for target in sorted(targets)])

    def _change(self, key: Key, change: Update) -> None:
        row = self._rows[key]
        for column, value in change.columns.items():
            # Others may keep keys of their own in external_ids; every other column is wholly ours.
            foreign = _foreign(row.external_ids) if column == "external_ids" else {}
            setattr(row, column, {**foreign, **_ovsdb(value)} if foreign else _ovsdb(value))
        for column in {*change.add, *change.remove}:
            added = [self._rows[target] for target in sorted(change.add.get(column, ()))]
            if self.idl.tables[key.table].columns[column].type.is_optional():
                setattr(row, column, added)
                continue
            # Mutations, not a new value: what others put into the set stays, and a big set is not sent whole.
            for target in added:
                row.addvalue(column, target.uuid)
            for target_key in sorted(change.remove.get(column, ())):
                if target_key in self._rows:
                    row.delvalue(column, self._rows[target_key].uuid)

    def _detach(self, surplus: Any) -> None:
        """Take a surplus row out of every row that refers to it, or OVSDB refuses to delete it."""
        for table, columns in REFERENCES.items():
            for column, target in columns.items():
                if target != surplus._table.name:  # noqa: SLF001 — the library has no other way to ask
                    continue
                for row in self.idl.tables[table].rows.values():
                    if any(found.uuid == surplus.uuid for found in getattr(row, column)):
                        row.delvalue(column, surplus.uuid)


def _foreign(external_ids: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in external_ids.items() if not name.startswith(OWN_PREFIX)}


def _ovsdb(value: rows.Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
