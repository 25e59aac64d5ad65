"""Requests on instances: everything in one place for the front; launching and power live beside this module."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from yuntai.control.requests import credentials, validate
from yuntai.control.requests.base import decide, matches, mine, paginate, transact
from yuntai.control.requests.disks import need_instance
from yuntai.control.requests.launch import create_instance, run_instances
from yuntai.control.requests.power import (
    delete_instance,
    delete_instances,
    reboot_instance,
    reboot_instances,
    start_instance,
    start_instances,
    stop_instance,
    stop_instances,
)
from yuntai.control.requests.security_groups import set_groups
from yuntai.control.requests.types import InstanceDetail, Page
from yuntai.control.unit import Unit
from yuntai.model.compute import Image, Instance, ObservedInstance
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.network import Port

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller, InstanceChange, InstanceFilter, Paging
    from yuntai.state import Store

__all__ = [
    "create_instance",
    "delete_instance",
    "delete_instances",
    "describe_instances",
    "get_instance",
    "modify_instance_attribute",
    "reboot_instance",
    "reboot_instances",
    "run_instances",
    "start_instance",
    "start_instances",
    "stop_instance",
    "stop_instances",
]


async def modify_instance_attribute(store: Store, caller: Caller, instance_id: str, change: InstanceChange) -> None:
    """ModifyInstanceAttribute. Host name, password and user data reach the guest at its next start."""
    validate.name("InstanceName", change.name or "", code="InvalidInstanceName.Malformed")
    validate.description("Description", change.description or "")
    validate.hostname(change.hostname or "")
    validate.user_data(change.user_data or "")
    hashed = None
    if change.password is not None:
        hashed = await asyncio.to_thread(credentials.hash_password, validate.password(change.password))

    async def body(unit: Unit) -> None:
        instance = await need_instance(unit, caller, instance_id)
        decide(INSTANCE, instance.status, "modify", instance_id)
        protection = change.deletion_protection
        changed = msgspec.structs.replace(
            instance,
            name=change.name or instance.name,
            description=instance.description if change.description is None else change.description,
            hostname=change.hostname or instance.hostname,
            user_data=instance.user_data if change.user_data is None else change.user_data,
            password_hash=instance.password_hash if hashed is None else hashed,
            deletion_protection=instance.deletion_protection if protection is None else protection,
        )
        unit.put(changed)
        if change.security_group_ids is not None:
            decide(INSTANCE, instance.status, "modify_groups", instance_id)
            await set_groups(unit, caller, changed, tuple(dict.fromkeys(change.security_group_ids)))
        port = await unit.get(Port, instance.port)
        if port is not None and port.hostname != changed.hostname:
            unit.put(msgspec.structs.replace(port, hostname=changed.hostname))

    await transact(store, caller, body, type(None))


async def describe_instances(
    store: Store, caller: Caller, wanted: InstanceFilter, paging: Paging
) -> Page[InstanceDetail]:
    """DescribeInstances, and what its relatives (status, attribute, user data) show."""
    ips = {p.id: p.ip for p in await mine(store, Port, caller)} if wanted.private_ips else {}
    found = [i for i in await mine(store, Instance, caller) if _matches(i, ips.get(i.port, ""), wanted)]
    page = paginate(found, paging)
    unit = Unit(store)  # asks once for what several of them have
    return Page(
        items=tuple([await _detail(unit, instance) for instance in page.items]),
        total=page.total,
        page_number=page.page_number,
        page_size=page.page_size,
        next_token=page.next_token,
    )


async def _detail(unit: Unit, instance: Instance) -> InstanceDetail:
    more = [await unit.get(Port, port_id) for port_id in instance.ports]
    return InstanceDetail(
        instance=instance,
        port=await unit.get(Port, instance.port),
        more_ports=tuple(port for port in more if port is not None),
        image=await unit.get(Image, instance.image),
        observed=await unit.get(ObservedInstance, instance.id),
    )


def _matches(instance: Instance, ip: str, wanted: InstanceFilter) -> bool:
    equal = (
        (wanted.status, instance.status),
        (wanted.vpc_id, instance.vpc),
        (wanted.vswitch_id, instance.vswitch),
        (wanted.zone_id, instance.zone),
        (wanted.image_id, instance.image),
        (wanted.instance_type, instance.instance_type),
        (wanted.key_pair_name, instance.key_pair),
    )
    return (
        matches(instance, ids=wanted.ids, name=wanted.name, tags=wanted.tags)
        and all(given in ("", value) for given, value in equal)
        and (not wanted.security_group_id or wanted.security_group_id in instance.security_groups)
        and (not wanted.private_ips or ip in wanted.private_ips)
    )


async def get_instance(store: Store, caller: Caller, instance_id: str) -> InstanceDetail:
    """Return one instance, or raise InvalidInstanceId.NotFound (404)."""
    unit = Unit(store)
    return await _detail(unit, await need_instance(unit, caller, instance_id))
