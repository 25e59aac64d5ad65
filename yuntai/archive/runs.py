"""Runs of blocks: what an index becomes when some of its blocks change. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from yuntai.archive.format import CHUNK_BLOCKS, OBJECT_BLOCKS, Index, Run, Stored

Range = tuple[int, int]
"""First block, blocks."""


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order, without overlap, neighbours as one."""
    out: list[Range] = []
    for block, blocks in sorted(ranges):
        if blocks <= 0:
            continue
        if out and block <= out[-1][0] + out[-1][1]:
            first, had = out[-1]
            out[-1] = (first, max(had, block + blocks - first))
        else:
            out.append((block, blocks))
    return out


def pieces(ranges: Sequence[Range]) -> list[list[Range]]:
    """Cut merged ranges into what goes into one object each: at most 1,024 blocks, all of one chunk."""
    out: list[list[Range]] = []
    room = chunk = 0
    for first, whole in ranges:
        block, left = first, whole
        while left:
            if not out or room == 0 or block // CHUNK_BLOCKS != chunk:
                out.append([])
                room, chunk = OBJECT_BLOCKS, block // CHUNK_BLOCKS
            take = min(left, room, (chunk + 1) * CHUNK_BLOCKS - block)
            out[-1].append((block, take))
            block, left, room = block + take, left - take, room - take
    return out


def without(runs: Sequence[Run], ranges: Sequence[Range]) -> list[Run]:
    """Return runs less the blocks of merged ranges."""
    out: list[Run] = []
    at = 0
    for block, blocks, number, inner in runs:
        start, end = block, block + blocks
        while at < len(ranges) and ranges[at][0] + ranges[at][1] <= start:
            at += 1
        look = at
        while look < len(ranges) and ranges[look][0] < end:
            first, count = ranges[look]
            if first > start:
                out.append((start, first - start, number, inner + start - block))
            start = max(start, first + count)
            look += 1
        if start < end:
            out.append((start, end - start, number, inner + start - block))
    return out


def overlay(base: Index, changed: Sequence[Range], written: Sequence[tuple[Stored, Sequence[Range]]]) -> Index:
    """Return the index after the merged ranges ``changed`` have become what the objects ``written`` hold, else zeros.

    Each object comes with the blocks that it holds, in its order. Objects that no run needs any more are left out.
    """
    held: list[tuple[int, int, Stored, int]] = [
        (block, blocks, base.objects[number], at) for block, blocks, number, at in without(base.runs, changed)
    ]
    for stored, ranges in written:
        at = 0
        for block, blocks in ranges:
            held.append((block, blocks, stored, at))
            at += blocks
    held.sort(key=lambda one: one[0])
    numbers: dict[Stored, int] = {}
    runs: list[Run] = []
    for block, blocks, stored, at in held:
        number = numbers.setdefault(stored, len(numbers))
        if runs and _continues(runs[-1], block, number, at):
            runs[-1] = (runs[-1][0], runs[-1][1] + blocks, number, runs[-1][3])
        else:
            runs.append((block, blocks, number, at))
    return Index(objects=tuple(numbers), runs=tuple(runs))


def _continues(last: Run, block: int, number: int, at: int) -> bool:
    return last[0] + last[1] == block and last[2] == number and last[3] + last[1] == at


def by_object(index: Index) -> list[list[Run]]:
    """Return the runs of each object."""
    out: list[list[Run]] = [[] for _ in index.objects]
    for run in index.runs:
        out[run[2]].append(run)
    return out
