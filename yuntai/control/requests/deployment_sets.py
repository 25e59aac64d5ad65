"""Requests on deployment sets: which instances are to be apart, or close together."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

import msgspec

from yuntai.control import errors
from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import matches, mine, owned, paginate, transact
from yuntai.control.requests.types import Page
from yuntai.control.scheduler.rules import closed
from yuntai.model.base import new_id, now_utc
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance
from yuntai.model.placement import DeploymentSet, Strategy

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store

GROUPS_MAX = 7
_ON_FAILURE = ("CancelMembershipAndStart", "KeepStopped")


class SetDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment set with its instances, and how many hosts its strategy leaves for another one."""

    one: DeploymentSet
    instances: tuple[str, ...]
    hosts_left: int


async def create_deployment_set(
    store: Store,
    caller: Caller,
    *,
    name: str = "",
    description: str = "",
    strategy: str = "",
    group_count: int | None = None,
    on_failure: str = "",
    client_token: str = "",
) -> str:
    """CreateDeploymentSet."""
    wanted = _strategy(strategy)
    groups = 3 if group_count is None else group_count
    if not 1 <= groups <= GROUPS_MAX:
        raise errors.invalid("GroupCount", groups, f"use 1 to {GROUPS_MAX}")
    if on_failure not in ("", *_ON_FAILURE):
        raise errors.invalid("OnUnableToRedeployFailedInstance", on_failure, f"use one of {', '.join(_ON_FAILURE)}")
    validate.name("DeploymentSetName", name)
    validate.description("Description", description)

    async def body(unit: Unit) -> str:
        await quotas.need(unit, caller.account, deployment_sets=1)
        one = DeploymentSet(
            id=new_id("ds"),
            account=caller.account,
            name=name,
            description=description,
            strategy=wanted,
            group_count=groups,
            on_failure="KeepStopped" if on_failure == "KeepStopped" else "CancelMembershipAndStart",
            created=now_utc(),
        )
        unit.add(one)
        return one.id

    arguments = [name, description, wanted, groups, on_failure]
    return await transact(
        store, caller, body, str, action="CreateDeploymentSet", token=client_token, arguments=arguments
    )


def _strategy(text: str) -> Strategy:
    if text not in ("", *get_args(Strategy)):
        raise errors.invalid("Strategy", text, f"use one of {', '.join(get_args(Strategy))}")
    return cast("Strategy", text or "Availability")


async def need_deployment_set(unit: Unit, caller: Caller, set_id: str) -> DeploymentSet:
    """Return the caller's deployment set or the API's error."""
    return await owned(
        unit,
        DeploymentSet,
        set_id,
        caller,
        field="DeploymentSetId",
        what="deployment set",
        code="InvalidDeploymentSetId.NotFound",
    )


def check_group(one: DeploymentSet, group: int | None) -> int:
    """Return the group within a set that an instance goes to; 0 where the set has none."""
    if one.strategy != "AvailabilityGroup":
        if group:
            raise errors.invalid("DeploymentSetGroupNo", group, f"{one.id} has no groups; leave it out")
        return 0
    if not 1 <= (group or 1) <= one.group_count:
        raise errors.invalid("DeploymentSetGroupNo", group, f"use 1 to {one.group_count}, the groups of {one.id}")
    return group or 1


async def modify_deployment_set(
    store: Store, caller: Caller, set_id: str, *, name: str | None = None, description: str | None = None
) -> None:
    """ModifyDeploymentSetAttribute."""
    validate.name("DeploymentSetName", name or "")
    validate.description("Description", description or "")

    async def body(unit: Unit) -> None:
        one = await need_deployment_set(unit, caller, set_id)
        unit.put(
            msgspec.structs.replace(
                one,
                name=one.name if name is None else name,
                description=one.description if description is None else description,
            )
        )

    await transact(store, caller, body, type(None))


async def delete_deployment_set(store: Store, caller: Caller, set_id: str) -> None:
    """DeleteDeploymentSet: refused while an instance is in it."""

    async def body(unit: Unit) -> None:
        one = await need_deployment_set(unit, caller, set_id)
        members = sorted(i.id for i in await unit.list(Instance) if i.deployment_set == one.id)
        if members:
            raise errors.dependency(
                "DependencyViolation",
                f"The deployment set {one.id} has the instances {', '.join(members[:5])}; delete them or take them "
                "out of it (ModifyInstanceDeployment) first.",
            )
        unit.delete(DeploymentSet, one.id)

    await transact(store, caller, body, type(None))


async def describe_deployment_sets(
    store: Store, caller: Caller, *, paging: Paging, ids: tuple[str, ...] = (), name: str = "", strategy: str = ""
) -> Page[SetDetail]:
    """DescribeDeploymentSets."""
    found = [
        one
        for one in await mine(store, DeploymentSet, caller)
        if matches(one, ids=ids, name=name) and strategy in ("", one.strategy)
    ]
    page = paginate(found, paging)
    members: dict[str, list[Instance]] = {}
    for instance in await mine(store, Instance, caller):
        if instance.deployment_set:
            members.setdefault(instance.deployment_set, []).append(instance)
    hosts = [found.value for found in await store.list(Host)]
    return Page(
        items=tuple(_detail(one, members.get(one.id, []), hosts) for one in page.items),
        total=page.total,
        page_number=page.page_number,
        page_size=page.page_size,
    )


def _detail(one: DeploymentSet, members: list[Instance], hosts: list[Host]) -> SetDetail:
    taken = {member.host for member in members} if one.strategy == "Availability" else set()
    possible = sum(not closed(host) and host.id not in taken for host in hosts)
    return SetDetail(one=one, instances=tuple(sorted(member.id for member in members)), hosts_left=possible)
