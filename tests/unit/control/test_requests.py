"""What requests accept, refuse and write."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from passlib.hash import sha512_crypt

from tests.unit.control.world import ACCOUNT, CALLER, World, small
from yuntai.control import housekeeping
from yuntai.control.errors import ApiError
from yuntai.control.requests import (
    disks,
    images,
    instances,
    keypairs,
    quotas,
    security_groups,
    snapshots,
    tags,
    vpcs,
    vswitches,
)
from yuntai.control.requests.types import (
    Caller,
    DiskFilter,
    DiskSpec,
    InstanceChange,
    InstanceFilter,
    Paging,
    RuleSpec,
)
from yuntai.model.cluster import Account, ClientToken, Job, Volume
from yuntai.model.compute import Disk, Image, Instance, Snapshot
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.network.addresses import guest_mac

if TYPE_CHECKING:
    from collections.abc import Awaitable

OTHER = Caller(account="2000000000000002")


@pytest.fixture
async def world() -> World:
    made = World()
    await made.set_up()
    return made


async def refused(request: Awaitable[Any], code: str, status: int | None = None, *words: str) -> None:
    with pytest.raises(ApiError) as caught:
        await request
    assert caught.value.code == code, caught.value
    if status is not None:
        assert caught.value.http_status == status
    for word in words:
        assert word in caught.value.message


async def running(world: World, **changes: Any) -> Instance:
    (instance_id,) = await instances.run_instances(world.store, CALLER, small(**changes))
    await world.drive()
    return (await world.store.need(Instance, instance_id)).value


# ---------------------------------------------------------------- instances


async def test_run_instances_writes_everything_in_one_transaction(world: World) -> None:
    before = world.memory.revision
    (instance_id,) = await instances.run_instances(world.store, CALLER, small(data_disks=(DiskSpec(size_gib=3),)))
    assert world.memory.revision == before + 1
    instance = (await world.store.need(Instance, instance_id)).value
    assert (instance.status, instance.desired, instance.host) == ("Pending", "stopped", "")
    (port,) = await world.all(Port)
    assert (port.ip, port.instance) == ("172.31.0.2", instance_id)
    assert port.mac == guest_mac(port.ip)  # so that the next one with this address has it too
    assert [d.device for d in sorted(await world.all(Disk), key=lambda d: d.device)] == ["/dev/vda", "/dev/vdb"]
    (job,) = await world.all(Job)
    assert (job.action, job.resource, job.request_id) == ("create_instance", instance_id, "req-1")
    assert {r.is_default for kind in (Vpc, VSwitch, SecurityGroup) for r in await world.all(kind)} == {True}


async def test_many_instances_at_once_get_different_names_and_addresses(world: World) -> None:
    ids = await instances.run_instances(
        world.store, CALLER, small(amount=5, name="web", hostname="web", unique_suffix=True)
    )
    assert len(ids) == 5
    await world.drive()
    await world.check()
    assert sorted(i.name for i in await world.all(Instance)) == [f"web00{n}" for n in range(1, 6)]
    assert len(await world.all(Vpc)) == 1


async def test_concurrent_requests_never_share_an_address_or_make_two_defaults(world: World) -> None:
    await asyncio.gather(*(instances.run_instances(world.store, CALLER, small()) for _ in range(12)))
    ports = await world.all(Port)
    assert len({p.ip for p in ports}) == 12
    assert len(await world.all(SecurityGroup)) == len(await world.all(VSwitch)) == 1


@pytest.mark.parametrize(
    ("changes", "code", "status"),
    [
        ({"image_id": ""}, "MissingParameter", 400),
        ({"image_id": "m-none"}, "InvalidImageId.NotFound", 404),
        ({"instance_type": "ecs.big"}, "InvalidInstanceType.ValueNotSupported", 400),
        ({"vswitch_id": "vsw-none"}, "InvalidVSwitchId.NotFound", 404),
        ({"security_group_ids": ("sg-none",)}, "InvalidSecurityGroupId.NotFound", 404),
        ({"zone_id": "cn-other"}, "InvalidZoneId.NotFound", 404),
        ({"key_pair_name": "none"}, "InvalidKeyPairName.NotFound", 404),
        ({"name": "1bad"}, "InvalidInstanceName.Malformed", 400),
        ({"hostname": "-bad-"}, "InvalidHostName.Malformed", 400),
        ({"user_data": "%%%"}, "InvalidUserData.Base64FormatInvalid", 400),
        ({"user_data": base64.b64encode(bytes(33000)).decode()}, "InvalidUserData.SizeExceeded", 400),
        ({"password": "short"}, "InvalidPassword.Malformed", 400),
        ({"password": "Good1234", "key_pair_name": "k1"}, "InvalidParameter.Conflict", 400),
        ({"amount": 0}, "InvalidParameter.Amount", 400),
        ({"amount": 2, "min_amount": 3}, "InvalidParameter.MinAmount", 400),
        ({"amount": 2, "private_ip": "172.31.0.9"}, "InvalidParameter", 400),
        ({"private_ip": "172.31.0.1"}, "InvalidPrivateIpAddress.Malformed", 400),
        ({"private_ip": "elsewhere"}, "InvalidPrivateIpAddress.Malformed", 400),
        ({"system_disk": DiskSpec(size_gib=0)}, "InvalidDiskSize.ValueNotSupported", 400),
        ({"system_disk": DiskSpec(category="tape")}, "InvalidDiskCategory.ValueNotSupported", 400),
        ({"data_disks": (DiskSpec(snapshot_id="s-none"),)}, "InvalidSnapshotId.NotFound", 404),
        ({"tags": {"acs:x": "1"}}, "InvalidTagKey.Malformed", 400),
        ({"amount": 60}, "InvalidParameter", 400),
        ({"instance_type": "ecs.yt1.xlarge", "amount": 5}, "OperationDenied.NoStock", 403),
        ({"client_token": "x" * 65}, "InvalidParameter", 400),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_run_instances_refuses(world: World, changes: dict[str, Any], code: str, status: int) -> None:
    await refused(instances.run_instances(world.store, CALLER, small(**changes)), code, status)
    assert await world.all(Instance) == []
    assert await world.all(Job) == []


async def test_an_error_names_field_value_and_way_out(world: World) -> None:
    request = small(instance_type="ecs.big")
    await refused(
        instances.run_instances(world.store, CALLER, request), "InvalidInstanceType.ValueNotSupported", 400,
        "InstanceType", "ecs.big", "ecs.yt1.nano",
    )  # fmt: skip


async def test_a_password_is_stored_only_as_a_hash(world: World) -> None:
    secret = "Correct-Horse1"
    (one,) = await instances.run_instances(world.store, CALLER, small(password=secret, client_token="t"))
    record = (await world.store.need(Instance, one)).value
    assert sha512_crypt.verify(secret, record.password_hash)
    assert all(secret.encode() not in entry.value for entry in world.memory.entries.values())
    await refused(
        instances.run_instances(world.store, CALLER, small(password="BadBadBad")), "InvalidPassword.Malformed", 400
    )


async def test_dry_run_says_so_and_writes_nothing(world: World) -> None:
    await refused(instances.run_instances(world.store, CALLER, small(dry_run=True)), "DryRunOperation", 400)
    assert await world.all(Instance) == []


async def test_a_token_makes_the_same_request_answer_the_same(world: World) -> None:
    first = await instances.run_instances(world.store, CALLER, small(client_token="t1"))
    assert await instances.run_instances(world.store, CALLER, small(client_token="t1")) == first
    both = await asyncio.gather(
        *(instances.run_instances(world.store, CALLER, small(client_token="t2")) for _ in range(3))
    )
    assert both[0] == both[1] == both[2]
    assert len(await world.all(Instance)) == 2
    await refused(
        instances.run_instances(world.store, CALLER, small(client_token="t1", name="other")),
        "IdempotentParameterMismatch",
        400,
    )
    token = (await world.store.need(ClientToken, f"{ACCOUNT}:RunInstances:t1")).value
    await world.store.put(msgspec.structs.replace(token, created="2020-01-01T00:00:00Z"))
    assert await instances.run_instances(world.store, CALLER, small(client_token="t1", name="other")) != first


async def test_a_group_of_the_default_vpc_is_enough_to_place_an_instance(world: World) -> None:
    group = await security_groups.create_security_group(world.store, CALLER)  # the default VPC, with no vSwitch yet
    one = await running(world, security_group_ids=(group,))
    assert one.security_groups == (group,)
    assert [s.is_default for s in await world.all(VSwitch)] == [True]
    lonely = (await vpcs.create_vpc(world.store, CALLER, cidr="10.0.0.0/16")).vpc_id
    group = await security_groups.create_security_group(world.store, CALLER, vpc_id=lonely)
    await refused(
        instances.run_instances(world.store, CALLER, small(security_group_ids=(group,))), "MissingParameter", 400
    )


async def test_min_amount_takes_what_fits(world: World) -> None:
    request = small(instance_type="ecs.yt1.xlarge", amount=9, min_amount=2)
    assert len(await instances.run_instances(world.store, CALLER, request)) == 4  # two hosts of 16 GiB, 8 GiB each


async def test_quota_of_the_account_is_derived_and_held(world: World) -> None:
    await world.store.update(Account, ACCOUNT, lambda a: msgspec.structs.replace(a, quotas={"instances": 2}))
    await refused(
        instances.run_instances(world.store, CALLER, small(amount=3)), "QuotaExceed.Instance", 403, "2 allowed"
    )
    ids = await instances.run_instances(world.store, CALLER, small(amount=3, min_amount=1))
    assert len(ids) == 2
    use = {q.name: (q.used, q.limit) for q in await quotas.describe_quotas(world.store, CALLER)}
    assert use["instances"] == (2, 2)


async def test_create_instance_ends_stopped_and_starts_later(world: World) -> None:
    one = await instances.create_instance(world.store, CALLER, small())
    await world.drive()
    detail = await instances.get_instance(world.store, CALLER, one)
    assert (detail.instance.status, detail.instance.host) == ("Stopped", "")
    await instances.start_instance(world.store, CALLER, one)
    await world.drive()
    assert (await instances.get_instance(world.store, CALLER, one)).instance.status == "Running"
    await refused(instances.start_instance(world.store, CALLER, one), "IncorrectInstanceStatus", 403, "Running")


async def test_power_and_deletion(world: World) -> None:
    one = (await running(world)).id
    await refused(instances.delete_instance(world.store, CALLER, one), "IncorrectInstanceStatus", 403, "Force=true")
    await instances.reboot_instance(world.store, CALLER, one)
    assert (await world.store.need(Instance, one)).value.reboot_seq == 1
    await world.drive()
    await instances.stop_instance(world.store, CALLER, one)
    await world.drive()
    change = InstanceChange(deletion_protection=True)
    await instances.modify_instance_attribute(world.store, CALLER, one, change)
    await refused(instances.delete_instance(world.store, CALLER, one), "InvalidOperation.DeletionProtection", 403)
    change = InstanceChange(deletion_protection=False, hostname="new", name="renamed", password="Abcdef12")
    await instances.modify_instance_attribute(world.store, CALLER, one, change)
    assert [p.hostname for p in await world.all(Port)] == ["new"]
    await instances.delete_instance(world.store, CALLER, one)
    await world.drive()
    await refused(instances.get_instance(world.store, CALLER, one), "InvalidInstanceId.NotFound", 404)
    await world.check()


async def test_plural_requests_all_together_or_each_for_itself(world: World) -> None:
    first, second = (await running(world)).id, (await running(world)).id
    await instances.stop_instance(world.store, CALLER, first)
    await world.drive()
    await refused(instances.stop_instances(world.store, CALLER, (second, first)), "IncorrectInstanceStatus")
    assert (await world.store.need(Instance, second)).value.status == "Running"
    each = await instances.stop_instances(world.store, CALLER, (second, first, "i-none"), all_together=False)
    assert [r.code for r in each] == ["200", "IncorrectInstanceStatus", "InvalidInstanceId.NotFound"]
    await world.drive()
    await instances.delete_instances(world.store, CALLER, (first, second))
    await world.drive()
    assert await world.all(Instance) == []


async def test_nobody_sees_or_touches_what_another_account_owns(world: World) -> None:
    one = await running(world)
    await refused(instances.stop_instance(world.store, OTHER, one.id), "InvalidInstanceId.NotFound", 404)
    await refused(disks.delete_disk(world.store, OTHER, one.system_disk), "InvalidDiskId.NotFound", 404)
    await refused(vpcs.get_vpc(world.store, OTHER, one.vpc), "InvalidVpcID.NotFound", 404)
    assert (await instances.describe_instances(world.store, OTHER, InstanceFilter(), Paging())).total == 0


async def test_describe_filters_and_pages(world: World) -> None:
    await instances.run_instances(world.store, CALLER, small(amount=5, name="web", tags={"a": "1"}))
    await instances.run_instances(world.store, CALLER, small(name="db"))
    await world.drive()

    async def count(**wanted: Any) -> int:
        return (await instances.describe_instances(world.store, CALLER, InstanceFilter(**wanted), Paging())).total

    assert [await count(), await count(name="w*"), await count(tags={"a": None}), await count(tags={"a": "2"})] == [
        6,
        5,
        5,
        0,
    ]
    assert [await count(status="Running"), await count(status="Stopped")] == [6, 0]
    assert await count(private_ips=("172.31.0.2",)) == 1
    names = []
    token = ""
    for _ in range(10):
        paging = Paging(max_results=4, next_token=token)
        page = await instances.describe_instances(world.store, CALLER, InstanceFilter(), paging)
        names += [detail.instance.id for detail in page.items]
        token = page.next_token
        if not token:
            break
    assert len(names) == len(set(names)) == 6
    second = await instances.describe_instances(
        world.store, CALLER, InstanceFilter(), Paging(page_number=2, page_size=4)
    )
    assert (len(second.items), second.total) == (2, 6)
    assert all(detail.port is not None and detail.image is not None for detail in second.items)
    bad = Paging(max_results=3, next_token="nonsense")
    await refused(instances.describe_instances(world.store, CALLER, InstanceFilter(), bad), "InvalidParameter", 400)


# ---------------------------------------------------------------- disks, snapshots, images


async def test_disks_attach_hot_and_detach(world: World) -> None:
    one = await running(world)
    disk = await disks.create_disk(world.store, CALLER, size_gib=2, name="data", tags={"k": "v"})
    await refused(disks.attach_disk(world.store, CALLER, one.id, disk), "IncorrectDiskStatus", 403, "Creating")
    await world.drive()
    await disks.attach_disk(world.store, CALLER, one.id, disk)
    await refused(disks.delete_disk(world.store, CALLER, disk), "IncorrectDiskStatus", 403)
    await world.drive()
    page = await disks.describe_disks(world.store, CALLER, DiskFilter(instance_id=one.id, kind="data"), Paging())
    assert [(d.disk.status, d.disk.device) for d in page.items] == [("In_use", "/dev/vdb")]
    await refused(disks.detach_disk(world.store, CALLER, one.id, one.system_disk), "InvalidDiskId.NotPortable")
    await disks.detach_disk(world.store, CALLER, one.id, disk)
    await world.drive()
    await disks.resize_disk(world.store, CALLER, disk, 4)
    await refused(disks.resize_disk(world.store, CALLER, disk, 9), "OperationConflict", 409)
    await world.drive()
    await refused(disks.resize_disk(world.store, CALLER, disk, 4), "InvalidDiskSize.TooSmall")
    await disks.delete_disk(world.store, CALLER, disk)
    await world.drive()
    await world.check()


async def test_a_snapshot_outlives_its_disk_and_makes_another(world: World) -> None:
    disk = await disks.create_disk(world.store, CALLER, size_gib=2)
    await world.drive()
    snapshot = await snapshots.create_snapshot(world.store, CALLER, disk)
    await refused(snapshots.create_snapshot(world.store, CALLER, disk), "IncorrectDiskStatus.CreateSnapshot", 403)
    await refused(disks.create_disk(world.store, CALLER, snapshot_id=snapshot), "IncorrectSnapshotStatus", 403)
    await world.drive()
    await disks.delete_disk(world.store, CALLER, disk)
    await world.drive()
    await refused(disks.create_disk(world.store, CALLER, snapshot_id=snapshot, size_gib=1), "InvalidDiskSize.TooSmall")
    clone = await disks.create_disk(world.store, CALLER, snapshot_id=snapshot)
    await refused(snapshots.delete_snapshot(world.store, CALLER, snapshot), "SnapshotCreatedDisk", 403)
    await world.drive()
    volume = (await world.store.need(Disk, clone)).value.volume
    await world.hydrate(volume, done=False)
    await refused(snapshots.delete_snapshot(world.store, CALLER, snapshot), "SnapshotCreatedDisk", 403, clone)
    page = await disks.describe_disks(world.store, CALLER, DiskFilter(ids=(clone,)), Paging())
    assert page.items[0].hydrated_percent == 0
    # By force it goes at once, under a disk that still reads it; its volume stays until that has its copy.
    await snapshots.delete_snapshot(world.store, CALLER, snapshot, force=True)
    await world.drive()
    assert await world.all(Snapshot) == []
    source = world.volumes.volumes[volume].source
    assert source is not None
    assert world.volumes.volumes[source[0]].snapshots == {}
    await world.check(extra_volumes=[source[0]])
    await world.store.put(Volume(id=source[0], size_bytes=2 << 30, created="2026-01-01T00:00:00Z"))
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=30)
    await housekeeping.clean(world.store, world.volumes, now=later)
    assert source[0] in world.volumes.volumes
    await world.hydrate(volume, done=True)
    await housekeeping.clean(world.store, world.volumes, now=later)
    await world.check()


async def test_images_stand_on_snapshots_and_under_instances(world: World) -> None:
    one = await running(world)
    image = await images.create_image(world.store, CALLER, instance_id=one.id, name="golden")
    await refused(instances.run_instances(world.store, CALLER, small(image_id=image)), "IncorrectImageStatus", 403)
    await world.drive()
    await refused(
        images.create_image(world.store, CALLER, instance_id=one.id, name="golden"), "InvalidImageName.Duplicated"
    )
    (snapshot,) = await world.all(Snapshot)
    await refused(snapshots.delete_snapshot(world.store, CALLER, snapshot.id), "SnapshotCreatedImage")
    twice = await images.create_image(world.store, CALLER, snapshot_id=snapshot.id)
    child = await running(world, image_id=twice)
    volume = (await world.store.need(Disk, child.system_disk)).value.volume
    await world.hydrate(volume, done=False)
    await refused(images.delete_image(world.store, CALLER, twice), "ImageUsed", 403, child.system_disk)
    await world.hydrate(volume, done=True)
    await images.delete_image(world.store, CALLER, twice)
    await world.drive()
    await world.check()
    shown = await images.describe_images(world.store, CALLER, paging=Paging())
    assert {i.owner_alias for i in shown.items} == {"self", "system"}
    public = next(i for i in await world.all(Image) if not i.account)
    await refused(images.delete_image(world.store, CALLER, public.id), "Forbidden.RAM", 403)


# ---------------------------------------------------------------- network


async def test_vpcs_and_vswitches(world: World) -> None:
    made = await vpcs.create_vpc(world.store, CALLER, cidr="10.0.0.0/16", name="net", client_token="t")
    assert await vpcs.create_vpc(world.store, CALLER, cidr="10.0.0.0/16", name="net", client_token="t") == made
    assert (await vpcs.get_vpc(world.store, CALLER, made.vpc_id)).ext_ip == "100.64.0.10"
    await refused(vpcs.create_vpc(world.store, CALLER, cidr="8.8.8.0/24"), "InvalidCidrBlock.Malformed")
    await refused(vpcs.create_vpc(world.store, CALLER, cidr="10.0.0.1/16"), "InvalidCidrBlock.Malformed")
    make = vswitches.create_vswitch
    first = await make(world.store, CALLER, vpc_id=made.vpc_id, cidr="10.0.1.0/29")
    await refused(make(world.store, CALLER, vpc_id=made.vpc_id, cidr="10.0.1.0/28"), "InvalidCidrBlock.Overlapped")
    await refused(make(world.store, CALLER, vpc_id=made.vpc_id, cidr="10.1.0.0/24"), "InvalidCidrBlock")
    await refused(make(world.store, CALLER, vpc_id="vpc-none", cidr="10.0.2.0/24"), "InvalidVpcID.NotFound", 404)
    await refused(vpcs.delete_vpc(world.store, CALLER, made.vpc_id), "DependencyViolation.VSwitch", 400)
    assert await vswitches.free_addresses(world.store, CALLER, (first,)) == {first: 2}
    await instances.run_instances(world.store, CALLER, small(vswitch_id=first, private_ip="10.0.1.3"))
    await refused(
        instances.run_instances(world.store, CALLER, small(vswitch_id=first, private_ip="10.0.1.3")),
        "InvalidPrivateIpAddress.Duplicated",
    )
    (last,) = await instances.run_instances(world.store, CALLER, small(vswitch_id=first))
    await refused(instances.run_instances(world.store, CALLER, small(vswitch_id=first)), "InvalidVSwitchId.IpNotEnough")
    await refused(vswitches.delete_vswitch(world.store, CALLER, first), "DependencyViolation", 400, last[:4])
    for instance in await world.all(Instance):
        await instances.delete_instance(world.store, CALLER, instance.id, force=True)
    await world.drive()
    await vswitches.delete_vswitch(world.store, CALLER, first)
    await vpcs.delete_vpc(world.store, CALLER, made.vpc_id)  # its default group was ours, and goes along
    assert await world.all(SecurityGroup) == []
    await refused(vpcs.get_vpc(world.store, CALLER, made.vpc_id), "InvalidVpcID.NotFound", 404)


async def test_routers_of_all_accounts_have_different_outside_addresses(world: World) -> None:
    callers = [Caller(account=str(n)) for n in range(8)]
    await asyncio.gather(*(vpcs.create_vpc(world.store, c) for c in callers))
    assert len({v.ext_ip for v in await world.all(Vpc)}) == 8


async def test_rules_are_checked_kept_once_and_revoked(world: World) -> None:
    group = await security_groups.create_security_group(world.store, CALLER, name="web")

    def rule(**changes: Any) -> RuleSpec:
        return RuleSpec(**{"protocol": "TCP", "port_range": "80/80", "cidr": "0.0.0.0/0", **changes})

    async def add(spec: RuleSpec, direction: str = "ingress") -> Any:
        return await security_groups.authorize(world.store, CALLER, group, direction, (spec,))

    first = await add(rule())
    assert await add(rule(description="same rule")) == first
    await add(rule(protocol="icmp", port_range="-1/-1"), "egress")
    for spec, code in (
        (rule(protocol="sctp"), "InvalidIpProtocol.ValueNotSupported"),
        (rule(port_range="90/80"), "InvalidIpPortRange.Malformed"),
        (rule(port_range=""), "MissingParameter"),
        (rule(cidr="10.0.0.1/8"), "InvalidSourceCidrIp.Malformed"),
        (rule(cidr=""), "MissingParameter"),
        (rule(group=group), "InvalidParameter"),
        (rule(priority="101"), "InvalidPriority.ValueNotSupported"),
        (rule(policy="maybe"), "InvalidPolicy.Malformed"),
        (rule(cidr="", group="sg-none"), "InvalidSecurityGroupId.NotFound"),
    ):
        await refused(add(spec), code)
    await security_groups.revoke(world.store, CALLER, group, "egress", specs=(rule(),))  # not there: no error
    assert len((await security_groups.get_security_group(world.store, CALLER, group)).rules) == 2
    await security_groups.revoke(world.store, CALLER, group, "ingress", rule_ids=first)
    assert [r.direction for r in (await security_groups.get_security_group(world.store, CALLER, group)).rules] == [
        "egress"
    ]


async def test_membership_and_what_depends_on_a_group(world: World) -> None:
    one = await running(world)
    group = await security_groups.create_security_group(world.store, CALLER, vpc_id=one.vpc)
    other = await security_groups.create_security_group(world.store, CALLER, vpc_id=one.vpc)
    peer = RuleSpec(protocol="all", group=group)
    await security_groups.authorize(world.store, CALLER, other, "ingress", (peer,))
    await refused(security_groups.delete_security_group(world.store, CALLER, group), "DependencyViolation", 403, other)
    await security_groups.join(world.store, CALLER, group, one.id)
    await refused(security_groups.join(world.store, CALLER, group, one.id), "InvalidInstanceId.AlreadyExists", 403)
    (port,) = await world.all(Port)
    assert group in port.security_groups
    await security_groups.leave(world.store, CALLER, one.security_groups[0], one.id)
    await refused(security_groups.leave(world.store, CALLER, group, one.id), "InstanceLastSecurityGroup", 403)
    await refused(security_groups.delete_security_group(world.store, CALLER, group), "DependencyViolation", 403, one.id)


# ---------------------------------------------------------------- keys and tags


async def test_key_pairs(world: World) -> None:
    made = await keypairs.create_key_pair(world.store, CALLER, "mine")
    assert "PRIVATE KEY" in made.private_key
    assert all(b"PRIVATE" not in entry.value for entry in world.memory.entries.values())
    await refused(keypairs.create_key_pair(world.store, CALLER, "mine"), "KeyPair.AlreadyExist", 400)
    await refused(keypairs.import_key_pair(world.store, CALLER, "b2", "ssh-rsa junk"), "InvalidPublicKeyBody.Malformed")
    ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ6vJKvXKTbmI4+tS6Q5Q6SObnTkhQv2aOaDcl8Au9w7 someone@somewhere"
    imported = await keypairs.import_key_pair(world.store, CALLER, "other", ed25519)
    assert (imported.private_key, len(imported.fingerprint)) == ("", 32)
    one = await running(world, key_pair_name="mine")
    await refused(
        keypairs.delete_key_pairs(world.store, CALLER, ("mine",)), "InvalidParameter.KeypairAlreadyAttachedInstance"
    )
    await keypairs.detach_key_pair(world.store, CALLER, "mine", (one.id,))
    await keypairs.delete_key_pairs(world.store, CALLER, ("mine", "never-was"))
    page = await keypairs.describe_key_pairs(world.store, CALLER, paging=Paging(), name="o*")
    assert [k.name for k in page.items] == ["other"]


async def test_tags_on_everything(world: World) -> None:
    one = await running(world, tags={"a": "1"})
    await tags.tag_resources(world.store, CALLER, "Instance", (one.id,), {"b": "2"})
    await tags.tag_resources(world.store, CALLER, "securitygroup", one.security_groups, {"c": "3"})
    await refused(
        tags.tag_resources(world.store, CALLER, "disk", (one.system_disk, "d-none"), {"d": "4"}),
        "InvalidDiskId.NotFound",
        404,
    )
    await refused(tags.tag_resources(world.store, CALLER, "cloud", ("x",), {"d": "4"}), "InvalidResourceType.NotFound")
    await refused(
        tags.tag_resources(world.store, CALLER, "instance", (one.id,), {f"k{n}": "" for n in range(19)}),
        "QuotaExceed.TagNum",
    )
    listed = await tags.list_tag_resources(
        world.store, CALLER, "instance", paging=Paging(max_results=1), tags={"a": None, "b": "2"}
    )
    assert [(t.key, t.value) for t in listed.items] == [("a", "1")]
    rest = Paging(max_results=5, next_token=listed.next_token)
    listed = await tags.list_tag_resources(world.store, CALLER, "instance", paging=rest, tags={"a": None, "b": "2"})
    assert [(t.key, t.value) for t in listed.items] == [("b", "2")]
    await tags.untag_resources(world.store, CALLER, "instance", (one.id,), all_keys=True)
    assert (await world.store.need(Instance, one.id)).value.tags == {}


async def test_a_store_that_does_not_answer_is_503(world: World) -> None:
    world.memory.available = False
    await refused(vpcs.create_vpc(world.store, CALLER), "ServiceUnavailable", 503)
