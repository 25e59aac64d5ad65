"""Tags on every kind of resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        Page,
        Paging,
        TagResource,
    )
    from yuntai.state import Store


async def tag_resources(
    store: Store, caller: Caller, resource_type: str, resource_ids: tuple[str, ...], tags: dict[str, str]
) -> None:
    """TagResources: instance disk snapshot image securitygroup keypair vpc vswitch (case ignored)."""
    raise NotImplementedError


async def untag_resources(
    store: Store,
    caller: Caller,
    resource_type: str,
    resource_ids: tuple[str, ...],
    *,
    keys: tuple[str, ...] = (),
    all_keys: bool = False,
) -> None:
    """UntagResources."""
    raise NotImplementedError


async def list_tag_resources(
    store: Store,
    caller: Caller,
    resource_type: str,
    *,
    paging: Paging,
    resource_ids: tuple[str, ...] = (),
    tags: dict[str, str | None] | None = None,
) -> Page[TagResource]:
    """ListTagResources."""
    raise NotImplementedError
