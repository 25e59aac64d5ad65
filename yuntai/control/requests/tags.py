"""Tags on every kind of resource that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yuntai.control import errors
from yuntai.control.requests import validate
from yuntai.control.requests.base import mine, transact
from yuntai.control.requests.types import Page, TagResource
from yuntai.model.compute import Disk, Image, Instance, KeyPair, Snapshot
from yuntai.model.network import SecurityGroup, Vpc, VSwitch

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Paging
    from yuntai.control.unit import Unit
    from yuntai.model.base import Record
    from yuntai.state import Store

RESOURCES_MAX = 50
_KINDS: dict[str, tuple[type[Record], str]] = {
    "instance": (Instance, "InvalidInstanceId.NotFound"),
    "disk": (Disk, "InvalidDiskId.NotFound"),
    "snapshot": (Snapshot, "InvalidSnapshotId.NotFound"),
    "image": (Image, "InvalidImageId.NotFound"),
    "securitygroup": (SecurityGroup, "InvalidSecurityGroupId.NotFound"),
    "keypair": (KeyPair, "InvalidKeyPairName.NotFound"),
    "vpc": (Vpc, "InvalidVpcID.NotFound"),
    "vswitch": (VSwitch, "InvalidVSwitchId.NotFound"),
}


def _kind(resource_type: str) -> tuple[str, type[Record], str]:
    if not resource_type:
        raise errors.missing("ResourceType")
    name = resource_type.lower().replace("_", "")
    if name not in _KINDS:
        raise errors.invalid(
            "ResourceType", resource_type, f"use one of {', '.join(_KINDS)}", "InvalidResourceType.NotFound"
        )
    return name, *_KINDS[name]


def _record_id(name: str, caller: Caller, resource_id: str) -> str:
    return f"{caller.account}:{resource_id}" if name == "keypair" else resource_id


def _shown_id(name: str, record: Any) -> str:
    return str(record.name if name == "keypair" else record.id)


def _check_ids(resource_ids: tuple[str, ...]) -> None:
    if not resource_ids:
        raise errors.missing("ResourceId.N")
    if len(resource_ids) > RESOURCES_MAX:
        raise errors.invalid("ResourceId.N", f"{len(resource_ids)} ids", f"give at most {RESOURCES_MAX}")


async def tag_resources(
    store: Store, caller: Caller, resource_type: str, resource_ids: tuple[str, ...], tags: dict[str, str]
) -> None:
    """TagResources; the resource type's case does not matter."""
    name, kind, code = _kind(resource_type)
    _check_ids(resource_ids)
    if not tags:
        raise errors.missing("Tag.N")
    validate.tags(tags)

    async def body(unit: Unit) -> None:
        for resource_id in dict.fromkeys(resource_ids):
            record = await _need(unit, caller, name, kind, code, resource_id)
            unit.put(msgspec.structs.replace(record, tags=validate.tags(record.tags | tags)))

    await transact(store, caller, body, type(None))


async def untag_resources(
    store: Store,
    caller: Caller,
    resource_type: str,
    resource_ids: tuple[str, ...],
    *,
    keys: tuple[str, ...] = (),
    all_keys: bool = False,
) -> None:
    """UntagResources: the named keys, or all of them."""
    name, kind, code = _kind(resource_type)
    _check_ids(resource_ids)
    if not keys and not all_keys:
        raise errors.missing("TagKey.N")

    async def body(unit: Unit) -> None:
        for resource_id in dict.fromkeys(resource_ids):
            record = await _need(unit, caller, name, kind, code, resource_id)
            rest = {} if all_keys else {k: v for k, v in record.tags.items() if k not in keys}
            if rest != record.tags:
                unit.put(msgspec.structs.replace(record, tags=rest))

    await transact(store, caller, body, type(None))


async def _need(unit: Unit, caller: Caller, name: str, kind: type[Record], code: str, resource_id: str) -> Any:
    record: Any = await unit.get(kind, _record_id(name, caller, resource_id))
    if record is None or record.account != caller.account:
        raise errors.not_found(name, resource_id, code)
    return record


async def list_tag_resources(
    store: Store,
    caller: Caller,
    resource_type: str,
    *,
    paging: Paging,
    resource_ids: tuple[str, ...] = (),
    tags: dict[str, str | None] | None = None,
) -> Page[TagResource]:
    """ListTagResources: one item for each tag of each resource that matches, in order of id and key."""
    name, kind, _ = _kind(resource_type)
    if not resource_ids and not tags:
        raise errors.missing("ResourceId.N")
    items = []
    records: list[Any] = list(await mine(store, kind, caller))
    for record in sorted(records, key=lambda r: r.id):
        shown = _shown_id(name, record)
        if resource_ids and shown not in resource_ids:
            continue
        for key, value in sorted(record.tags.items()):
            if not tags or (key in tags and tags[key] in (None, value)):
                items.append(TagResource(resource_id=shown, resource_type=name, key=key, value=value))
    return _page(items, paging)


def _page(items: list[TagResource], paging: Paging) -> Page[TagResource]:
    """Cut a page after the item that the token names, which is its position's resource and key."""
    size = paging.max_results if paging.max_results is not None else max(paging.page_size, 1)
    start = 0
    if paging.next_token:
        resource_id, _, key = paging.next_token.partition("/")
        start = next((n for n, i in enumerate(items) if (i.resource_id, i.key) > (resource_id, key)), len(items))
    cut = tuple(items[start : start + size])
    token = f"{cut[-1].resource_id}/{cut[-1].key}" if cut and start + size < len(items) else ""
    return Page(items=cut, total=len(items), page_number=1, page_size=size, next_token=token)
