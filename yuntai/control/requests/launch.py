"""RunInstances and CreateInstance: from parameters to the records of instance, port and disks, and one job each."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from yuntai.control import errors, instance_types, scheduler
from yuntai.control.errors import ApiError
from yuntai.control.placer import fleet_of
from yuntai.control.requests import addresses, credentials, quotas, validate
from yuntai.control.requests.base import decide, new_job, transact
from yuntai.control.requests.dedicated_hosts import need_dedicated_host
from yuntai.control.requests.default_network import default_group, default_vswitch
from yuntai.control.requests.deployment_sets import check_group, need_deployment_set
from yuntai.control.requests.disks import DEVICES, size_from, volume_of
from yuntai.control.requests.images import need_image
from yuntai.control.requests.keypairs import need_key_pair
from yuntai.control.requests.security_groups import need_group, need_group_in
from yuntai.control.requests.snapshots import need_snapshot
from yuntai.control.requests.types import DiskSpec
from yuntai.control.requests.vswitches import need_vswitch
from yuntai.model.base import new_id, now_utc
from yuntai.model.compute import Disk, Image, Instance, InstanceType, Snapshot
from yuntai.model.lifecycle_storage import IMAGE, SNAPSHOT
from yuntai.model.network import Port, Vpc, VSwitch
from yuntai.network.addresses import guest_mac
from yuntai.state.store import TXN_OPERATIONS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.control.requests.types import Caller, RunInstances
    from yuntai.control.unit import Unit
    from yuntai.state import Store

AMOUNT_MAX = 100
DATA_DISKS_MAX = 16
DATA_DISK_GIB = 20
_SPARE_WRITES = 8  # guards, token, default network
_RECORDS_BESIDE_DISKS = 3  # instance, port, job


class _Parts(NamedTuple):
    """What all instances of one request share."""

    kind: InstanceType
    image: Image
    vswitch: VSwitch
    groups: tuple[str, ...]
    system_gib: int
    data: tuple[tuple[DiskSpec, int, Snapshot | None], ...]
    password_hash: str
    deployment_set: str
    group: int


async def run_instances(store: Store, caller: Caller, request: RunInstances) -> list[str]:
    """RunInstances: return the ids; the instances go Pending, Starting, Running."""
    return await _launch(store, caller, request, "RunInstances", start=True)


async def create_instance(store: Store, caller: Caller, request: RunInstances) -> str:
    """CreateInstance: one instance, which ends Stopped."""
    one = msgspec.structs.replace(request, amount=1, min_amount=0)
    return (await _launch(store, caller, one, "CreateInstance", start=False))[0]


async def _launch(store: Store, caller: Caller, request: RunInstances, action: str, *, start: bool) -> list[str]:
    _check(caller, request)
    hashed = await asyncio.to_thread(credentials.hash_password, request.password) if request.password else ""

    async def body(unit: Unit) -> list[str]:
        parts = await _resolve(unit, caller, request, hashed)
        count = await _how_many(unit, caller, request, parts)
        ips = await _addresses(unit, request, parts.vswitch, count)
        ids = []
        for index in range(count):
            suffix = f"{index + 1:03d}" if request.unique_suffix and request.amount > 1 else ""
            ids.append(_write(unit, caller, request, parts, next(ips), suffix, start=start))
        return ids

    # The password itself must not be told from the token's record, so only whether there is one counts.
    plain = msgspec.structs.replace(request, client_token="", dry_run=False, password="set" if hashed else "")
    return await transact(
        store,
        caller,
        body,
        list[str],
        action=action,
        token=request.client_token,
        arguments=plain,
        dry_run=request.dry_run,
    )


def _check(caller: Caller, request: RunInstances) -> None:
    """Check what can be checked without records."""
    if not request.image_id:
        raise errors.missing("ImageId")
    if not request.instance_type:
        raise errors.missing("InstanceType")
    validate.zone(request.zone_id, caller.zone)
    validate.name("InstanceName", request.name, code="InvalidInstanceName.Malformed")
    validate.description("Description", request.description)
    validate.hostname(request.hostname)
    validate.user_data(request.user_data)
    validate.tags(request.tags)
    if request.password:
        if request.key_pair_name:
            raise ApiError(
                "InvalidParameter.Conflict", "Password and KeyPairName exclude each other; give one of them."
            )
        validate.password(request.password)
    if not 1 <= request.amount <= AMOUNT_MAX:
        raise errors.invalid("Amount", request.amount, f"use 1 to {AMOUNT_MAX}", "InvalidParameter.Amount")
    if not 0 <= request.min_amount <= request.amount:
        raise errors.invalid("MinAmount", request.min_amount, "use 1 to Amount", "InvalidParameter.MinAmount")
    if request.private_ip and request.amount > 1:
        raise errors.invalid("PrivateIpAddress", request.private_ip, "leave it out when Amount is above 1")
    if len(request.data_disks) > DATA_DISKS_MAX:
        raise errors.invalid("DataDisk.N", f"{len(request.data_disks)} disks", f"use at most {DATA_DISKS_MAX}")
    for field, spec in _disk_fields(request):
        validate.disk_category(f"{field}.Category", spec.category)
        validate.name(f"{field}.DiskName", spec.name, code="InvalidDiskName.Malformed")
        validate.description(f"{field}.Description", spec.description)


def _disk_fields(request: RunInstances) -> Iterator[tuple[str, DiskSpec]]:
    yield "SystemDisk", request.system_disk
    for number, spec in enumerate(request.data_disks, 1):
        yield f"DataDisk.{number}", spec


async def _resolve(unit: Unit, caller: Caller, request: RunInstances, hashed: str) -> _Parts:
    """Look up everything that the request names."""
    kind = await instance_types.need(unit, request.instance_type)
    deployment_set, group = await _deployment_set(unit, caller, request)
    if request.dedicated_host_id:
        await need_dedicated_host(unit, caller, request.dedicated_host_id)
    image = await need_image(unit, caller, request.image_id)
    decide(IMAGE, image.status, "use", image.id)
    vswitch = await _vswitch(unit, caller, request)
    if request.security_group_ids:
        groups = tuple(dict.fromkeys(request.security_group_ids))
        await quotas.need_within(unit, caller.account, "groups_per_instance", len(groups))
        for group_id in groups:
            await need_group_in(unit, caller, group_id, vswitch.vpc)
    else:
        groups = ((await default_group(unit, caller, vswitch.vpc)).id,)
    if request.key_pair_name:
        await need_key_pair(unit, caller, request.key_pair_name)
    system_gib = request.system_disk.size_gib if request.system_disk.size_gib is not None else image.size_gib
    validate.disk_size("SystemDisk.Size", system_gib)
    if system_gib < image.size_gib:
        raise errors.invalid(
            "SystemDisk.Size",
            system_gib,
            f"the image {image.id} needs {image.size_gib} GiB or more",
            "InvalidSystemDiskSize.LessThanImageSize",
        )
    data: list[tuple[DiskSpec, int, Snapshot | None]] = []
    for own in image.data_disks:
        snapshot = await unit.get(Snapshot, own.snapshot)
        if snapshot is None:
            raise errors.not_found("snapshot", own.snapshot, "InvalidSnapshotId.NotFound")
        data.append((DiskSpec(snapshot_id=own.snapshot), own.size_gib, snapshot))
    if len(data) + len(request.data_disks) > DATA_DISKS_MAX:
        raise errors.invalid(
            "DataDisk.N",
            f"{len(request.data_disks)} disks",
            f"the image has {len(data)}, and {DATA_DISKS_MAX} are possible",
        )
    for number, spec in enumerate(request.data_disks, 1):
        snapshot = None
        if spec.snapshot_id:
            snapshot = await need_snapshot(unit, caller, spec.snapshot_id)
            decide(SNAPSHOT, snapshot.status, "use", snapshot.id)
        data.append((spec, size_from(f"DataDisk.{number}.Size", spec.size_gib, snapshot, DATA_DISK_GIB), snapshot))
    return _Parts(kind, image, vswitch, groups, system_gib, tuple(data), hashed, deployment_set, group)


async def _deployment_set(unit: Unit, caller: Caller, request: RunInstances) -> tuple[str, int]:
    if not request.deployment_set_id:
        return "", 0
    one = await need_deployment_set(unit, caller, request.deployment_set_id)
    return one.id, check_group(one, request.deployment_set_group)


async def _vswitch(unit: Unit, caller: Caller, request: RunInstances) -> VSwitch:
    """Return the vSwitch that is named, else one beside the named group, else the default one."""
    if request.vswitch_id:
        return await need_vswitch(unit, caller, request.vswitch_id)
    if request.security_group_ids:
        group = await need_group(unit, caller, request.security_group_ids[0])
        beside = sorted(s.id for s in await unit.list(VSwitch) if s.vpc == group.vpc and s.zone == caller.zone)
        if not beside:
            vpc = await unit.get(Vpc, group.vpc)
            if vpc is not None and vpc.is_default:
                return await default_vswitch(unit, caller)
            raise errors.missing("VSwitchId")
        return await need_vswitch(unit, caller, beside[0])
    return await default_vswitch(unit, caller)


async def _how_many(unit: Unit, caller: Caller, request: RunInstances, parts: _Parts) -> int:
    """Return how many instances are possible, between MinAmount and Amount, by quota, capacity and transaction."""
    needed = request.min_amount or request.amount
    disks = 1 + len(parts.data)
    gib = parts.system_gib + sum(size for _, size, _ in parts.data)
    in_one_call = (TXN_OPERATIONS_MAX - _SPARE_WRITES) // (_RECORDS_BESIDE_DISKS + disks)
    if needed > in_one_call:
        raise errors.invalid(
            "Amount", request.amount, f"at most {in_one_call} instances of {disks} disks go into one call; make several"
        )
    each = {"instances": 1, "network_interfaces": 1, "vcpus": parts.kind.cpu, "disks": disks, "disk_gib": gib}
    room = await quotas.room(unit, caller.account, **each)
    if room < needed:
        await quotas.need(unit, caller.account, **{name: amount * needed for name, amount in each.items()})
    count = min(request.amount, in_one_call, room)
    wanted = scheduler.Request(
        "",
        parts.kind.cpu,
        parts.kind.memory_mib,
        deployment_set=parts.deployment_set,
        group=parts.group,
        dedicated_host=request.dedicated_host_id,
    )
    fitting, why = (await fleet_of(unit)).fit(wanted, count)
    if fitting < needed:
        raise ApiError(
            "OperationDenied.NoStock",
            f"{fitting} of {needed} instances of {parts.kind.id} fit now: {why}; use a smaller type or try later.",
            errors.FORBIDDEN,
        )
    return fitting


async def _addresses(unit: Unit, request: RunInstances, vswitch: VSwitch, count: int) -> Iterator[str]:
    used = [port.ip for port in await unit.list(Port) if port.vswitch == vswitch.id]
    if request.private_ip:
        return iter([addresses.check_ip(request.private_ip, vswitch.id, vswitch.cidr, used)])
    if addresses.free_count(vswitch.cidr, used) < count:
        raise addresses.no_ip_left(vswitch.id, vswitch.cidr)
    return addresses.free_ips(vswitch.cidr, used)


def _write(
    unit: Unit, caller: Caller, request: RunInstances, parts: _Parts, ip: str, suffix: str, *, start: bool
) -> str:
    """Write one instance with its port, its disks and the job that makes them real; return its id."""
    instance_id = new_id("i")
    disks = _disks(caller, request, parts, instance_id)
    sources = [(parts.image.volume, parts.image.node)]
    sources += [(snapshot.volume, snapshot.node) if snapshot else ("", 0) for _, _, snapshot in parts.data]
    volumes = [volume_of(disk, source if source[0] else None) for disk, source in zip(disks, sources, strict=True)]
    job = new_job(caller, "create_instance", instance_id, start=start, volumes=volumes)
    name = (request.name or instance_id) + suffix
    hostname = (request.hostname or instance_id) + suffix
    port = Port(
        id=str(uuid.uuid4()),
        account=caller.account,
        eni=new_id("eni"),
        vpc=parts.vswitch.vpc,
        vswitch=parts.vswitch.id,
        # From the address: whoever takes it over later has the MAC that neighbours still remember.
        mac=guest_mac(ip),
        ip=ip,
        security_groups=parts.groups,
        instance=instance_id,
        hostname=hostname,
        created=now_utc(),
    )
    instance = Instance(
        id=instance_id,
        account=caller.account,
        name=name,
        hostname=hostname,
        description=request.description,
        zone=caller.zone,
        instance_type=parts.kind.id,
        cpu=parts.kind.cpu,
        memory_mib=parts.kind.memory_mib,
        image=parts.image.id,
        desired="stopped",  # until disks and port are there
        vpc=parts.vswitch.vpc,
        vswitch=parts.vswitch.id,
        port=port.id,
        security_groups=parts.groups,
        system_disk=disks[0].id,
        disks=tuple(disk.id for disk in disks),
        user_data=request.user_data,
        key_pair=request.key_pair_name,
        password_hash=parts.password_hash,
        tags=request.tags,
        created=now_utc(),
        deletion_protection=request.deletion_protection,
        restart_policy=request.restart_policy,
        job=job.id,
        deployment_set=parts.deployment_set,
        deployment_set_group=parts.group,
        dedicated_host=request.dedicated_host_id,
    )
    for record in (instance, port, job, *(msgspec.structs.replace(disk, job=job.id) for disk in disks)):
        unit.add(record)
    return instance_id


def _disks(caller: Caller, request: RunInstances, parts: _Parts, instance_id: str) -> list[Disk]:
    spec = request.system_disk
    rows = [(spec, parts.system_gib, "", parts.image.id)]
    rows += [(data, size, snapshot.id if snapshot else "", "") for data, size, snapshot in parts.data]
    return [
        Disk(
            id=new_id("d"),
            account=caller.account,
            name=row.name,
            description=row.description,
            zone=caller.zone,
            category=validate.disk_category("Category", row.category),
            kind="data" if index else "system",
            size_gib=size,
            volume=new_id("vol"),
            instance=instance_id,
            device=DEVICES[index],
            delete_with_instance=row.delete_with_instance,
            source_snapshot=snapshot_id,
            source_image=image_id,
            created=now_utc(),
        )
        for index, (row, size, snapshot_id, image_id) in enumerate(rows)
    ]
