"""A disk with layers in memory: what a volume is, as far as exporting and restoring go."""

from __future__ import annotations

from collections.abc import Sequence

from yuntai.archive.errors import NoBaseError
from yuntai.archive.export import About, Change
from yuntai.archive.format import BLOCK_BYTES, REGION_BLOCKS


class LayeredDisk:
    """Each snapshot is a mapping block → content; what changed is told by layer, so also what was written the same."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.head: dict[int, tuple[int, bytes]] = {}  # block → (when it was written, content)
        self.nodes: list[tuple[int, dict[int, tuple[int, bytes]]]] = []
        self.writes = 0
        self.reads = 0
        self.fail_after: int | None = None

    def write(self, block: int, content: bytes) -> None:
        self.writes += 1
        self.head[block] = (self.writes, content.ljust(BLOCK_BYTES, content[-1:] or b"\0"))

    def snapshot(self) -> int:
        self.nodes.append((self.blocks, dict(self.head)))
        return len(self.nodes) - 1

    def rollback(self, node: int) -> None:
        self.head = dict(self.nodes[node][1])

    def content(self, node: int) -> dict[int, bytes]:
        zero = bytes(BLOCK_BYTES)
        return {block: data for block, (_, data) in self.nodes[node][1].items() if data != zero}

    def about(self, node: int) -> About:
        size_bytes = self.nodes[node][0] * BLOCK_BYTES
        return About(snapshot=f"s-{node}", volume="vol-1", node=node, size_bytes=size_bytes)

    def source(self, node: int, *, forgotten: Sequence[int] = ()) -> DiskSource:
        return DiskSource(self, node, forgotten)


class DiskSource:
    def __init__(self, disk: LayeredDisk, node: int, forgotten: Sequence[int]) -> None:
        self.disk, self.node, self.forgotten = disk, node, forgotten

    async def changes(self, since: int | None, region: int) -> Sequence[Change]:
        if since in self.forgotten:
            raise NoBaseError
        before = self.disk.nodes[since][1] if since is not None else {}
        now = self.disk.nodes[self.node][1]
        here = range(region * REGION_BLOCKS, (region + 1) * REGION_BLOCKS)
        return [
            Change(block - here.start, 1, data=bool(now.get(block, (0, b""))[1].strip(b"\0")))
            for block in sorted(before.keys() | now.keys())
            if block in here and before.get(block) != now.get(block)
        ]

    async def read(self, offset: int, length: int) -> bytes:
        if self.disk.fail_after is not None:
            self.disk.fail_after -= 1
            if self.disk.fail_after < 0:
                raise ConnectionError("the exporter was killed")
        self.disk.reads += length // BLOCK_BYTES
        now = self.disk.nodes[self.node][1]
        first = offset // BLOCK_BYTES
        blocks = range(first, first + length // BLOCK_BYTES)
        return b"".join(now.get(block, (0, bytes(BLOCK_BYTES)))[1] for block in blocks)


class MemoryTarget:
    """A blank volume."""

    def __init__(self) -> None:
        self.content: dict[int, bytes] = {}
        self.flushed = False

    async def write(self, offset: int, data: bytes) -> None:
        self.flushed = False
        for at in range(0, len(data), BLOCK_BYTES):
            self.content[(offset + at) // BLOCK_BYTES] = data[at : at + BLOCK_BYTES]

    async def flush(self) -> None:
        self.flushed = True
