"""Which guests are on their way from this host, or to it: for each a :class:`yuntai.compute.moving.Follower`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.compute.inventory import Mirror
from yuntai.compute.moving import Follower
from yuntai.model.compute import Migration

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from yuntai.compute.keeper import Tools


class Moving:
    """Follows the records of migrations that this host has a part in.

    ``wake`` is told of a guest whose turn it is; ``kept`` tells whether a keeper has something to do with it here.
    """

    def __init__(self, tools: Tools, wake: Callable[[str], None], kept: Callable[[str], bool]) -> None:
        self._tools = tools
        self._wake_keeper = wake
        self._kept = kept
        self.mirror = Mirror(tools.store, Migration, self._changed)
        self._tasks: asyncio.TaskGroup | None = None
        self._followed: dict[str, Follower] = {}

    def of(self, instance_id: str) -> Migration | None:
        """Return the migration that an instance is in, if this host has a part in it."""
        found = self.mirror.get(instance_id)
        return found if found is not None and self._tools.host in (found.source, found.destination) else None

    def has(self, instance_id: str, *, mine: bool) -> bool:
        """Tell whether a guest is to be left alone here as it is on its way; ``mine``: its record names this host.

        What an earlier stay has left here is none of that: it has to go before the guest can come again. And a guest
        that has left is let go of by the hypervisor, in its own time: its memory may still be needed at the other end.
        """
        migration = self.of(instance_id)
        if migration is None:
            return False
        if mine:
            return migration.source == self._tools.host
        follower = self._followed.get(instance_id)
        return follower is None or follower.holds

    def poke(self, guest_id: str) -> None:
        """Something happened to a guest."""
        follower = self._followed.get(guest_id)
        if follower is not None:
            follower.wake.set()

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to act; the records have been read."""
        self._tasks = tasks
        for instance_id in self.mirror.all():
            self._changed(instance_id)

    def _changed(self, instance_id: str) -> None:
        if self._tasks is None:
            return
        self.poke(instance_id)
        migration = self.of(instance_id)
        if migration is not None and instance_id not in self._followed:
            follower = Follower(migration, self._tools, self.of, self._kept, self._wake_keeper)
            self._followed[instance_id] = follower
            task = self._tasks.create_task(follower.run(), name=f"move {instance_id}")
            task.add_done_callback(lambda done: self._ended(instance_id, done))
        self._wake_keeper(instance_id)

    def _ended(self, instance_id: str, task: asyncio.Task[None]) -> None:
        del self._followed[instance_id]
        if task.cancelled():  # the agent ends
            return
        self._wake_keeper(instance_id)
        if self.of(instance_id) is not None:  # another one, begun meanwhile
            self._changed(instance_id)
