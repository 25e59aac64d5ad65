"""The tree of a volume's snapshots as people see it: live nodes, who stands on whom, what each occupies. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from yuntai.model.cluster import NodeUsage, Volume, VolumeUsage
from yuntai.pangu import snapshot_rules

Kind = Literal["root", "head", "snapshot", "clone", "branch"]

_NOTHING = NodeUsage()


class TreeNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node. ``parent`` is the nearest node above it that is shown, -1 for none.

    A node of kind ``clone`` is a deleted snapshot that clones still read; a ``branch`` is a dead layer on which two
    or more live ones stand. Bytes are those of one replica: ``used`` in the node and in dead layers between it and
    its parent, ``exclusive`` what deleting it would free, ``shared`` what it shows and others show as well.
    """

    node: int
    parent: int
    kind: Kind
    state: str = ""
    name: str = ""
    size_bytes: int = 0
    used_bytes: int = 0
    exclusive_bytes: int = 0
    shared_bytes: int = 0
    clones: tuple[str, ...] = ()


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes, parents before children; ``counted`` is when their bytes were, "" = never."""

    volume: str
    nodes: tuple[TreeNode, ...]
    counted: str = ""
    current: bool = False  # the bytes are of the tree as it is, not of an earlier one
    used_bytes: int = 0  # of everything
    garbage_bytes: int = 0  # in dead layers on which nothing stands; being freed


def tree_of(volume: Volume, stood: dict[int, list[str]], usage: VolumeUsage | None) -> Tree:
    """Return the tree of a volume, with the bytes of ``usage``."""
    alive = set(snapshot_rules.live(volume, stood))
    shown, up = _shown(volume, alive)
    counted = usage.nodes if usage else {}
    used: dict[int, int] = {}
    garbage = 0
    for layer in range(len(volume.parents)):
        has = counted.get(str(layer), _NOTHING).bytes
        owner = _owner(layer, shown, up)
        if owner == -1:
            garbage += has
        else:
            used[owner] = used.get(owner, 0) + has
    nodes = tuple(
        _node(volume, layer, _above(volume, layer, shown), alive, stood, counted.get(str(layer), _NOTHING), used)
        for layer in sorted(shown)
    )
    dead = len(snapshot_rules.dead(volume, stood))
    return Tree(
        volume=volume.id,
        nodes=nodes,
        counted=usage.at if usage else "",
        current=usage is not None and (usage.layers, usage.dead) == (len(volume.parents), dead),
        used_bytes=sum(one.bytes for one in counted.values()),
        garbage_bytes=garbage,
    )


def _shown(volume: Volume, alive: set[int]) -> tuple[set[int], dict[int, int]]:
    """Return the layers that are shown, and layer → the one child through which the others are reached."""
    # Children have higher numbers than their parents, so from the top down every child is known before its parent.
    lines: dict[int, set[int]] = {}  # layer → its children from which a live layer is reached
    for layer in range(len(volume.parents) - 1, 0, -1):
        if layer in alive or lines.get(layer):
            lines.setdefault(volume.parents[layer], set()).add(layer)
    shown = alive | {layer for layer, children in lines.items() if len(children) > 1}
    return shown, {layer: next(iter(children)) for layer, children in lines.items() if layer not in shown}


def _owner(layer: int, shown: set[int], up: dict[int, int]) -> int:
    """Return the shown node that a layer's bytes are counted at: itself, or the only one that stands on it."""
    while layer not in shown:
        if layer not in up:
            return -1
        layer = up[layer]
    return layer


def _above(volume: Volume, layer: int, shown: set[int]) -> int:
    while layer != 0:
        layer = volume.parents[layer]
        if layer in shown:
            return layer
    return -1


def _node(
    volume: Volume,
    layer: int,
    parent: int,
    alive: set[int],
    stood: dict[int, list[str]],
    has: NodeUsage,
    used: dict[int, int],
) -> TreeNode:
    key = str(layer)
    kind: Kind = "branch"
    if layer == volume.head:
        kind = "head"
    elif key in volume.snapshots:
        kind = "snapshot"
    elif layer in alive:
        kind = "clone"
    elif layer == 0:
        kind = "root"
    return TreeNode(
        node=layer,
        parent=parent,
        kind=kind,
        state=volume.snapshots.get(key, ""),
        name=volume.snapshot_names.get(key, ""),
        size_bytes=volume.snapshot_bytes.get(key, volume.size_bytes),
        used_bytes=used.get(layer, 0),
        exclusive_bytes=has.exclusive_bytes,
        shared_bytes=max(0, has.visible_bytes - has.exclusive_bytes),
        clones=tuple(stood.get(layer, ())),
    )
