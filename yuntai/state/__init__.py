"""etcd for everybody else: typed records, transactions, watches, leases, elections. See :mod:`yuntai.state.store`."""

from yuntai.state.errors import (
    Conflict,
    Corrupt,
    Exists,
    Invalid,
    LeaseLost,
    NotFound,
    StateError,
    Unavailable,
    Uncertain,
    UnsupportedVersion,
)
from yuntai.state.etcd import EtcdStore
from yuntai.state.events import Absent, Deleted, Present, Put, Reset, Unchanged, Versioned
from yuntai.state.memory import MemoryStore
from yuntai.state.store import Lease, Store

__all__ = [
    "Absent",
    "Conflict",
    "Corrupt",
    "Deleted",
    "EtcdStore",
    "Exists",
    "Invalid",
    "Lease",
    "LeaseLost",
    "MemoryStore",
    "NotFound",
    "Present",
    "Put",
    "Reset",
    "StateError",
    "Store",
    "Unavailable",
    "Uncertain",
    "Unchanged",
    "UnsupportedVersion",
    "Versioned",
]
