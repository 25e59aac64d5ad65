"""What callers ask of snapshots: take (one, or several volumes at one moment), delete, roll back, show the tree."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec

from yuntai import log
from yuntai.model.cluster import Volume
from yuntai.pangu import rules, snapshot_rules
from yuntai.pangu.errors import Conflict, Invalid, Unavailable
from yuntai.pangu.tree import Tree, tree_of
from yuntai.pangu.units import volume_number

if TYPE_CHECKING:
    from yuntai.pangu.accounts import Accounts
    from yuntai.pangu.atlas import Atlas
    from yuntai.pangu.office import Office
    from yuntai.pangu.serving import Serving
    from yuntai.pangu.sweeper import Sweeper
    from yuntai.state import Versioned

WRITE_ATTEMPTS = 8
GROUP_MAX = 32
"""Volumes of one group: each is one comparison and one write of the transaction."""
GROUP_BYTES_MAX = 1 << 20
"""Their records together; etcd takes 1.5 MiB."""

_log = log.get("snapshots")


class Snapshots:
    """Operations of the HTTP API on snapshots. Each can be asked again after any failure."""

    def __init__(self, office: Office, serving: Serving, sweeper: Sweeper, accounts: Accounts, atlas: Atlas) -> None:
        self._office = office
        self._serving = serving
        self._sweeper = sweeper
        self._accounts = accounts
        self._atlas = atlas

    async def take(self, volume_id: str, name: str) -> int:
        """Freeze the head and go on in a new one, while I/O runs; return the frozen node."""
        async with self._office.lock(volume_id):
            node = -1

            def freeze(current: Volume) -> Volume:
                nonlocal node
                frozen, node = rules.snapshot(current, name)
                return frozen

            was = (await self._office.volume(volume_id)).value
            if was.group:  # what is frozen together comes first: alone, this would tear the group apart
                await self._serving.finish_snapshots(was)
            volume = await self._office.change(volume_id, freeze)
            await self._serving.finish_snapshots(volume)
            return node

    async def take_group(self, names: dict[str, str]) -> dict[str, int]:
        """Freeze several volumes at one moment: one transaction, then one word to their gateway. Volume → node.

        With the same names it is the same group: what was begun is finished.
        """
        if not 1 <= len(names) <= GROUP_MAX:
            raise Invalid(f"`volumes` names {len(names)} volumes; a group has 1 to {GROUP_MAX}")
        for volume_id in names:
            volume_number(volume_id)
        async with AsyncExitStack() as held:
            for volume_id in sorted(names):
                await held.enter_async_context(self._office.lock(volume_id))
            for _ in range(WRITE_ATTEMPTS):
                frozen = await self._try_group(names)
                if frozen is not None:
                    break
            else:
                raise Unavailable("the volumes kept changing while they were being frozen; try again")
            volumes, nodes = frozen
            for volume in volumes:
                if "pending" in volume.snapshots.values():
                    # The first of them brings the others along.
                    current = (await self._office.volume(volume.id)).value
                    await self._serving.finish_snapshots(current)
            return nodes

    async def _try_group(self, names: dict[str, str]) -> tuple[list[Volume], dict[str, int]] | None:
        found: list[Versioned[Volume]] = []
        for volume_id in names:
            one = await self._office.volume(volume_id)
            if one.value.group:
                await self._serving.finish_snapshots(one.value)
                one = await self._office.volume(volume_id)
            found.append(one)
        writing = [one.value for one in found if one.value.state == "attached" and not one.value.read_only]
        hosts = sorted({volume.host for volume in writing})
        if len(hosts) > 1:
            raise Conflict(
                f"the volumes are attached to {', '.join(hosts)}; only one gateway can freeze them at one moment"
            )
        together = tuple(sorted(volume.id for volume in writing))
        volumes, nodes = [], {}
        for one in found:
            volume, nodes[one.value.id] = rules.snapshot(one.value, names[one.value.id], together)
            volumes.append(volume)
        changed = [(one, volume) for one, volume in zip(found, volumes, strict=True) if volume != one.value]
        if changed and len(changed) < len(volumes):
            raise Conflict("some of the names are of snapshots that exist already; a group needs names of its own")
        if sum(len(msgspec.json.encode(volume)) for volume in volumes) > GROUP_BYTES_MAX:
            raise Conflict("the volumes have too many snapshots to be frozen in one transaction; delete some of them")
        if changed and not await self._office.write([one for one, _ in changed], [volume for _, volume in changed]):
            return None
        return volumes, nodes

    async def delete(self, volume_id: str, key: str) -> Volume:
        """Delete a snapshot, named by its node or its caller's name. Its space is freed in the background.

        It is gone from the list at once; what clones still read stays until they have it.
        """
        # With the lineage held no clone is being made of what is deleted here.
        async with self._office.lineage, self._office.lock(volume_id):
            volume = (await self._office.volume(volume_id)).value
            node = snapshot_rules.named(volume, key)
            if volume.snapshots[str(node)] == "pending":
                await self._serving.finish_snapshots(volume)
            stood = (await self.stood_on()).get(volume_id, {})
            changed = await self._office.change(
                volume_id, lambda current: snapshot_rules.delete_snapshot(current, node, stood)
            )
        _log.info("snapshot deleted", volume=volume_id, node=node, left=len(changed.snapshots))
        self._sweeper.wake()
        return changed

    async def rollback(self, volume_id: str, key: str, token: str) -> Volume:
        """Let a volume that is not attached go on from a snapshot; what its head had is given up."""
        async with self._office.lock(volume_id):

            def back(current: Volume) -> Volume:
                if token and token in current.rollbacks:
                    return current
                return snapshot_rules.rollback(current, snapshot_rules.named(current, key), token)

            changed = await self._office.change(volume_id, back)
        _log.info("volume rolled back", volume=volume_id, key=key, head=changed.head)
        self._sweeper.wake()
        return changed

    async def tree(self, volume_id: str, *, fresh: bool) -> Tree:
        """Return the live nodes of a volume, with what they occupy as last counted, or as counted now."""
        volume = (await self._office.volume(volume_id)).value
        usage = await self._accounts.usage(volume, fresh=fresh)
        stood = (await self.stood_on()).get(volume_id, {})
        return tree_of(volume, stood, usage)

    async def stood_on(self) -> snapshot_rules.Stood:
        """Return which nodes are read by volumes that are not copied yet."""
        await self._atlas.ready()
        return snapshot_rules.stood_on(self._atlas.volumes.values())
