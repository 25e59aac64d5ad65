"""Requests on snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        Page,
        Paging,
    )
    from yuntai.model.compute import Snapshot
    from yuntai.state import Store


async def create_snapshot(
    store: Store,
    caller: Caller,
    disk_id: str,
    *,
    name: str = "",
    description: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
) -> str:
    """CreateSnapshot."""
    raise NotImplementedError


async def delete_snapshot(store: Store, caller: Caller, snapshot_id: str, *, force: bool = False) -> None:
    """DeleteSnapshot: refused while an image, or a disk that still reads from it, stands on it."""
    raise NotImplementedError


async def modify_snapshot_attribute(
    store: Store, caller: Caller, snapshot_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifySnapshotAttribute."""
    raise NotImplementedError


async def describe_snapshots(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    disk_id: str = "",
    instance_id: str = "",
    name: str = "",
    status: str = "",
    kind: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[Snapshot]:
    """DescribeSnapshots. kind: system, data or empty."""
    raise NotImplementedError
