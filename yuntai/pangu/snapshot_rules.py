"""Which layers of a volume are alive, and what deleting, rolling back and sweeping make of its record. Pure.

A layer is *live* while somebody may read as of it or write it: the head, every snapshot in the record, what a
read-only attachment shows, and a node that a clone stands on which is not copied yet (also when its snapshot has been
deleted). What is not live is *dead*, and dead for ever: nothing is ever made on a dead layer again. So the number of
dead layers alone says which ones a server had been told of when it last swept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec.structs import replace

from yuntai.model.cluster import Volume
from yuntai.pangu.errors import Conflict, InUse, NotFound
from yuntai.pangu.rules import require_snapshot
from yuntai.pangu.units import is_hydrated

T = TypeVar("T")

TOKENS_KEPT = 8

Stood = dict[str, dict[int, list[str]]]
"""Volume → node → the volumes that may still read as of it."""


def stood_on(volumes: Iterable[Volume]) -> Stood:
    """Return which nodes volumes that are not copied yet may read, however far up.

    A source in between counts even when it is hydrated: a gateway that opened the chain before asks all of it.
    """
    by_id = {volume.id: volume for volume in volumes}
    stood: Stood = {}
    for start in by_id.values():
        if start.state == "deleting" or is_hydrated(start):
            continue
        seen = {start.id}
        current = start
        while current.source is not None:
            above, node = current.source.volume, current.source.node
            users = stood.setdefault(above, {}).setdefault(node, [])
            if start.id not in users:
                users.append(start.id)
            if above in seen or above not in by_id:
                break
            seen.add(above)
            current = by_id[above]
    return stood


def live(volume: Volume, stood: Iterable[int] = ()) -> list[int]:
    """Return the live layers in order."""
    shown = {volume.read_node} if volume.read_node != -1 else set()
    return sorted({volume.head, *(int(node) for node in volume.snapshots), *stood} | shown)


def dead(volume: Volume, stood: Iterable[int] = ()) -> list[int]:
    """Return the dead layers in order. Layer 0 belongs to the source and is not counted."""
    alive = set(live(volume, stood))
    return [layer for layer in range(1, len(volume.parents)) if layer not in alive]


def node_of(volume: Volume, key: str) -> int:
    """Return the node that a caller means by a number or by the name that it gave; -1 if there is none (any more)."""
    if key.isascii() and key.isdigit():
        return int(key) if key in volume.snapshots else -1
    return next((int(node) for node, name in volume.snapshot_names.items() if name == key), -1)


def delete_snapshot(volume: Volume, node: int, stood: Iterable[int] = ()) -> Volume:
    """Return the record without the snapshot; the layer lives on while a clone stands on it."""
    key = str(node)
    if key not in volume.snapshots:
        return volume
    if volume.read_node == node:
        raise InUse(
            f"snapshot node {node} of {volume.id} is attached read-only to {volume.host}; detach it first",
            {"users": [volume.host]},
        )
    require_snapshot(volume, node)
    sizes = volume.snapshot_bytes if node in stood else _without(volume.snapshot_bytes, key)
    return replace(
        volume,
        snapshots=_without(volume.snapshots, key),
        snapshot_names=_without(volume.snapshot_names, key),
        snapshot_bytes=sizes,
    )


def rollback(volume: Volume, node: int, token: str) -> Volume:
    """Return the record with a new, empty head on ``node``; what the old head had is no snapshot, and dead.

    A ``token`` that was used lately gives the record unchanged: a call that comes twice must not undo what was
    written in between.
    """
    if token and token in volume.rollbacks:
        return volume
    if volume.state == "deleting":
        raise Conflict(f"volume {volume.id} is being deleted; it cannot be rolled back")
    if volume.state == "attached":
        raise Conflict(f"volume {volume.id} is attached to {volume.host}; detach it, then roll it back")
    if volume.unfenced:
        raise Conflict(
            f"volume {volume.id} was detached by force, so its old writer may still be at work; "
            "attach it once, then roll it back"
        )
    require_snapshot(volume, node)
    kept = (*volume.rollbacks, token)[-TOKENS_KEPT:] if token else volume.rollbacks
    grown = (*volume.parents, node)
    return replace(volume, parents=grown, head=len(volume.parents), rollbacks=kept, tended_by="")


def named(volume: Volume, key: str) -> int:
    """Return the node that ``key`` names; raise :class:`NotFound`."""
    node = node_of(volume, key)
    if node == -1:
        known = ", ".join(sorted(volume.snapshots, key=int)[:20]) or "none"
        raise NotFound(f"volume {volume.id} has no snapshot {key!r}; its nodes: {known}")
    return node


def swept(volume: Volume, servers: Iterable[int], count: int, holders: Iterable[int], stood: Iterable[int]) -> Volume:
    """Note that ``servers`` have freed what ``count`` dead layers held; forget servers that hold nothing any more."""
    holding = {str(number) for number in holders}
    done = {number: max(count, volume.swept.get(number, 0)) for number in map(str, servers)}
    needed = {*volume.snapshots, *map(str, stood)}
    return replace(
        volume,
        swept={number: at for number, at in (volume.swept | done).items() if number in holding},
        snapshot_bytes={node: size for node, size in volume.snapshot_bytes.items() if node in needed},
    )


def _without(entries: dict[str, T], key: str) -> dict[str, T]:
    return {k: v for k, v in entries.items() if k != key}
