"""Requests on images."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        Page,
        Paging,
    )
    from yuntai.model.compute import Image
    from yuntai.state import Store


async def create_image(
    store: Store,
    caller: Caller,
    *,
    snapshot_id: str = "",
    instance_id: str = "",
    name: str = "",
    description: str = "",
    os_name: str = "",
    tags: dict[str, str] | None = None,
    client_token: str = "",
    dry_run: bool = False,
) -> str:
    """CreateImage from a snapshot of a system disk, or from an instance (takes the snapshot first)."""
    raise NotImplementedError


async def delete_image(
    store: Store, caller: Caller, image_id: str, *, force: bool = False, dry_run: bool = False
) -> None:
    """DeleteImage: refused while a disk still reads from it (force does not change that)."""
    raise NotImplementedError


async def modify_image_attribute(
    store: Store, caller: Caller, image_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifyImageAttribute."""
    raise NotImplementedError


async def describe_images(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    name: str = "",
    status: str = "Available",
    owner_alias: str = "",
    snapshot_id: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[Image]:
    """DescribeImages: public ones and the caller's. status: comma-separated."""
    raise NotImplementedError
