"""Deployment sets, dedicated hosts, instance types and quotas, from the request to the record."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.control.world import ACCOUNT, CALLER, World, small
from yuntai.control import explaining, instance_types
from yuntai.control.errors import ApiError
from yuntai.control.requests import dedicated_hosts, deployment_sets, instances, quotas
from yuntai.control.requests.types import Caller, Paging
from yuntai.model.cluster import Account, Host
from yuntai.model.compute import INSTANCE_TYPES, Instance, InstanceType
from yuntai.model.placement import DedicatedHost, DeploymentSet

STRANGER = Caller(account="2000000000000002")


async def world(**options: Any) -> World:
    made = World()
    await made.set_up(**options)
    return made


async def refused(call: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        await call
    return error.value


async def hosts_of(made: World) -> list[str]:
    return [i.host for i in await made.all(Instance)]


async def test_instances_of_a_set_are_on_different_hosts_and_one_too_many_is_refused() -> None:
    made = await world(hosts=2)
    one = await deployment_sets.create_deployment_set(made.store, CALLER, name="apart")
    request = small(deployment_set_id=one, amount=2)
    await instances.run_instances(made.store, CALLER, request)
    await made.drive()
    await made.check()
    assert sorted(await hosts_of(made)) == ["h1", "h2"]
    why = (await made.all(Instance))[0].placed_why
    assert why.startswith("0 of its deployment set are on this host and ")
    third = await refused(instances.run_instances(made.store, CALLER, small(deployment_set_id=one)))
    assert third.code == "OperationDenied.NoStock"
    assert f"of the deployment set {one}" in third.message
    page = await deployment_sets.describe_deployment_sets(made.store, CALLER, paging=Paging(), ids=(one,))
    assert (len(page.items[0].instances), page.items[0].hosts_left) == (2, 0)
    in_use = await refused(deployment_sets.delete_deployment_set(made.store, CALLER, one))
    assert in_use.code == "DependencyViolation"


async def test_a_group_of_a_set_is_checked() -> None:
    made = await world()
    plain = await deployment_sets.create_deployment_set(made.store, CALLER)
    grouped = await deployment_sets.create_deployment_set(
        made.store, CALLER, strategy="AvailabilityGroup", group_count=2
    )
    bad = small(deployment_set_id=grouped, deployment_set_group=3)
    assert "use 1 to 2" in (await refused(instances.run_instances(made.store, CALLER, bad))).message
    bad = small(deployment_set_id=plain, deployment_set_group=1)
    assert "has no groups" in (await refused(instances.run_instances(made.store, CALLER, bad))).message
    stranger = small(deployment_set_id=plain)
    assert (await refused(instances.run_instances(made.store, STRANGER, stranger))).http_status == 404


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"strategy": "Nearby"}, "Strategy"),
        ({"group_count": 8}, "GroupCount"),
        ({"on_failure": "Panic"}, "OnUnableToRedeployFailedInstance"),
        ({"name": "1"}, "DeploymentSetName"),
    ],
)
async def test_a_wrong_set_is_refused_by_field(wrong: dict[str, Any], field: str) -> None:
    made = await world()
    assert field in (await refused(deployment_sets.create_deployment_set(made.store, CALLER, **wrong))).message
    assert not await made.all(DeploymentSet)


async def allow_dedicated(made: World, limit: int = 2) -> None:
    await quotas.set_quota(made.store, ACCOUNT, "dedicated_hosts", limit)


async def test_a_dedicated_host_is_an_empty_one_and_only_its_own_instances_come_there() -> None:
    made = await world(hosts=2)
    await allow_dedicated(made)
    await instances.run_instances(made.store, CALLER, small())
    await made.drive()
    (plain,) = await hosts_of(made)
    (one,) = await dedicated_hosts.allocate_dedicated_hosts(made.store, CALLER, kind="ddh.yt1")
    assert dedicated_hosts.status_of((await made.all(DedicatedHost))[0]) == "Creating"
    await made.drive()
    given = (await made.all(DedicatedHost))[0]
    assert given.host not in ("", plain)
    assert (await made.store.need(Host, given.host)).value.dedicated == one
    await instances.run_instances(made.store, CALLER, small(dedicated_host_id=one))
    await instances.run_instances(made.store, CALLER, small())
    await made.drive()
    assert [(i.host == given.host) == (i.dedicated_host == one) for i in await made.all(Instance)] == [True] * 3
    busy = await refused(dedicated_hosts.release_dedicated_host(made.store, CALLER, one))
    assert busy.code == "DependencyViolation"
    mine = next(i.id for i in await made.all(Instance) if i.dedicated_host)
    await instances.delete_instance(made.store, CALLER, mine, force=True)
    await made.drive()
    await dedicated_hosts.release_dedicated_host(made.store, CALLER, one)
    assert (await made.store.need(Host, given.host)).value.dedicated == ""
    await made.check()


async def test_no_free_host_is_said_with_reasons_and_can_be_released() -> None:
    made = await world(hosts=1)
    await allow_dedicated(made)
    await instances.run_instances(made.store, CALLER, small())
    await made.drive()
    (one,) = await dedicated_hosts.allocate_dedicated_hosts(made.store, CALLER, kind="ddh.yt1")
    await made.drive()
    (left,) = await made.all(DedicatedHost)
    assert dedicated_hosts.status_of(left) == "PermanentFailure"
    assert left.reason == "no host is free: h1 rejected: it has 1 instances"
    await dedicated_hosts.release_dedicated_host(made.store, CALLER, one)
    assert not await made.all(DedicatedHost)


async def test_dedicated_hosts_need_the_operators_word() -> None:
    made = await world()
    error = await refused(dedicated_hosts.allocate_dedicated_hosts(made.store, CALLER, kind="ddh.yt1"))
    assert error.code == "QuotaExceed.DedicatedHost"
    error = await refused(dedicated_hosts.allocate_dedicated_hosts(made.store, CALLER, kind="ddh.g5"))
    assert "use ddh.yt1" in error.message


async def test_the_table_of_types_is_the_operators_from_its_first_change() -> None:
    made = await world()
    assert list(await instance_types.table(made.store)) == sorted(
        INSTANCE_TYPES, key=lambda t: (INSTANCE_TYPES[t].cpu, INSTANCE_TYPES[t].memory_mib)
    )
    huge = InstanceType(id="ecs.yt2.huge", family="ecs.yt2", cpu=8, memory_mib=8192)
    await instance_types.create(made.store, huge)
    await instance_types.create(made.store, huge)
    assert (await refused(instance_types.create(made.store, replace(huge, cpu=9)))).code == "InstanceType.Duplicate"
    await instance_types.delete(made.store, "ecs.yt1.micro")
    there = await instance_types.table(made.store)
    assert set(there) == set(INSTANCE_TYPES) - {"ecs.yt1.micro"} | {"ecs.yt2.huge"}
    assert (await refused(instance_types.delete(made.store, "ecs.yt1.micro"))).http_status == 404
    gone = await refused(instances.run_instances(made.store, CALLER, small(instance_type="ecs.yt1.micro")))
    assert "ecs.yt2.huge" in gone.message
    await instances.run_instances(made.store, CALLER, small(instance_type="ecs.yt2.huge"))
    await made.drive()
    (running,) = await made.all(Instance)
    assert (running.cpu, running.memory_mib) == (8, 8192)
    assert await instance_types.users(made.store) == {"ecs.yt2.huge": 1}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (InstanceType(id="big", family="", cpu=1, memory_mib=1), "InstanceType"),
        (InstanceType(id="ecs.a.b", family="ecs.a", cpu=0, memory_mib=1), "CpuCoreCount"),
        (InstanceType(id="ecs.a.b", family="ecs.a", cpu=1, memory_mib=0), "MemoryMib"),
        (InstanceType(id="ecs.a.b", family="ecs.a", cpu=1, memory_mib=1, nics=9), "EniQuantity"),
    ],
)
async def test_a_wrong_type_is_refused_by_field(row: InstanceType, field: str) -> None:
    made = await world()
    assert field in (await refused(instance_types.create(made.store, row))).message


async def test_a_limit_of_an_account_counts_at_once_and_can_be_taken_back() -> None:
    made = await world()
    await quotas.set_quota(made.store, ACCOUNT, "instances", 1)
    await instances.run_instances(made.store, CALLER, small())
    assert (await refused(instances.run_instances(made.store, CALLER, small()))).code == "QuotaExceed.Instance"
    ((account, uses),) = await quotas.accounts(made.store, ACCOUNT)
    assert account.quotas == {"instances": 1}
    assert [(use.used, use.limit) for use in uses if use.name == "instances"] == [(1, 1)]
    await quotas.set_quota(made.store, ACCOUNT, "instances", None)
    assert (await made.store.need(Account, ACCOUNT)).value.quotas == {}
    await instances.run_instances(made.store, CALLER, small())
    assert "use one of" in (await refused(quotas.set_quota(made.store, ACCOUNT, "cats", 1))).message
    assert (await refused(quotas.set_quota(made.store, "nobody", "vcpus", 1))).http_status == 404
    assert (await refused(quotas.accounts(made.store, "nobody"))).http_status == 404


async def test_every_quota_has_a_limit_and_a_code_and_is_shown() -> None:
    made = await world()
    shown = {use.name for use in await quotas.describe_quotas(made.store, CALLER)}
    assert shown == set(quotas.DEFAULTS) == set(quotas._CODES)


async def test_an_instance_is_explained() -> None:
    made = await world(hosts=2)
    await instances.run_instances(made.store, CALLER, small())
    await made.drive()
    (running,) = await made.all(Instance)
    await made.store.update(Host, "h2", lambda host: replace(host, maintenance="draining"))
    found = await explaining.explain(made.store, running.id)
    assert found.instance.placed_why.startswith("it had the most memory left of those that fit")
    assert (found.best, [view.why for view in found.hosts]) == ("h1", ["", "it is draining"])
    assert found.hosts[0].room.memory_mib == 16384 - running.memory_mib
    assert (await refused(explaining.explain(made.store, "i-none"))).http_status == 404
