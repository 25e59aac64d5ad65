"""The one error that a tenant sees: a code of the ECS API, a message with a way out, an HTTP status.

Clients branch on the code (and Terraform takes HTTP 404 for "it is gone"), so codes and statuses are those of the
public API. The message says which field, what it holds, and what to do.
"""

from __future__ import annotations

NOT_FOUND = 404
FORBIDDEN = 403
BAD_REQUEST = 400
CONFLICT = 409
UNAVAILABLE = 503


class ApiError(Exception):
    """A request that cannot be carried out."""

    def __init__(self, code: str, message: str, http_status: int = BAD_REQUEST) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http_status = http_status


def missing(field: str) -> ApiError:
    """Return the error for a mandatory field that was not given."""
    return ApiError(
        "MissingParameter",
        f'The input parameter "{field}" that is mandatory for processing this request is not supplied.',
    )


def invalid(field: str, value: object, way_out: str, code: str = "InvalidParameter") -> ApiError:
    """Return the error for a field that holds what it may not; ``way_out`` says what it may hold."""
    return ApiError(code, f'The specified parameter "{field}" is not valid: it is "{value}"; {way_out}.')


def not_found(what: str, identifier: str, code: str) -> ApiError:
    """Return the error for ``identifier``, which names nothing that the caller owns."""
    return ApiError(code, f"The specified {what} does not exist: {identifier}; list what there is first.", NOT_FOUND)


def quota(code: str, what: str, limit: int, used: int, wanted: int) -> ApiError:
    """Return the error for an account that would own more of ``what`` than it may."""
    return ApiError(
        code,
        f"The quota of {what} is exceeded: {used} in use and {wanted} asked for, of {limit} allowed; "
        "release some or ask the operator for more.",
        FORBIDDEN,
    )


def dependency(code: str, message: str, http_status: int = BAD_REQUEST) -> ApiError:
    """Return the error for when something else still stands on what is to be deleted."""
    return ApiError(code, message, http_status)


def dry_run() -> ApiError:
    """Return the success of a dry run: ECS answers it as this error."""
    return ApiError("DryRunOperation", "Request validation has been passed with DryRun flag set.")
