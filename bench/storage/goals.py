"""What was promised, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise: ``value`` must be ``sense`` (">=" or "<=") ``limit``."""

    what: str
    sense: str
    limit: float
    value: float

    @property
    def met(self) -> bool:
        """Return whether it is kept."""
        return self.value >= self.limit if self.sense == ">=" else self.value <= self.limit

    def text(self) -> str:
        """Return one line for people."""
        return f"{'met ' if self.met else 'NOT '} {self.what}: {self.value:.3g} (goal {self.sense} {self.limit:g})"
