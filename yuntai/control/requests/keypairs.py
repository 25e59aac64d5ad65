"""Requests on key pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        CreatedKeyPair,
        InstanceResponse,
        Page,
        Paging,
    )
    from yuntai.model.compute import KeyPair
    from yuntai.state import Store


async def create_key_pair(
    store: Store, caller: Caller, name: str, *, tags: dict[str, str] | None = None
) -> CreatedKeyPair:
    """CreateKeyPair: the private key is in the answer only."""
    raise NotImplementedError


async def import_key_pair(
    store: Store, caller: Caller, name: str, public_key: str, *, tags: dict[str, str] | None = None
) -> CreatedKeyPair:
    """ImportKeyPair."""
    raise NotImplementedError


async def delete_key_pairs(store: Store, caller: Caller, names: tuple[str, ...]) -> None:
    """DeleteKeyPairs; a name that is not there is no error."""
    raise NotImplementedError


async def describe_key_pairs(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    name: str = "",
    fingerprint: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[KeyPair]:
    """DescribeKeyPairs; name may hold *."""
    raise NotImplementedError


async def attach_key_pair(
    store: Store, caller: Caller, name: str, instance_ids: tuple[str, ...]
) -> list[InstanceResponse]:
    """AttachKeyPair: seen by the guest at its next boot with a new instance id, or by its metadata at once."""
    raise NotImplementedError


async def detach_key_pair(
    store: Store, caller: Caller, name: str, instance_ids: tuple[str, ...]
) -> list[InstanceResponse]:
    """DetachKeyPair."""
    raise NotImplementedError
