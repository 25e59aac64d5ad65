"""Actions that tell a caller who they are and what they may use."""

from __future__ import annotations

from typing import Any

from yuntai.api.registry import ECS, STS, Call, action
from yuntai.control.requests.quotas import describe_quotas

_ITEM = "Count:i DiskCategory ExpiredTime InstanceChargeType InstanceType Value ZoneId"


@action(STS, "GetCallerIdentity", "", "AccountId Arn IdentityType PrincipalId RoleId UserId")
async def get_caller_identity(call: Call) -> dict[str, Any]:
    """Say whose AccessKey signed the request."""
    account = call.caller.account
    return {
        "AccountId": account,
        "Arn": f"acs:ram::{account}:root",
        "IdentityType": "Account",
        "PrincipalId": account,
        "UserId": account,
    }


@action(
    ECS,
    "DescribeAccountAttributes",
    "AttributeName[] ZoneId",
    f"AccountAttributeItems{{AccountAttributeItem[]{{AttributeName AttributeValues{{ValueItem[]{{{_ITEM}}}}}}}}}",
)
async def describe_account_attributes(call: Call) -> dict[str, Any]:
    """List the quotas: ``max-…`` is the limit, ``used-…`` how much of it is in use."""
    values: dict[str, int] = {}
    for quota in await describe_quotas(call.context.reads, call.caller):
        values[f"max-{quota.name}"] = quota.limit
        values[f"used-{quota.name}"] = quota.used
    wanted = call.texts("AttributeName")
    rows = [
        {"AttributeName": name, "AttributeValues": {"ValueItem": [{"Value": str(value)}]}}
        for name, value in sorted(values.items())
        if not wanted or name in wanted
    ]
    return {"AccountAttributeItems": {"AccountAttributeItem": rows}}
