"""Values that go in and out of a store: versioned records, comparisons of a transaction, events of a watch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from yuntai.model.base import Record

T = TypeVar("T", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Versioned(Generic[R_co]):
    """A record and the etcd revision that last changed it.

    ``rest`` are fields that only a newer build knows, as JSON; a transaction that compares this record keeps them.
    """

    value: R_co
    mod_revision: int
    rest: bytes = b""


Listing: TypeAlias = list[Versioned[T]]
"""Records of one type in order of id."""


@dataclass(frozen=True, slots=True)
class Absent(Generic[R_co]):
    """Comparison: there is no record of this type and id."""

    type: type[R_co]
    id: str


@dataclass(frozen=True, slots=True)
class Unchanged(Generic[R_co]):
    """Comparison: the record is there, and nobody has written it since it was read."""

    record: Versioned[R_co]


@dataclass(frozen=True, slots=True)
class Present(Generic[R_co]):
    """Comparison: there is a record of this type and id, whatever it holds."""

    type: type[R_co]
    id: str


Compare: TypeAlias = Absent[Record] | Unchanged[Record] | Present[Record]
"""What a transaction may ask. All comparisons must hold, or nothing is written."""


@dataclass(frozen=True, slots=True)
class Put(Generic[R_co]):
    """Watch event: the record was created or changed, and this is it now."""

    record: Versioned[R_co]


@dataclass(frozen=True, slots=True)
class Deleted:
    """Watch event: the record with this id is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class Reset(Generic[R_co]):
    """Watch event: forget what you knew; ``records`` is everything there is now, in order of id.

    Always the first event of a watch, and again after a lost connection, a compaction, or a consumer that fell behind.
    """

    records: tuple[Versioned[R_co], ...]
