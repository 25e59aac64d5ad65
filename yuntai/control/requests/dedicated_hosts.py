"""Requests on dedicated hosts: whole machines that one account has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors
from yuntai.control.requests import quotas, validate
from yuntai.control.requests.base import matches, mine, new_job, owned, paginate, transact
from yuntai.control.requests.types import Page
from yuntai.model.base import new_id, now_utc
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance
from yuntai.model.placement import DedicatedHost

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, Paging
    from yuntai.control.unit import Unit
    from yuntai.state import Store

TYPE = "ddh.yt1"
"""The one type there is: whatever host is free."""
QUANTITY_MAX = 40  # two records each fit one transaction


class DedicatedDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A dedicated host with its machine and what is on it."""

    one: DedicatedHost
    host: Host | None
    instances: tuple[Instance, ...]


async def allocate_dedicated_hosts(
    store: Store,
    caller: Caller,
    *,
    kind: str,
    quantity: int = 1,
    name: str = "",
    description: str = "",
    auto_placement: str = "",
    action_on_maintenance: str = "",
    client_token: str = "",
) -> list[str]:
    """AllocateDedicatedHosts: each is looked for by a job, among hosts on which nothing is."""
    if kind != TYPE:
        raise errors.invalid("DedicatedHostType", kind, f"use {TYPE}", "InvalidDedicatedHostType.ValueNotSupported")
    if not 1 <= quantity <= QUANTITY_MAX:
        raise errors.invalid("Quantity", quantity, f"use 1 to {QUANTITY_MAX}")
    if auto_placement not in ("", "on", "off"):
        raise errors.invalid("AutoPlacement", auto_placement, "use on or off")
    if action_on_maintenance not in ("", "Migrate", "Stop"):
        raise errors.invalid("ActionOnMaintenance", action_on_maintenance, "use Migrate or Stop")
    validate.name("DedicatedHostName", name)
    validate.description("Description", description)

    async def body(unit: Unit) -> list[str]:
        await quotas.need(unit, caller.account, dedicated_hosts=quantity)
        made = []
        for _ in range(quantity):
            one = DedicatedHost(
                id=new_id("dh"),
                account=caller.account,
                name=name,
                description=description,
                auto_placement=auto_placement != "off",
                action_on_maintenance="Stop" if action_on_maintenance == "Stop" else "Migrate",
                created=now_utc(),
            )
            unit.add(one)
            unit.add(new_job(caller, "allocate_dedicated_host", one.id))
            made.append(one.id)
        return made

    arguments = [kind, quantity, name, description, auto_placement, action_on_maintenance]
    return await transact(
        store, caller, body, list[str], action="AllocateDedicatedHosts", token=client_token, arguments=arguments
    )


async def need_dedicated_host(unit: Unit, caller: Caller, dedicated_id: str) -> DedicatedHost:
    """Return the caller's dedicated host or the API's error."""
    return await owned(
        unit,
        DedicatedHost,
        dedicated_id,
        caller,
        field="DedicatedHostId",
        what="dedicated host",
        code="InvalidDedicatedHostId.NotFound",
    )


async def release_dedicated_host(store: Store, caller: Caller, dedicated_id: str) -> None:
    """ReleaseDedicatedHost: refused while an instance belongs to it; then its machine is everybody's again."""

    async def body(unit: Unit) -> None:
        one = await need_dedicated_host(unit, caller, dedicated_id)
        there = sorted(i.id for i in await unit.list(Instance) if one.id == i.dedicated_host)
        if there:
            raise errors.dependency(
                "DependencyViolation",
                f"The dedicated host {one.id} has the instances {', '.join(there[:5])}; delete or move them first.",
            )
        host = await unit.get(Host, one.host) if one.host else None
        if host is not None and host.dedicated == one.id:
            unit.put(msgspec.structs.replace(host, dedicated=""))
        unit.delete(DedicatedHost, one.id)

    await transact(store, caller, body, type(None))


async def redeploy_dedicated_host(store: Store, caller: Caller, dedicated_id: str) -> None:
    """RedeployDedicatedHost: its machine has failed, and another one is to be looked for now."""

    async def body(unit: Unit) -> None:
        one = await need_dedicated_host(unit, caller, dedicated_id)
        host = await unit.get(Host, one.host) if one.host else None
        if host is None or host.status == "up":
            raise errors.ApiError(
                "IncorrectDedicatedHostStatus",
                f"The dedicated host {one.id} has no failed machine; only one that is UnderAssessment is redeployed.",
                errors.CONFLICT,
            )
        unit.put(msgspec.structs.replace(one, redeploy=True))

    await transact(store, caller, body, type(None))


async def describe_dedicated_hosts(
    store: Store, caller: Caller, *, paging: Paging, ids: tuple[str, ...] = (), name: str = "", status: str = ""
) -> Page[DedicatedDetail]:
    """DescribeDedicatedHosts."""
    found = [
        one
        for one in await mine(store, DedicatedHost, caller)
        if matches(one, ids=ids, name=name) and status in ("", status_of(one))
    ]
    page = paginate(found, paging)
    hosts = {one.value.id: one.value for one in await store.list(Host)}
    instances = [one for one in await mine(store, Instance, caller) if one.dedicated_host]
    return Page(
        items=tuple(
            DedicatedDetail(
                one=one,
                host=hosts.get(one.host),
                instances=tuple(i for i in instances if i.dedicated_host == one.id),
            )
            for one in page.items
        ),
        total=page.total,
        page_number=page.page_number,
        page_size=page.page_size,
        next_token=page.next_token,
    )


def status_of(one: DedicatedHost) -> str:
    """Return the status as the API names it."""
    if one.host:
        return "Available"
    return "PermanentFailure" if one.reason else "Creating"
