"""The seam between the agent and the block store: attach, detach, and that a volume has grown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class VolumeError(Exception):
    """The block store did not do it; the text says what was asked and its answer. Asking again later may help."""


class MovedError(VolumeError):
    """The volume was given to somebody since; look again whose it is to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Where an attached volume is served on this host."""

    socket: str
    name: str
    generation: int


class Volumes(Protocol):
    """What the agent needs of the block store. All calls may be repeated."""

    async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
        """Make this host the volume's only writer and return where its gateway serves it.

        With ``if_generation``: only if nobody was given it since it had that generation, else :class:`MovedError`.
        """

    async def detach(self, volume: str, host: str) -> None:
        """Give the volume up. One that is not attached here, or is gone, is fine."""

    async def announce(self, volume: str, host: str, ticket: str) -> None:
        """Keep a place at this host for a volume whose guest is to move here; its present holder goes on writing."""

    async def take(self, volume: str, host: str, ticket: str) -> None:
        """Take an announced volume: its guest runs here. Raise :class:`MovedError` if the migration was called off."""

    async def renew(self, volume: str) -> None:
        """Have whoever is connected to the volume connect again: it has grown."""


class MemoryVolumes:
    """The twin in memory. A volume attached elsewhere is taken over with a higher generation, as the store does."""

    def __init__(self) -> None:
        self.attached: dict[str, tuple[str, int]] = {}
        self.announced: dict[str, tuple[str, str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.fail_next: str = ""

    async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
        """Attach; the same host keeps its generation."""
        self._record("attach", volume)
        holder, generation = self.attached.get(volume, ("", 0))
        if holder != host and if_generation not in (-1, generation):
            raise MovedError(f"volume {volume} has generation {generation} by now, not {if_generation}")
        if holder != host:
            generation += 1
        self.attached[volume] = (host, generation)
        return Export(socket=f"/run/yuntai/nbd/{volume}.sock", name=volume, generation=generation)

    async def detach(self, volume: str, host: str) -> None:
        """Detach where this host holds it."""
        self._record("detach", volume)
        if self.attached.get(volume, ("", 0))[0] == host:
            del self.attached[volume]

    async def announce(self, volume: str, host: str, ticket: str) -> None:
        """Note it."""
        self._record("announce", volume)
        self.announced[volume] = (host, ticket)

    async def take(self, volume: str, host: str, ticket: str) -> None:
        """Take it once."""
        self._record("take", volume)
        holder, generation = self.attached.get(volume, ("", 0))
        if self.announced.get(volume) == (host, ticket):
            del self.announced[volume]
            self.attached[volume] = (host, generation + 1)
        elif holder != host:
            raise MovedError(f"volume {volume} is not to be handed over to {host}: that migration was called off")

    async def call_off(self, volumes: list[str], host: str, ticket: str) -> bool:
        """Return whether it is too late; else nothing of it is announced any more."""
        if any(self.attached.get(volume, ("", 0))[0] == host for volume in volumes):
            return True
        for volume in volumes:
            if self.announced.get(volume, ("", ""))[1] == ticket:
                del self.announced[volume]
        return False

    async def renew(self, volume: str) -> None:
        """Nobody is connected here."""
        self._record("renew", volume)

    def _record(self, call: str, volume: str) -> None:
        if self.fail_next:
            text, self.fail_next = self.fail_next, ""
            raise VolumeError(text)
        self.calls.append((call, volume))
