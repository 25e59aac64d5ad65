"""Actions on tags, under both products: ECS says UntagResources, the VPC product UnTagResources."""

from __future__ import annotations

from typing import Any

import msgspec

from yuntai.api.registry import ECS, TAGS, TOKENS, VPC, Call, action
from yuntai.control.requests import tags

_TAG = "ResourceType! ResourceId![] Tag![]{Key! Value}"
_UNTAG = "ResourceType! ResourceId![] TagKey[] All:b"
_LIST = f"ResourceType! ResourceId[]{TAGS}{TOKENS}"
_LISTED = "NextToken TagResources{TagResource[]{ResourceId ResourceType TagKey TagValue}}"
TOKEN_PAGE = 50


@action(ECS, "TagResources", _TAG)
@action(VPC, "TagResources", _TAG)
async def tag_resources(call: Call) -> dict[str, Any]:
    """Put tags on resources."""
    await tags.tag_resources(
        call.context.writes, call.caller, call.text("ResourceType"), call.texts("ResourceId"), call.tags()
    )
    return {}


@action(ECS, "UntagResources", _UNTAG)
@action(VPC, "UnTagResources", _UNTAG)
async def untag_resources(call: Call) -> dict[str, Any]:
    """Take tags from resources."""
    await tags.untag_resources(
        call.context.writes,
        call.caller,
        call.text("ResourceType"),
        call.texts("ResourceId"),
        keys=call.texts("TagKey"),
        all_keys=call.args.get("All", False),
    )
    return {}


@action(ECS, "ListTagResources", _LIST, _LISTED)
@action(VPC, "ListTagResources", _LIST, _LISTED)
async def list_tag_resources(call: Call) -> dict[str, Any]:
    """List tags, by resource or by tag."""
    paging = call.paging()
    if paging.max_results is None:
        paging = msgspec.structs.replace(paging, max_results=TOKEN_PAGE)
    page = await tags.list_tag_resources(
        call.context.reads,
        call.caller,
        call.text("ResourceType"),
        paging=paging,
        resource_ids=call.texts("ResourceId"),
        tags=call.tag_filter(),
    )
    rows = [
        {
            "ResourceId": one.resource_id,
            "ResourceType": one.resource_type,
            "TagKey": one.key,
            "TagValue": one.value,
        }
        for one in page.items
    ]
    return {"NextToken": page.next_token, "TagResources": {"TagResource": rows}}
