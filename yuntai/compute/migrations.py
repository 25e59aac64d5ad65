"""The seam for moving running guests between hypervisors, its twin in memory, and how a slow move is helped along."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from yuntai.compute.driver import HypervisorError, NoSuchGuestError

if TYPE_CHECKING:
    from yuntai.compute.memory import MemoryHypervisor

DOWNTIME_MS = 100
"""QEMU switches over when what is left can be sent within this."""
DOWNTIME_LAST_MS = 300
LONGER_AFTER_S = 20.0
"""A guest that changes its memory faster than it can be sent is slowed down by QEMU itself (auto-converge, from the
start); one that has still not moved by then may stand still for :data:`DOWNTIME_LAST_MS`."""
POST_COPY_AFTER_S = 60.0

Rung = Literal["", "auto-converge", "downtime", "post-copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How far a move is, as the hypervisor says."""

    transferred_bytes: int = 0
    remaining_bytes: int = 0
    dirty_bytes_per_s: int = 0
    bytes_per_s: int = 0
    throttle_percent: int = 0
    passes: int = 0
    downtime_ms: float = -1.0


def eta_s(figures: Figures) -> float:
    """Return in how many seconds all is sent at this rate; -1 when it never would be, or nobody knows."""
    gained = figures.bytes_per_s - figures.dirty_bytes_per_s
    return figures.remaining_bytes / gained if gained > 0 and figures.bytes_per_s > 0 else -1.0


def rung(figures: Figures, running_s: float, *, post_copy: bool) -> Rung:
    """Return how far up the ladder a move is to be that has taken ``running_s``.

    Post-copy is the last rung, and only where the caller allowed it: the guest's memory is then on two hosts for a
    while, and if one of them is lost the guest is lost with it (it is started anew from its disks).
    """
    if post_copy and running_s >= POST_COPY_AFTER_S and figures.passes > 1:
        return "post-copy"
    if running_s >= LONGER_AFTER_S:
        return "downtime"
    return "auto-converge" if figures.throttle_percent else ""


class Migrations(Protocol):
    """What the agent needs to move guests. The call that moves lasts as long as the move."""

    async def migrate(self, guest_id: str, address: str) -> None:
        """Move a running guest to the hypervisor at ``address``: it is defined there and no longer here.

        Raise :class:`HypervisorError` if it was not moved; then the guest goes on here, if it lives.
        """

    async def figures(self, guest_id: str) -> Figures | None:
        """Return how far the move of a guest is; ``None`` if none is under way."""

    async def downtime_ms(self, guest_id: str) -> float:
        """Return, at the destination, how long a guest that has come stood still; -1 = not known."""

    async def cancel(self, guest_id: str) -> None:
        """End the move, if one is under way; the guest goes on here."""

    async def help(self, guest_id: str, rung: Rung) -> None:
        """Take a rung of the ladder."""

    async def release(self, guest_id: str) -> None:
        """End at once what is left here of a guest that runs elsewhere with all its memory, or never can again."""


class MemoryMigrations:
    """The twin. ``peers`` are the hypervisors that it reaches, by address.

    ``gate`` holds a move until it is set, and ``let_go`` the guest that has moved, as its former host still has it.
    """

    def __init__(self, here: MemoryHypervisor) -> None:
        self._here = here
        self.peers: dict[str, MemoryHypervisor] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.fail_next = ""  # text of the error that the next move ends with, at its gate
        self.break_post_copy = False  # when it is let go, the rest of its memory does not come over
        self.lose_answer = False  # the guest runs there, but this side hears of an error
        self.rungs: list[Rung] = []
        self.released: list[str] = []
        self._under_way: dict[str, asyncio.Event] = {}

    async def migrate(self, guest_id: str, address: str) -> None:
        """Move a guest when the gate opens."""
        if guest_id not in self._here.specs:
            raise NoSuchGuestError(f"there is no guest {guest_id}")
        cancelled = self._under_way[guest_id] = asyncio.Event()
        try:
            waiting = [asyncio.create_task(one.wait()) for one in (self.gate, cancelled)]
            _, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for one in rest:
                one.cancel()
            if cancelled.is_set():
                raise HypervisorError("operation aborted: canceled by client")
            if self.fail_next:
                text, self.fail_next = self.fail_next, ""
                raise HypervisorError(text)
            if address not in self.peers:
                raise HypervisorError(f"unable to connect to server at {address}")
            await self.peers[address].arrive(self._here.specs[guest_id])
            if self.lose_answer:
                raise HypervisorError("End of file while reading data")
            self.peers[address].complete(guest_id, complete=self.let_go.is_set())
            await self.let_go.wait()
            self.peers[address].complete(guest_id, complete=True)
            if self.break_post_copy:
                for end in (self._here, self.peers[address]):
                    end.lose(guest_id)
                raise HypervisorError("migration broke in post-copy: Unable to write to socket")
            self._here.leave(guest_id)
        finally:
            del self._under_way[guest_id]

    async def figures(self, guest_id: str) -> Figures | None:
        """Return the same while it is held."""
        if guest_id not in self._under_way:
            return None
        return Figures(transferred_bytes=3 << 20, remaining_bytes=1 << 20, bytes_per_s=1 << 20)

    async def downtime_ms(self, guest_id: str) -> float:
        """Return a figure."""
        del guest_id
        return 42.0

    async def cancel(self, guest_id: str) -> None:
        """End it at its gate."""
        if guest_id in self._under_way:
            self._under_way[guest_id].set()

    async def help(self, guest_id: str, rung: Rung) -> None:
        """Note it."""
        del guest_id
        self.rungs.append(rung)

    async def release(self, guest_id: str) -> None:
        """Note it."""
        self.released.append(guest_id)
