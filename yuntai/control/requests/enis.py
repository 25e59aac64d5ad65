"""Requests on elastic network interfaces: secondary network cards that instances get and give up while they run."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import errors, instance_types
from yuntai.control.errors import ApiError
from yuntai.control.requests import addresses, quotas, validate
from yuntai.control.requests.base import decide, new_job, transact
from yuntai.control.requests.default_network import default_group
from yuntai.control.requests.disks import need_instance
from yuntai.control.requests.security_groups import need_group_in
from yuntai.control.requests.vswitches import need_vswitch
from yuntai.model.base import new_id, now_utc
from yuntai.model.lifecycle import INSTANCE
from yuntai.model.network import Port
from yuntai.network.addresses import guest_mac

if TYPE_CHECKING:
    from yuntai.control.requests.types import Caller
    from yuntai.control.unit import Unit
    from yuntai.state import Store


async def create_network_interface(
    store: Store,
    caller: Caller,
    *,
    vswitch_id: str,
    security_group_ids: tuple[str, ...] = (),
    primary_ip: str = "",
    name: str = "",
    description: str = "",
    delete_on_release: bool = True,
    tags: dict[str, str] | None = None,
    client_token: str = "",
) -> Port:
    """CreateNetworkInterface: a card that no instance has yet."""
    validate.name("NetworkInterfaceName", name)
    validate.description("Description", description)
    checked = validate.tags(tags)
    wanted = tuple(dict.fromkeys(security_group_ids))

    async def body(unit: Unit) -> Port:
        vswitch = await need_vswitch(unit, caller, vswitch_id)
        await quotas.need(unit, caller.account, network_interfaces=1)
        await quotas.need_within(unit, caller.account, "groups_per_instance", len(wanted))
        for group_id in wanted:
            await need_group_in(unit, caller, group_id, vswitch.vpc)
        groups = wanted or ((await default_group(unit, caller, vswitch.vpc)).id,)
        used = [port.ip for port in await unit.list(Port) if port.vswitch == vswitch.id]
        if primary_ip:
            ip = addresses.check_ip(primary_ip, vswitch.id, vswitch.cidr, used)
        elif addresses.free_count(vswitch.cidr, used) < 1:
            raise addresses.no_ip_left(vswitch.id, vswitch.cidr)
        else:
            ip = next(addresses.free_ips(vswitch.cidr, used))
        port = Port(
            id=str(uuid.uuid4()),
            account=caller.account,
            eni=new_id("eni"),
            vpc=vswitch.vpc,
            vswitch=vswitch.id,
            mac=guest_mac(ip),
            ip=ip,
            security_groups=groups,
            primary=False,
            name=name,
            description=description,
            tags=checked,
            delete_with_instance=delete_on_release,
            created=now_utc(),
        )
        unit.add(port)
        return port

    arguments = [vswitch_id, wanted, primary_ip, name, description, delete_on_release, checked]
    return await transact(
        store, caller, body, Port, action="CreateNetworkInterface", token=client_token, arguments=arguments
    )


async def need_card(unit: Unit, caller: Caller, eni_id: str) -> Port:
    """Return the caller's network card or the API's error."""
    if not eni_id:
        raise errors.missing("NetworkInterfaceId")
    for port in await unit.list(Port):
        if port.eni == eni_id and port.account == caller.account:
            found = await unit.get(Port, port.id)
            if found is not None:
                return found
    raise errors.not_found("NetworkInterfaceId", eni_id, "InvalidEniId.NotFound")


def _need_idle(port: Port) -> None:
    if port.primary:
        raise ApiError(
            "InvalidOperation.InvalidEniType",
            f"{port.eni} is the primary network card of {port.instance}; it comes and goes with the instance.",
            errors.FORBIDDEN,
        )
    if port.job:
        raise ApiError(
            "InvalidOperation.InvalidEniState",
            f"Another operation on {port.eni} is under way; wait until it is over, and try again.",
            errors.CONFLICT,
        )


async def attach_network_interface(store: Store, caller: Caller, instance_id: str, eni_id: str) -> None:
    """AttachNetworkInterface: to a running guest it is plugged hot."""

    async def body(unit: Unit) -> None:
        instance = await need_instance(unit, caller, instance_id)
        port = await need_card(unit, caller, eni_id)
        if port.instance == instance.id and port.state != "Detaching":
            return  # asked for twice
        _need_idle(port)
        decide(INSTANCE, instance.status, "attach_nic", instance.id)
        if port.instance:
            raise ApiError(
                "InvalidOperation.InvalidEniState",
                f"{port.eni} is attached to {port.instance}; detach it first.",
                errors.CONFLICT,
            )
        if port.vpc != instance.vpc:
            raise errors.invalid(
                "NetworkInterfaceId", eni_id, f"it is in {port.vpc}, the instance in {instance.vpc}; use one there",
                "InvalidVpcId.Mismatch",
            )  # fmt: skip
        types = await instance_types.table(unit)
        kind = types.get(instance.instance_type)
        cards = 1 + sum(1 for one in await unit.list(Port) if one.instance == instance.id and not one.primary)
        if kind is not None and cards >= kind.nics:
            raise ApiError(
                "InvalidOperation.EniCountExceeded",
                f"{instance.id} has {cards} network cards, as many as {kind.id} allows; detach one, or use a type "
                "that allows more.",
                errors.FORBIDDEN,
            )
        job = new_job(caller, "attach_nic", port.id, instance=instance.id)
        unit.put(msgspec.structs.replace(port, instance=instance.id, state="Attaching", job=job.id, reason=""))
        unit.add(job)

    await transact(store, caller, body, type(None))


async def detach_network_interface(store: Store, caller: Caller, instance_id: str, eni_id: str) -> None:
    """DetachNetworkInterface: from a running guest it is unplugged hot; the guest must let go of it."""

    async def body(unit: Unit) -> None:
        instance = await need_instance(unit, caller, instance_id)
        port = await need_card(unit, caller, eni_id)
        _need_idle(port)
        decide(INSTANCE, instance.status, "detach_nic", instance.id)
        if port.instance != instance.id:
            raise ApiError(
                "InvalidOperation.InvalidEniState",
                f"{port.eni} is attached to {port.instance or 'no instance'}, not to {instance.id}; name that one.",
                errors.CONFLICT,
            )
        job = new_job(caller, "detach_nic", port.id, instance=instance.id)
        unit.put(msgspec.structs.replace(port, state="Detaching", job=job.id, reason=""))
        unit.add(job)

    await transact(store, caller, body, type(None))


async def delete_network_interface(store: Store, caller: Caller, eni_id: str) -> None:
    """DeleteNetworkInterface: of a card that no instance has."""

    async def body(unit: Unit) -> None:
        port = await need_card(unit, caller, eni_id)
        _need_idle(port)
        if port.instance:
            raise ApiError(
                "InvalidOperation.InvalidEniState",
                f"{port.eni} is attached to {port.instance}; detach it first.",
                errors.CONFLICT,
            )
        unit.delete(Port, port.id)

    await transact(store, caller, body, type(None))


async def modify_network_interface(
    store: Store,
    caller: Caller,
    eni_id: str,
    *,
    name: str | None = None,
    description: str | None = None,
    delete_on_release: bool | None = None,
    security_group_ids: tuple[str, ...] = (),
) -> None:
    """ModifyNetworkInterfaceAttribute; the groups of a primary card are its instance's."""
    validate.name("NetworkInterfaceName", name or "")
    validate.description("Description", description or "")
    wanted = tuple(dict.fromkeys(security_group_ids))

    async def body(unit: Unit) -> None:
        port = await need_card(unit, caller, eni_id)
        if wanted and port.primary:
            raise errors.invalid("SecurityGroupId", ",".join(wanted), "a primary card has the groups of its instance")
        await quotas.need_within(unit, caller.account, "groups_per_instance", len(wanted))
        for group_id in wanted:
            await need_group_in(unit, caller, group_id, port.vpc)
        keep = port.delete_with_instance if delete_on_release is None else delete_on_release
        unit.put(
            msgspec.structs.replace(
                port,
                name=port.name if name is None else name,
                description=port.description if description is None else description,
                delete_with_instance=keep,
                security_groups=wanted or port.security_groups,
            )
        )

    await transact(store, caller, body, type(None))
