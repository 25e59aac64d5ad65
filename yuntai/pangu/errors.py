"""What the master may answer instead of doing it: one tree, the same on both sides of the HTTP API.

Each class has a ``code`` that travels in the JSON body and an HTTP ``status``.
"""

from __future__ import annotations

from typing import Any, ClassVar

# ruff: noqa: N818 — the names are outcomes, and read so where they are caught


class PanguError(Exception):
    """Base of every error of the block store's control."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class Invalid(PanguError):
    """The request makes no sense: a field is wrong. Asking again does not help."""

    code = "invalid"
    status = 400


class Denied(PanguError):
    """The request does not prove that its sender knows the cluster secret, or its clock is wrong."""

    code = "denied"
    status = 401


class NotFound(PanguError):
    """There is no such volume, gateway or snapshot."""

    code = "not_found"
    status = 404


class Conflict(PanguError):
    """The state of the volume forbids it now; the text says which state, and what would allow it."""

    code = "conflict"
    status = 409


class InUse(PanguError):
    """Others need it still; ``details["users"]`` names them."""

    code = "in_use"
    status = 409


class NoPlacement(PanguError):
    """Three replicas in three racks cannot be placed; ``details["servers"]`` says why each server was not taken."""

    code = "no_placement"
    status = 507


class Unavailable(PanguError):
    """Something that is needed does not answer now: a gateway, etcd, a leader. Asking again later helps."""

    code = "unavailable"
    status = 503


ERRORS: dict[str, type[PanguError]] = {
    kind.code: kind for kind in (PanguError, Invalid, Denied, NotFound, Conflict, InUse, NoPlacement, Unavailable)
}
