"""Requests on security groups, their rules and their members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import msgspec

from yuntai.control import errors
from yuntai.control.errors import ApiError
from yuntai.control.requests import quotas, rules, validate
from yuntai.control.requests.base import decide, matches, mine, owned, paginate, transact
from yuntai.control.requests.default_network import default_vpc
from yuntai.control.requests.vpcs import need_vpc
from yuntai.control.unit import Unit
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Instance
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.network import Port, SecurityGroup

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Page, Paging, RuleSpec
    from yuntai.state import Store

RULES_PER_CALL_MAX = 100


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
    """CreateSecurityGroup; without ``vpc_id`` in the default VPC."""
    validate.name("SecurityGroupName", name, code="InvalidSecurityGroupName.Malformed")
    validate.description("Description", description)
    if kind not in ("normal", "enterprise"):
        raise errors.invalid("SecurityGroupType", kind, "use normal or enterprise")
    checked = validate.tags(tags)

    async def body(unit: Unit) -> str:
        vpc = await need_vpc(unit, caller, vpc_id) if vpc_id else await default_vpc(unit, caller)
        await quotas.need(unit, caller.account, security_groups=1)
        group = SecurityGroup(
            id=new_id("sg"),
            account=caller.account,
            vpc=vpc.id,
            name=name,
            description=description,
            kind=cast("Literal['normal', 'enterprise']", kind),
            tags=checked,
            created=now_utc(),
        )
        unit.add(group)
        return group.id

    arguments = [vpc_id, name, description, kind, checked]
    return await transact(
        store, caller, body, str, action="CreateSecurityGroup", token=client_token, arguments=arguments
    )


async def need_group(unit: Unit, caller: Caller, group_id: str) -> SecurityGroup:
    """Return the caller's group or the API's error."""
    return await owned(
        unit,
        SecurityGroup,
        group_id,
        caller,
        field="SecurityGroupId",
        what="security group",
        code="InvalidSecurityGroupId.NotFound",
    )


async def delete_security_group(store: Store, caller: Caller, group_id: str) -> None:
    """DeleteSecurityGroup: refused while it has members or another group's rule names it."""

    async def body(unit: Unit) -> None:
        group = await need_group(unit, caller, group_id)
        members = [p.instance or p.eni for p in await unit.list(Port) if group.id in p.security_groups]
        if members:
            raise errors.dependency(
                "DependencyViolation",
                f"The security group {group.id} has members ({', '.join(members[:5])}); let them leave it first.",
                errors.FORBIDDEN,
            )
        named = [
            g.id
            for g in await unit.list(SecurityGroup)
            if g.id != group.id and any(rule.group == group.id for rule in g.rules)
        ]
        if named:
            raise errors.dependency(
                "DependencyViolation",
                f"Rules of {', '.join(named[:5])} name the security group {group.id}; revoke them first.",
                errors.FORBIDDEN,
            )
        unit.delete(SecurityGroup, group.id)

    await transact(store, caller, body, type(None))


async def modify_security_group_attribute(
    store: Store, caller: Caller, group_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifySecurityGroupAttribute."""
    validate.name("SecurityGroupName", name or "", code="InvalidSecurityGroupName.Malformed")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        group = await need_group(unit, caller, group_id)
        unit.put(
            msgspec.structs.replace(
                group,
                name=group.name if name is None else name,
                description=group.description if description is None else description,
            )
        )

    await transact(store, caller, body, type(None))


async def modify_security_group_policy(store: Store, caller: Caller, group_id: str, inner_access: str) -> None:
    """ModifySecurityGroupPolicy: Accept or Drop among the members."""
    chosen = inner_access.capitalize()
    if chosen not in ("Accept", "Drop"):
        raise errors.invalid("InnerAccessPolicy", inner_access, "use Accept or Drop")

    async def body(unit: Unit) -> None:
        group = await need_group(unit, caller, group_id)
        unit.put(msgspec.structs.replace(group, inner_access=cast("Literal['Accept', 'Drop']", chosen)))

    await transact(store, caller, body, type(None))


async def authorize(
    store: Store,
    caller: Caller,
    group_id: str,
    direction: str,
    specs: tuple[RuleSpec, ...],
    *,
    client_token: str = "",
) -> tuple[str, ...]:
    """AuthorizeSecurityGroup (ingress) and …Egress: return the rules' ids; one that is there already keeps its id."""
    _check_count(len(specs))
    wanted = tuple(rules.build(spec, direction) for spec in specs)

    async def body(unit: Unit) -> tuple[str, ...]:
        group = await need_group(unit, caller, group_id)
        for rule in wanted:
            if rule.group:
                peer = await need_group(unit, caller, rule.group)
                if peer.vpc != group.vpc:
                    raise errors.invalid(
                        "SourceGroupId", rule.group, f"name a group of the same VPC {group.vpc}",
                        "InvalidGroupAuthorization.NotSupported",
                    )  # fmt: skip
        kept = list(group.rules)
        ids = []
        for rule in wanted:
            known = next((k for k in kept if rules.same(k, rule)), None)
            if known is None:
                kept.append(rule)
            ids.append((known or rule).id)
        await quotas.need_within(unit, caller.account, "rules_per_group", len(kept))
        unit.put(msgspec.structs.replace(group, rules=tuple(kept)))
        return tuple(ids)

    return await transact(
        store,
        caller,
        body,
        tuple[str, ...],
        action=f"Authorize.{direction}",
        token=client_token,
        arguments=[group_id, specs],
    )


async def revoke(
    store: Store,
    caller: Caller,
    group_id: str,
    direction: str,
    *,
    specs: tuple[RuleSpec, ...] = (),
    rule_ids: tuple[str, ...] = (),
    client_token: str = "",
) -> None:
    """RevokeSecurityGroup and …Egress, by rule or by id; a rule that is not there is no error."""
    _check_count(len(specs) + len(rule_ids))
    unwanted = tuple(rules.build(spec, direction) for spec in specs)

    async def body(unit: Unit) -> None:
        group = await need_group(unit, caller, group_id)
        kept = tuple(
            rule
            for rule in group.rules
            if rule.direction != direction or not (rule.id in rule_ids or any(rules.same(rule, u) for u in unwanted))
        )
        if kept != group.rules:
            unit.put(msgspec.structs.replace(group, rules=kept))

    await transact(
        store,
        caller,
        body,
        type(None),
        action=f"Revoke.{direction}",
        token=client_token,
        arguments=[group_id, specs, rule_ids],
    )


def _check_count(count: int) -> None:
    if not count:
        raise errors.missing("Permissions.N")
    if count > RULES_PER_CALL_MAX:
        raise errors.invalid("Permissions.N", f"{count} rules", f"give at most {RULES_PER_CALL_MAX} in one call")


async def join(store: Store, caller: Caller, group_id: str, instance_id: str) -> None:
    """JoinSecurityGroup."""

    async def body(unit: Unit) -> None:
        instance = await _member(unit, caller, instance_id)
        if group_id in instance.security_groups:
            raise ApiError(
                "InvalidInstanceId.AlreadyExists",
                f"The instance {instance_id} is in the security group {group_id} already; there is nothing to do.",
                errors.FORBIDDEN,
            )
        await set_groups(unit, caller, instance, (*instance.security_groups, group_id))

    await transact(store, caller, body, type(None))


async def leave(store: Store, caller: Caller, group_id: str, instance_id: str) -> None:
    """LeaveSecurityGroup: an instance is always in one at least."""

    async def body(unit: Unit) -> None:
        await need_group(unit, caller, group_id)
        instance = await _member(unit, caller, instance_id)
        rest = tuple(g for g in instance.security_groups if g != group_id)
        if rest == instance.security_groups:
            raise errors.not_found(
                "membership of the instance in the group", f"{instance_id} in {group_id}", "InvalidInstanceId.NotFound"
            )
        if not rest:
            raise ApiError(
                "InstanceLastSecurityGroup",
                f"{group_id} is the only security group of {instance_id}; join another one first.",
                errors.FORBIDDEN,
            )
        await set_groups(unit, caller, instance, rest)

    await transact(store, caller, body, type(None))


async def _member(unit: Unit, caller: Caller, instance_id: str) -> Instance:
    instance = await owned(
        unit, Instance, instance_id, caller, field="InstanceId", what="InstanceId", code="InvalidInstanceId.NotFound"
    )
    decide(INSTANCE, instance.status, "modify_groups", instance.id)
    return instance


async def set_groups(unit: Unit, caller: Caller, instance: Instance, group_ids: tuple[str, ...]) -> None:
    """Write the groups of an instance and of its port, if they may be those of this instance."""
    if not group_ids:
        raise errors.missing("SecurityGroupId")
    await quotas.need_within(unit, caller.account, "groups_per_instance", len(group_ids))
    for group_id in group_ids:
        await need_group_in(unit, caller, group_id, instance.vpc)
    unit.put(msgspec.structs.replace(instance, security_groups=group_ids))
    port = await unit.get(Port, instance.port)
    if port is not None:
        unit.put(msgspec.structs.replace(port, security_groups=group_ids))


async def need_group_in(unit: Unit, caller: Caller, group_id: str, vpc_id: str) -> SecurityGroup:
    """Return the caller's group if it is one of that VPC."""
    group = await need_group(unit, caller, group_id)
    if group.vpc != vpc_id:
        raise errors.invalid(
            "SecurityGroupId", group_id, f"it is of {group.vpc}; name one of {vpc_id}",
            "InvalidSecurityGroupId.VPCMismatch",
        )  # fmt: skip
    return group


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
    found = [
        group
        for group in await mine(store, SecurityGroup, caller)
        if matches(group, ids=ids, name=name, tags=tags) and vpc_id in ("", group.vpc)
    ]
    return paginate(found, paging)


async def get_security_group(store: Store, caller: Caller, group_id: str) -> SecurityGroup:
    """Return one group with its rules, or raise InvalidSecurityGroupId.NotFound (404)."""
    return await need_group(Unit(store), caller, group_id)
