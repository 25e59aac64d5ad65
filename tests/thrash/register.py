"""Checks online that every block behaves as an atomic register, with writes kept whose outcome is not known.

A register's history is linearizable if every read and write can be given one moment between its call and its answer,
such that each read returns what the last write before it wrote. A write without an answer may have happened or not, at
any moment until its writer is known to be fenced (:meth:`Register.settle`).

The checker holds every way in which the history so far may have been (a :class:`_World` each) and lets go of those
that an answer contradicts ("just in time linearization", Lowe 2017). Writes are given their moment as late as possible:
when one of them, or a read that needs it, is answered. When no world is left the history is a :class:`Violation`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

INITIAL = 0
"""What a block holds that was never written: zeros."""
REMEMBERED = 24
WORLDS_MAX = 20_000


class Violation(AssertionError):  # noqa: N818 — it is a finding
    """What a volume did contradicts what it promised."""


@dataclass(frozen=True, slots=True)
class _World:
    """One way in which it may have been."""

    value: int
    done: frozenset[int]  # writes under way that have had their moment
    seen: frozenset[tuple[int, int]]  # (read under way, value that the register had since its call)


class Register:
    """One block."""

    def __init__(self, name: str, value: int = INITIAL) -> None:
        self.name = name
        self._worlds = {_World(value, frozenset(), frozenset())}
        self._writes: dict[int, int] = {}  # under way: operation → value
        self._reads: set[int] = set()
        self._windows: dict[int, set[int]] = {}
        self._last: deque[str] = deque(maxlen=REMEMBERED)

    # -- what a client does --------------------------------------------------------------------------------------

    def write_called(self, operation: int, value: int) -> None:
        """A write has been sent."""
        self._writes[operation] = value
        self._last.append(f"{operation} writes {value:x}")
        for values in self._windows.values():
            values.add(value)

    def write_answered(self, operation: int) -> None:
        """A write has been acknowledged: it has happened."""
        self._last.append(f"{operation} written")
        self._keep(lambda world: operation in world.done)
        self._forget_write(operation)

    def settle(self, operation: int) -> None:
        """A write without an answer cannot happen from now on; whether it did is not known."""
        self._last.append(f"{operation} can no longer happen")
        # It may have had its moment until now, and no later event asks for that by itself.
        self._worlds |= self._reached(lambda world: operation in world.done)
        self._forget_write(operation)

    def read_called(self, operation: int) -> None:
        """A read has been sent."""
        self._reads.add(operation)
        self._worlds = {replace(world, seen=world.seen | {(operation, world.value)}) for world in self._worlds}

    def read_answered(self, operation: int, value: int) -> None:
        """A read has returned ``value``."""
        self._last.append(f"{operation} reads {value:x}")
        self._keep(lambda world: (operation, value) in world.seen)
        self._forget_read(operation)

    def read_lost(self, operation: int) -> None:
        """A read will not be answered."""
        self._forget_read(operation)

    # -- snapshots -----------------------------------------------------------------------------------------------

    def window_opened(self, key: int) -> None:
        """From now on note every value that the register may have had."""
        self._windows[key] = self.possible()

    def window_closed(self, key: int) -> set[int]:
        """Return every value that the register may have had since the window was opened."""
        return self._windows.pop(key)

    def possible(self) -> set[int]:
        """Return every value that a read would be allowed to return now."""
        return {world.value for world in self._worlds} | set(self._writes.values())

    def reset(self, values: set[int]) -> None:
        """Take the register for set to one of ``values``: the volume was rolled back. Nothing may be under way."""
        assert not self._writes
        assert not self._reads
        self._last.append(f"reset to one of {[f'{value:x}' for value in values]}")
        self._worlds = {_World(value, frozenset(), frozenset()) for value in values}

    # -- the worlds ----------------------------------------------------------------------------------------------

    def _reached(self, good: object) -> set[_World]:
        """Return the worlds that are ``good``, after as few more moments of writes as it takes."""
        assert callable(good)
        found: set[_World] = set()
        known = set(self._worlds)
        waiting = list(known)
        while waiting:
            world = waiting.pop()
            if good(world):
                found.add(world)
                continue
            for operation, value in self._writes.items():
                if operation in world.done:
                    continue
                seen = world.seen | {(read, value) for read in self._reads}
                following = _World(value, world.done | {operation}, seen)
                if following not in known:
                    known.add(following)
                    waiting.append(following)
            assert len(known) < WORLDS_MAX, f"{self.name}: too many writes at the same time to be checked"
        return found

    def _keep(self, good: object) -> None:
        found = self._reached(good)
        if not found:
            allowed = ", ".join(f"{value:x}" for value in sorted(self.possible()))
            history = "\n  ".join(self._last)
            raise Violation(f"{self.name}: no order explains this (possible before: {allowed})\n  {history}")
        self._worlds = found

    def _forget_write(self, operation: int) -> None:
        del self._writes[operation]
        self._worlds = {replace(world, done=world.done - {operation}) for world in self._worlds}

    def _forget_read(self, operation: int) -> None:
        self._reads.discard(operation)
        self._worlds = {
            replace(world, seen=frozenset(pair for pair in world.seen if pair[0] != operation))
            for world in self._worlds
        }
