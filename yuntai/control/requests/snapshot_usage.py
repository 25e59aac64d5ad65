"""What snapshots occupy, from the block store's last counts: chains, sums, and a disk's tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control.requests.base import matches, mine, paginate
from yuntai.control.requests.snapshots import link_of
from yuntai.control.requests.types import Page
from yuntai.model.cluster import Volume, VolumeUsage
from yuntai.model.compute import Disk, Instance, Snapshot
from yuntai.pangu import snapshot_rules
from yuntai.pangu.tree import Tree, tree_of

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Paging
    from yuntai.state import Store


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshots of one disk, which may be gone."""

    id: str
    disk_id: str
    disk: Disk | None
    instance: Instance | None
    count: int
    used_bytes: int
    size_gib: int
    disk_kind: str
    name: str = ""
    created: str


async def trees(store: Store, volumes: set[str]) -> dict[str, Tree]:
    """Return the trees of volumes with the bytes that were counted last."""
    records = [found.value for found in await store.list(Volume)]
    stood = snapshot_rules.stood_on(records)
    counted = {found.value.id: found.value for found in await store.list(VolumeUsage)}
    return {
        volume.id: tree_of(volume, stood.get(volume.id, {}), counted.get(volume.id))
        for volume in records
        if volume.id in volumes
    }


async def used_bytes(store: Store, snapshots: list[Snapshot]) -> dict[str, int]:
    """Return snapshot → the bytes that its node holds of itself; 0 where nothing was counted yet."""
    found = await trees(store, {snapshot.volume for snapshot in snapshots})
    nodes = {(volume, node.node): node.used_bytes for volume, tree in found.items() for node in tree.nodes}
    return {snapshot.id: nodes.get((snapshot.volume, snapshot.node), 0) for snapshot in snapshots}


async def describe_usage(store: Store, caller: Caller) -> tuple[int, int]:
    """DescribeSnapshotsUsage: how many snapshots the account has, and their bytes."""
    snapshots = await mine(store, Snapshot, caller)
    return len(snapshots), sum((await used_bytes(store, snapshots)).values())


async def describe_links(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    disk_ids: tuple[str, ...] = (),
    link_ids: tuple[str, ...] = (),
    instance_id: str = "",
) -> Page[Chain]:
    """DescribeSnapshotLinks: one chain for each disk that has snapshots."""
    snapshots = await mine(store, Snapshot, caller)
    used = await used_bytes(store, snapshots)
    disks = {disk.id: disk for disk in await mine(store, Disk, caller)}
    instances = {one.id: one for one in await mine(store, Instance, caller)}
    by_disk: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        by_disk.setdefault(snapshot.disk, []).append(snapshot)
    chains = []
    for disk_id, group in by_disk.items():
        disk = disks.get(disk_id)
        latest = max(group, key=lambda one: one.created)
        chains.append(
            Chain(
                id=link_of(disk_id),
                disk_id=disk_id,
                disk=disk,
                instance=instances.get(disk.instance) if disk else None,
                count=len(group),
                used_bytes=sum(used[one.id] for one in group),
                size_gib=disk.size_gib if disk else latest.size_gib,
                disk_kind=latest.disk_kind,
                created=min(one.created for one in group),
            )
        )
    found = [
        chain
        for chain in chains
        if matches(chain, ids=link_ids)
        and (not disk_ids or chain.disk_id in disk_ids)
        and instance_id in ("", chain.instance.id if chain.instance else "")
    ]
    return paginate(found, paging)  # type: ignore[type-var]
