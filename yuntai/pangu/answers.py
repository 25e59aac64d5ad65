"""What a master's HTTP answers mean."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from yuntai.pangu.errors import ERRORS, PanguError, Unavailable

MISDIRECTED = 421

T = TypeVar("T")


class Moved(Exception):  # noqa: N818 — an answer, not a fault
    """Another master leads."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


def read(status: int, answer: bytes, url: str) -> Any:
    """Return the JSON of a good answer; raise the error that another one says."""
    try:
        body = msgspec.json.decode(answer)
    except msgspec.DecodeError as error:
        raise Unavailable(f"{url} answers {status} without JSON: is that a master's address?") from error
    if status == MISDIRECTED and isinstance(body, dict) and body.get("leader"):
        raise Moved(str(body["leader"]))
    if status == 200:
        return body
    told = body.get("error") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        raise PanguError(f"{url} answers {status}: {answer[:200]!r}")
    raise ERRORS.get(str(told.get("code")), PanguError)(str(told.get("message")), told.get("details"))


def convert(answer: Any, kind: type[T]) -> T:
    """Return an answer as the type that it should be."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise PanguError(f"the master's answer is not a {kind}: {error}; do the versions differ?") from error
