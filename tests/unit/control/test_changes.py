"""What changes of instances that live: network cards, sizes, limits; through requests, jobs and agents in memory."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.control.test_placing import refused, world
from tests.unit.control.world import ACCOUNT, CALLER, World, small
from yuntai.control import instance_types
from yuntai.control.requests import enis, instances, quotas, sizes, vpcs, vswitches
from yuntai.model.cluster import Host
from yuntai.model.compute import Disk, Instance, InstanceType
from yuntai.model.network import Port


async def running(made: World, **changes: Any) -> Instance:
    await instances.run_instances(made.store, CALLER, small(**changes))
    await made.drive()
    return (await made.all(Instance))[-1]  # type: ignore[no-any-return]


async def again(made: World, instance: Instance) -> Instance:
    return (await made.store.need(Instance, instance.id)).value


async def card(made: World, instance: Instance, **options: Any) -> Port:
    return await enis.create_network_interface(made.store, CALLER, vswitch_id=instance.vswitch, **options)


async def of(made: World, port: Port) -> Port:
    return (await made.store.need(Port, port.id)).value


async def test_a_card_is_plugged_into_a_running_guest_and_out_again() -> None:
    made = await world()
    instance = await running(made)
    port = await card(made, instance, name="second", client_token="t")
    assert (await card(made, instance, name="second", client_token="t")).id == port.id
    await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)
    assert (await of(made, port)).state == "Attaching"
    await made.drive()
    await made.check()
    plugged = await of(made, port)
    assert (plugged.instance, plugged.host, plugged.state) == (instance.id, instance.host, "")
    assert (await again(made, instance)).ports == (port.id,)
    await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)  # twice is fine
    busy = await refused(enis.delete_network_interface(made.store, CALLER, port.eni))
    assert busy.code == "InvalidOperation.InvalidEniState"
    await enis.detach_network_interface(made.store, CALLER, instance.id, port.eni)
    await made.drive()
    await made.check()
    free = await of(made, port)
    assert (free.instance, free.host) == ("", "")
    await enis.delete_network_interface(made.store, CALLER, port.eni)
    assert len(await made.all(Port)) == 1


async def test_a_guest_that_takes_or_leaves_no_card_is_left_as_it_was() -> None:
    made = await world()
    instance = await running(made)
    port = await card(made, instance)
    made.agent.rejects.add(port.id)
    await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)
    await made.drive()
    await made.check()
    assert (await of(made, port)).reason.startswith(f"the guest does not have the network card {port.eni} yet")
    made.agent.rejects.clear()
    await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)
    await made.drive()
    made.agent.clings.add(port.id)
    await enis.detach_network_interface(made.store, CALLER, instance.id, port.eni)
    await made.drive()
    await made.check()
    still = await of(made, port)
    assert (still.instance, still.state) == (instance.id, "")
    assert "still has the network card" in still.reason


async def test_a_stopped_instance_takes_cards_and_they_go_where_it_goes() -> None:
    made = await world()
    instance = await running(made)
    await instances.stop_instance(made.store, CALLER, instance.id)
    await made.drive()
    stays, goes = await card(made, instance, delete_on_release=False), await card(made, instance)
    for port in (stays, goes):
        await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)
    await made.drive()
    await made.check()
    elsewhere = "h2" if instance.host == "h1" else "h1"
    await made.store.update(Host, instance.host, lambda host: replace(host, maintenance="drained"))
    await instances.start_instance(made.store, CALLER, instance.id)
    await made.drive()
    await made.check()
    assert {(await of(made, port)).host for port in (stays, goes)} == {elsewhere}
    await instances.delete_instance(made.store, CALLER, instance.id, force=True)
    await made.drive()
    await made.check()
    assert [(port.eni, port.instance) for port in await made.all(Port)] == [(stays.eni, "")]


async def test_cards_are_refused_where_they_cannot_be() -> None:
    made = await world()
    instance = await running(made)
    primary = (await made.store.need(Port, instance.port)).value
    error = await refused(enis.detach_network_interface(made.store, CALLER, instance.id, primary.eni))
    assert error.code == "InvalidOperation.InvalidEniType"
    assert (await refused(enis.delete_network_interface(made.store, CALLER, "eni-none"))).http_status == 404
    other = await vpcs.create_vpc(made.store, CALLER, cidr="10.9.0.0/16")
    there = await vswitches.create_vswitch(made.store, CALLER, vpc_id=other.vpc_id, cidr="10.9.1.0/24")
    far = await enis.create_network_interface(made.store, CALLER, vswitch_id=there)
    error = await refused(enis.attach_network_interface(made.store, CALLER, instance.id, far.eni))
    assert error.code == "InvalidVpcId.Mismatch"
    taken = await refused(card(made, instance, primary_ip=primary.ip))
    assert primary.ip in taken.message
    ports = [await card(made, instance) for _ in range(4)]
    for port in ports[:3]:
        await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)
    await made.drive()
    error = await refused(enis.attach_network_interface(made.store, CALLER, instance.id, ports[3].eni))
    assert error.code == "InvalidOperation.EniCountExceeded"
    await quotas.set_quota(made.store, ACCOUNT, "network_interfaces", 6)
    error = await refused(card(made, instance))
    assert error.code == "EniPerRegionLimitExceeded"


async def test_the_groups_of_a_card_are_its_own() -> None:
    made = await world()
    instance = await running(made)
    port = await card(made, instance)
    await enis.modify_network_interface(made.store, CALLER, port.eni, name="renamed", delete_on_release=False)
    changed = await of(made, port)
    assert (changed.name, changed.delete_with_instance) == ("renamed", False)
    assert changed.security_groups == port.security_groups != ()
    primary = (await made.store.need(Port, instance.port)).value
    error = await refused(
        enis.modify_network_interface(made.store, CALLER, primary.eni, security_group_ids=port.security_groups)
    )
    assert "has the groups of its instance" in error.message


async def test_a_stopped_instance_gets_another_size_and_moves_if_it_must() -> None:
    made = await world(hosts=2, vcpus=4, memory_mib=8192)
    instance = await running(made)
    error = await refused(sizes.modify_instance_spec(made.store, CALLER, instance.id, "ecs.yt1.xlarge"))
    assert error.code == "IncorrectInstanceStatus"
    await instances.stop_instance(made.store, CALLER, instance.id)
    await made.drive()
    await sizes.modify_instance_spec(made.store, CALLER, instance.id, "ecs.yt1.xlarge")
    await sizes.modify_instance_spec(made.store, CALLER, instance.id, "ecs.yt1.xlarge")
    large = await again(made, instance)
    assert (large.cpu, large.memory_mib, large.instance_type) == (4, 8192, "ecs.yt1.xlarge")
    await instances.start_instance(made.store, CALLER, instance.id)
    await made.drive()
    await made.check()
    # The next one does not fit where it was, so it starts elsewhere or is refused with reasons.
    second = await running(made)
    await instances.stop_instance(made.store, CALLER, second.id)
    await made.drive()
    await instance_types.create(made.store, InstanceType(id="ecs.yt1.huge", family="ecs.yt1", cpu=8, memory_mib=1024))
    error = await refused(sizes.modify_instance_spec(made.store, CALLER, second.id, "ecs.yt1.huge"))
    assert error.code == "OperationDenied.NoStock"
    assert "4 vCPU short" in error.message
    await quotas.set_quota(made.store, ACCOUNT, "vcpus", 5)
    error = await refused(sizes.modify_instance_spec(made.store, CALLER, second.id, "ecs.yt1.medium"))
    assert error.code == "QuotaExceed.ElasticQuota"


async def test_a_type_with_too_few_cards_is_refused() -> None:
    made = await world()
    instance = await running(made)
    port = await card(made, instance)
    await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)
    await made.drive()
    await instances.stop_instance(made.store, CALLER, instance.id)
    await made.drive()
    await instance_types.create(
        made.store, InstanceType(id="ecs.yt1.bare", family="ecs.yt1", cpu=1, memory_mib=256, nics=1)
    )
    error = await refused(sizes.modify_instance_spec(made.store, CALLER, instance.id, "ecs.yt1.bare"))
    assert "has 2 network cards and ecs.yt1.bare allows 1" in error.message


async def test_limits_are_set_and_ended() -> None:
    made = await world()
    instance = await running(made)
    disk_id = instance.system_disk
    await sizes.limit_disk(made.store, CALLER, disk_id, iops_max=100)
    await sizes.limit_any_disk(made.store, disk_id, iops_max=None, mib_per_s_max=4)
    disk = (await made.store.need(Disk, disk_id)).value
    assert (disk.iops_max, disk.bytes_per_s_max) == (100, 4 << 20)
    await sizes.limit_disk(made.store, CALLER, disk_id, iops_max=0, mib_per_s_max=0)
    disk = (await made.store.need(Disk, disk_id)).value
    assert (disk.iops_max, disk.bytes_per_s_max) == (0, 0)
    await sizes.limit_vcpus(made.store, instance.id, 30)
    assert (await again(made, instance)).vcpu_quota_percent == 30
    assert "use 1 to 100" in (await refused(sizes.limit_vcpus(made.store, instance.id, 101))).message
    assert "IOPS" in (await refused(sizes.limit_disk(made.store, CALLER, disk_id, iops_max=-1))).message
    assert (await refused(sizes.limit_vcpus(made.store, "i-none", 1))).http_status == 404
    assert (await refused(sizes.limit_any_disk(made.store, "d-none", iops_max=1, mib_per_s_max=1))).http_status == 404


@pytest.mark.parametrize("kept", [True, False])
async def test_a_card_of_an_instance_that_goes_meanwhile_is_free(kept: bool) -> None:
    made = await world()
    instance = await running(made)
    port = await card(made, instance, delete_on_release=not kept)
    made.agent.mute = True
    await enis.attach_network_interface(made.store, CALLER, instance.id, port.eni)
    await instances.delete_instance(made.store, CALLER, instance.id, force=True)
    made.agent.mute = False
    await made.drive()
    await made.check()
    left = await of(made, port)
    assert (left.instance, left.job) == ("", "")
    assert not await made.all(Disk)
