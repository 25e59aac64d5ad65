"""Requests on security groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yuntai.control.requests.types import (
        Caller,
        Page,
        Paging,
        RuleSpec,
    )
    from yuntai.model.network import SecurityGroup
    from yuntai.state import Store


async def create_security_group(
    store: Store,
    caller: Caller,
    *,
    vpc_id: str = "",
    name: str = "",
    description: str = "",
    kind: str = "normal",
    tags: dict[str, str] | None = None,
    client_token: str = "",
) -> str:
    """CreateSecurityGroup; vpc_id empty = the default VPC."""
    raise NotImplementedError


async def delete_security_group(store: Store, caller: Caller, group_id: str) -> None:
    """DeleteSecurityGroup."""
    raise NotImplementedError


async def modify_security_group_attribute(
    store: Store, caller: Caller, group_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifySecurityGroupAttribute."""
    raise NotImplementedError


async def modify_security_group_policy(store: Store, caller: Caller, group_id: str, inner_access: str) -> None:
    """ModifySecurityGroupPolicy: Accept or Drop among members."""
    raise NotImplementedError


async def authorize(
    store: Store, caller: Caller, group_id: str, direction: str, rules: tuple[RuleSpec, ...], *, client_token: str = ""
) -> tuple[str, ...]:
    """AuthorizeSecurityGroup (direction ingress) and …Egress: ids of the rules; one that is there already keeps its id."""
    raise NotImplementedError


async def revoke(
    store: Store,
    caller: Caller,
    group_id: str,
    direction: str,
    *,
    rules: tuple[RuleSpec, ...] = (),
    rule_ids: tuple[str, ...] = (),
    client_token: str = "",
) -> None:
    """RevokeSecurityGroup and …Egress, by rule or by id; a rule that is not there is no error."""
    raise NotImplementedError


async def join(store: Store, caller: Caller, group_id: str, instance_id: str) -> None:
    """JoinSecurityGroup."""
    raise NotImplementedError


async def leave(store: Store, caller: Caller, group_id: str, instance_id: str) -> None:
    """LeaveSecurityGroup."""
    raise NotImplementedError


async def describe_security_groups(
    store: Store,
    caller: Caller,
    *,
    paging: Paging,
    ids: tuple[str, ...] = (),
    vpc_id: str = "",
    name: str = "",
    tags: dict[str, str | None] | None = None,
) -> Page[SecurityGroup]:
    """DescribeSecurityGroups."""
    raise NotImplementedError


async def get_security_group(store: Store, caller: Caller, group_id: str) -> SecurityGroup:
    """One group with its rules, or InvalidSecurityGroupId.NotFound (404)."""
    raise NotImplementedError
