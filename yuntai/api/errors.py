"""Refusals of the front itself, in the form that every client understands: a code, a sentence, an HTTP status.

They are :class:`yuntai.control.errors.ApiError` like those of the requests behind the front, so there is one way out.
"""

from __future__ import annotations

from http import HTTPStatus

from yuntai.control.errors import ApiError

INTERNAL_MESSAGE = "The request processing has failed due to some unknown error, exception or failure."


class ThrottledError(ApiError):
    """A caller asks faster than allowed; ``retry_after_ms`` says when to come back."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(
            "Throttling.User", "Request was denied due to user flow control.", HTTPStatus.TOO_MANY_REQUESTS
        )
        self.retry_after_ms = max(1, retry_after_ms)


def missing_parameter(name: str) -> ApiError:
    """Return the refusal of a request without the mandatory parameter ``name``."""
    return ApiError(
        "MissingParameter",
        f'The input parameter "{name}" that is mandatory for processing this request is not supplied.',
    )


def invalid_parameter(name: str, why: str) -> ApiError:
    """Return the refusal of a value; ``why`` says what the parameter takes."""
    return ApiError("InvalidParameter", f'The specified parameter "{name}" is not valid: {why}.')


def unknown_action(action: str) -> ApiError:
    """Return the refusal of an action that the named version does not have."""
    return ApiError(
        "InvalidAction.NotFound",
        f"Specified api is not found, please check your url and method. There is no action {action[:80]!r}.",
        HTTPStatus.NOT_FOUND,
    )


def unknown_version(version: str, known: list[str]) -> ApiError:
    """Return the refusal of a product version that nothing is registered for."""
    return ApiError(
        "InvalidVersion",
        f'Specified parameter Version "{version[:40]}" is not valid; the versions here are {", ".join(known)}.',
        HTTPStatus.NOT_FOUND,
    )


def internal() -> ApiError:
    """Return the answer to a fault of ours: the log has the cause under the request id, the client gets no inside."""
    return ApiError("InternalError", INTERNAL_MESSAGE, HTTPStatus.INTERNAL_SERVER_ERROR)


def unavailable() -> ApiError:
    """Return the answer while something below the front does not answer; clients retry this code."""
    return ApiError(
        "ServiceUnavailable",
        "The request has failed due to a temporary failure of the server; try again in a moment.",
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
