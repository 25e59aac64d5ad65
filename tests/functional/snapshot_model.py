"""A disk whose every block is known: what was written, what each snapshot must show, what each must occupy."""

from __future__ import annotations

import asyncio
import random
import struct
from pathlib import Path

from tests.functional.pangu_cluster import MIB, PanguCluster
from tests.thrash.nbd import Nbd
from yuntai.model.cluster import Volume, VolumeSource
from yuntai.pangu.tree import Tree

BLOCK = 4096
START = 52 * MIB
"""The written part lies over the end of the first chunk."""
BLOCKS = 24 * MIB // BLOCK
PIECE = 256

Content = list[int]
"""Block → the number of the write that it shows; 0 = nothing was written."""


def _bytes(content: Content, first: int) -> bytes:
    return b"".join(
        struct.pack("<QQ", tag, first + index) * (BLOCK // 16) if tag else bytes(BLOCK)
        for index, tag in enumerate(content)
    )


class Known:
    """A volume on host h1, attached only while something is read or written."""

    def __init__(self, cluster: PanguCluster, volume: Volume, seed: int) -> None:
        self.cluster, self.volume = cluster, volume.id
        self.random = random.Random(seed)
        self.now: Content = [0] * BLOCKS
        self.snapshots: dict[int, Content] = {}
        self.writes = 0
        self.nbd: Nbd | None = None

    async def attach(self, node: int = -1) -> Nbd:
        """Attach for writing, or read-only to a snapshot."""
        await self.detach()
        attached = await self.cluster.client.attach(self.volume, "h1", read_only=node != -1, node=node)
        self.nbd = await Nbd.connect(Path(attached.socket), self.volume)
        return self.nbd

    async def detach(self) -> None:
        """Let go."""
        if self.nbd is not None:
            await self.nbd.close()
            self.nbd = None
            await self.cluster.client.detach(self.volume, "h1")

    async def write(self, extents: int) -> None:
        """Write so many short extents at random places, and flush."""
        nbd = self.nbd or await self.attach()
        for _ in range(extents):
            first, count = self.random.randrange(BLOCKS - 16), self.random.randint(1, 16)
            self.writes += 1
            content = [self.writes] * count
            await nbd.write(START + first * BLOCK, _bytes(content, first))
            self.now[first : first + count] = content
        await nbd.flush()

    async def take(self, name: str = "") -> int:
        """Take a snapshot; what was written before is in it."""
        node = await self.cluster.client.snapshot(self.volume, name)
        self.snapshots[node] = list(self.now)
        return node

    async def back(self, node: int) -> None:
        """Roll back."""
        await self.detach()
        await self.cluster.client.rollback(self.volume, node)
        self.now = list(self.snapshots[node])

    async def drop(self, node: int) -> None:
        """Delete a snapshot."""
        await self.cluster.client.delete_snapshot(self.volume, node)
        del self.snapshots[node]

    async def check(self) -> None:
        """Read the head and every snapshot, every byte."""
        await self._same(-1, self.now)
        for node, content in self.snapshots.items():
            await self._same(node, content)
        await self.detach()

    async def _same(self, node: int, content: Content) -> None:
        nbd = await self.attach(node)

        async def piece(first: int) -> None:
            wanted = content[first : first + PIECE]
            got = await nbd.read(START + first * BLOCK, len(wanted) * BLOCK)
            if got != _bytes(wanted, first):
                for index, tag in enumerate(wanted):
                    block = got[index * BLOCK : (index + 1) * BLOCK]
                    if block != _bytes([tag], first + index):
                        found = struct.unpack("<QQ", block[:16])
                        raise AssertionError(f"node {node}, block {first + index}: {found} where write {tag} is due")

        await asyncio.gather(*(piece(first) for first in range(0, BLOCKS, PIECE)))

    def clone(self, volume: Volume, node: int, seed: int) -> Known:
        """Return the model of a clone of a snapshot."""
        made = Known(self.cluster, volume, seed)
        made.now = list(self.snapshots[node])
        made.writes = 1_000_000 * seed
        return made

    def source(self, node: int) -> VolumeSource:
        """Return what a clone of a snapshot names."""
        return VolumeSource(volume=self.volume, node=node)

    async def check_bytes(self) -> Tree:
        """Compare the counted bytes of each node with what they must be, to the byte."""
        tree = await self.cluster.client.tree(self.volume, fresh=True)
        head = (await self.cluster.client.volume(self.volume)).head
        shown = {
            node: {(block, tag) for block, tag in enumerate(content) if tag}
            for node, content in [*self.snapshots.items(), (head, self.now)]
        }
        counted = {one.node: one for one in tree.nodes}
        for node, blocks in shown.items():
            others = set().union(*(other for key, other in shown.items() if key != node))
            alone = len(blocks - others) * BLOCK
            seen = (counted[node].exclusive_bytes, counted[node].exclusive_bytes + counted[node].shared_bytes)
            assert seen == (alone, len(blocks) * BLOCK), f"node {node}"
        return tree

    def held_bytes(self) -> int:
        """Return what all that is live must hold together, once."""
        contents = [*self.snapshots.values(), self.now]
        return BLOCK * len({(block, tag) for content in contents for block, tag in enumerate(content) if tag})
