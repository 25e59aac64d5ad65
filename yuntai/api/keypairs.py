"""Actions on SSH key pairs."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import paged, tag_set, to_minute
from yuntai.api.registry import ECS, PAGES, TAGS, Call, action
from yuntai.control.requests import keypairs
from yuntai.control.requests.types import InstanceResponse

_RESULTS = "FailCount KeyPairName Results{Result[]{Code InstanceId Message Success}} TotalCount"


@action(ECS, "CreateKeyPair", f"KeyPairName!{TAGS}", "KeyPairFingerPrint KeyPairId KeyPairName PrivateKeyBody")
async def create_key_pair(call: Call) -> dict[str, Any]:
    """Make a key pair; the private key is in this answer and is kept nowhere."""
    made = await keypairs.create_key_pair(call.context.writes, call.caller, call.text("KeyPairName"), tags=call.tags())
    return {
        "KeyPairFingerPrint": made.fingerprint,
        "KeyPairId": made.id,
        "KeyPairName": made.name,
        "PrivateKeyBody": made.private_key,
    }


@action(ECS, "ImportKeyPair", f"KeyPairName! PublicKeyBody!{TAGS}", "KeyPairFingerPrint KeyPairName")
async def import_key_pair(call: Call) -> dict[str, Any]:
    """Store a public key that the caller has already."""
    made = await keypairs.import_key_pair(
        call.context.writes, call.caller, call.text("KeyPairName"), call.text("PublicKeyBody"), tags=call.tags()
    )
    return {"KeyPairFingerPrint": made.fingerprint, "KeyPairName": made.name}


@action(ECS, "DeleteKeyPairs", "KeyPairNames!:j")
async def delete_key_pairs(call: Call) -> dict[str, Any]:
    """Delete key pairs; guests that have them keep them."""
    await keypairs.delete_key_pairs(call.context.writes, call.caller, call.texts("KeyPairNames"))
    return {}


@action(
    ECS,
    "DescribeKeyPairs",
    f"KeyPairName KeyPairFingerPrint IncludePublicKey:b{TAGS}{PAGES}",
    """KeyPairs{KeyPair[]{CreationTime KeyPairFingerPrint KeyPairName PublicKey ResourceGroupId
    Tags{Tag[]{TagKey TagValue}}}} PageNumber:i PageSize:i TotalCount:i""",
)
async def describe_key_pairs(call: Call) -> dict[str, Any]:
    """List key pairs."""
    page = await keypairs.describe_key_pairs(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        name=call.text("KeyPairName"),
        fingerprint=call.text("KeyPairFingerPrint"),
        tags=call.tag_filter(),
    )
    shown = call.args.get("IncludePublicKey", False)
    rows = (
        {
            "CreationTime": to_minute(pair.created),
            "KeyPairFingerPrint": pair.fingerprint,
            "KeyPairName": pair.name,
            "PublicKey": pair.public_key if shown else "",
            "Tags": tag_set(pair.tags),
        }
        for pair in page.items
    )
    return paged(page, "KeyPairs", "KeyPair", rows, token=False)


def _results(name: str, made: list[InstanceResponse]) -> dict[str, Any]:
    rows = [
        {
            "Code": one.code,
            "InstanceId": one.instance_id,
            "Message": one.message,
            "Success": "true" if one.code == "200" else "false",
        }
        for one in made
    ]
    failed = sum(1 for one in made if one.code != "200")
    return {"FailCount": str(failed), "KeyPairName": name, "Results": {"Result": rows}, "TotalCount": str(len(made))}


@action(ECS, "AttachKeyPair", "KeyPairName! InstanceIds!:j", _RESULTS)
async def attach_key_pair(call: Call) -> dict[str, Any]:
    """Give instances a key pair."""
    name = call.text("KeyPairName")
    return _results(
        name, await keypairs.attach_key_pair(call.context.writes, call.caller, name, call.texts("InstanceIds"))
    )


@action(ECS, "DetachKeyPair", "KeyPairName! InstanceIds!:j", _RESULTS)
async def detach_key_pair(call: Call) -> dict[str, Any]:
    """Take a key pair from instances."""
    name = call.text("KeyPairName")
    return _results(
        name, await keypairs.detach_key_pair(call.context.writes, call.caller, name, call.texts("InstanceIds"))
    )
