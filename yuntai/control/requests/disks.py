"""Requests on disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        DiskDetail,
        DiskFilter,
        Page,
        Paging,
    )
    from yuntai.state import Store


async def create_disk(
    store: Store,
    caller: Caller,
    *,
    size_gib: int | None = None,
    snapshot_id: str = "",
    category: str = "",
    name: str = "",
    description: str = "",
    zone_id: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
    dry_run: bool = False,
) -> str:
    """CreateDisk from a size, a snapshot, or both."""
    raise NotImplementedError


async def delete_disk(store: Store, caller: Caller, disk_id: str) -> None:
    """DeleteDisk."""
    raise NotImplementedError


async def attach_disk(
    store: Store, caller: Caller, instance_id: str, disk_id: str, *, delete_with_instance: bool | None = None
) -> None:
    """AttachDisk."""
    raise NotImplementedError


async def detach_disk(
    store: Store, caller: Caller, instance_id: str, disk_id: str, *, delete_with_instance: bool | None = None
) -> None:
    """DetachDisk."""
    raise NotImplementedError


async def resize_disk(store: Store, caller: Caller, disk_id: str, new_size_gib: int, *, client_token: str = "") -> None:
    """ResizeDisk: grow only."""
    raise NotImplementedError


async def modify_disk_attribute(
    store: Store,
    caller: Caller,
    disk_id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    delete_with_instance: bool | None = None,
) -> None:
    """ModifyDiskAttribute."""
    raise NotImplementedError


async def describe_disks(store: Store, caller: Caller, wanted: DiskFilter, paging: Paging) -> Page[DiskDetail]:
    """DescribeDisks."""
    raise NotImplementedError
