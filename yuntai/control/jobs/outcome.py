"""How a step can end other than well, and what the runner tells of a job."""

from __future__ import annotations

from dataclasses import dataclass


class NotYetError(Exception):
    """The step waits for the world. ``keys`` (``<kind>/<id>``) are the records whose change is worth another look."""

    def __init__(self, reason: str, *keys: str, timeout_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.keys = keys
        self.timeout_s = timeout_s


class RetryError(Exception):
    """The step could not be done now; a bounded number of further tries may help."""


class JobFailedError(Exception):
    """The job cannot be done; what it did is to be undone."""


class SupersededError(Exception):
    """A later operation has taken over the resource; nothing is left for this job to do or to undo."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is over, or gone."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Look again when one of ``keys`` changed, at the latest after ``delay_s``."""

    keys: tuple[str, ...]
    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Later:
    """Try again after ``delay_s``."""

    delay_s: float
    reason: str


Outcome = Finished | Waiting | Later
