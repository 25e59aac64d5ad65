"""Actions on dedicated hosts."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import NEVER, account_number, paged
from yuntai.api.registry import ECS, PAGES, TOKENS, Call, action
from yuntai.control import instance_types
from yuntai.control.requests import dedicated_hosts
from yuntai.control.requests.dedicated_hosts import DedicatedDetail, status_of
from yuntai.model.compute import InstanceType

_HOST = """
    SchedulerOptions{ManagedPrivateSpaceId} ActionOnMaintenance AutoPlacement AutoReleaseTime
    Capacity{AvailableInstanceTypes{AvailableInstanceType[]{AvailableInstanceCapacity:i InstanceType}}
    AvailableLocalStorage:i AvailableMemory:f AvailableVcpus:i AvailableVgpus:i LocalStorageCategory
    SocketCapacities{SocketCapacity[]{AvailableMemory:f AvailableVcpu:i SocketId:i TotalMemory:f TotalVcpu:i}}
    TotalLocalStorage:i TotalMemory:f TotalVcpus:i TotalVgpus:i}
    ChargeType Cores:i CpuOverCommitRatio:f CreationTime DedicatedHostClusterId DedicatedHostId DedicatedHostName
    DedicatedHostOwnerId:i DedicatedHostType Description ExpiredTime GPUSpec HostDetailInfo{SerialNumber VgpuVersion}
    Instances{Instance[]{InstanceId InstanceOwnerId:i InstanceType SocketId}} MachineId
    NetworkAttributes{SlbUdpTimeout:i UdpTimeout:i} OperationLocks{OperationLock[]{LockReason}} PhysicalGpus:i
    RegionId ResourceGroupId SaleCycle Sockets:i Status
    SupportedCustomInstanceTypeFamilies{SupportedCustomInstanceTypeFamily[]}
    SupportedInstanceTypeFamilies{SupportedInstanceTypeFamily[]}
    SupportedInstanceTypesList{SupportedInstanceTypesList[]} Tags{Tag[]{TagKey TagValue}} ZoneId
"""


@action(
    ECS,
    "AllocateDedicatedHosts",
    """DedicatedHostType! Quantity:i DedicatedHostName Description AutoPlacement ActionOnMaintenance ChargeType ZoneId
    ClientToken""",
    "DedicatedHostIdSets{DedicatedHostId[]} OrderId",
)
async def allocate_dedicated_hosts(call: Call) -> dict[str, Any]:
    """Have whole machines looked for that nobody uses."""
    made = await dedicated_hosts.allocate_dedicated_hosts(
        call.context.writes,
        call.caller,
        kind=call.text("DedicatedHostType"),
        quantity=call.args.get("Quantity", 1),
        name=call.text("DedicatedHostName"),
        description=call.text("Description"),
        auto_placement=call.text("AutoPlacement"),
        action_on_maintenance=call.text("ActionOnMaintenance"),
        client_token=call.text("ClientToken"),
    )
    return {"DedicatedHostIdSets": {"DedicatedHostId": made}}


@action(ECS, "ReleaseDedicatedHost", "DedicatedHostId!")
async def release_dedicated_host(call: Call) -> dict[str, Any]:
    """Give a machine back on which nothing is."""
    await dedicated_hosts.release_dedicated_host(call.context.writes, call.caller, call.text("DedicatedHostId"))
    return {}


@action(ECS, "RedeployDedicatedHost", "DedicatedHostId! MigrationType")
async def redeploy_dedicated_host(call: Call) -> dict[str, Any]:
    """Have another machine looked for instead of one that has failed; there is one way, so no type is looked at."""
    await dedicated_hosts.redeploy_dedicated_host(call.context.writes, call.caller, call.text("DedicatedHostId"))
    return {}


def _capacity(detail: DedicatedDetail, types: dict[str, InstanceType]) -> dict[str, Any]:
    host = detail.host
    if host is None:
        return {}
    vcpus = host.vcpus_max - sum(one.cpu for one in detail.instances)
    memory_mib = host.memory_mib_max - sum(one.memory_mib for one in detail.instances)
    fitting = [
        {"AvailableInstanceCapacity": min(vcpus // row.cpu, memory_mib // row.memory_mib), "InstanceType": row.id}
        for row in types.values()
    ]
    return {
        "AvailableInstanceTypes": {"AvailableInstanceType": fitting},
        "AvailableMemory": memory_mib / 1024,
        "AvailableVcpus": vcpus,
        "TotalMemory": host.memory_mib_max / 1024,
        "TotalVcpus": host.vcpus_max,
    }


def _item(call: Call, detail: DedicatedDetail, types: dict[str, InstanceType]) -> dict[str, Any]:
    one, host = detail.one, detail.host
    owner = account_number(one.account)
    families = sorted({row.family for row in types.values()})
    guests = [{"InstanceId": i.id, "InstanceOwnerId": owner, "InstanceType": i.instance_type} for i in detail.instances]
    return {
        "ActionOnMaintenance": one.action_on_maintenance,
        "AutoPlacement": "on" if one.auto_placement else "off",
        "Capacity": _capacity(detail, types),
        "ChargeType": "PostPaid",
        "Cores": host.cpus if host is not None else 0,
        "CreationTime": one.created,
        "DedicatedHostId": one.id,
        "DedicatedHostName": one.name,
        "DedicatedHostOwnerId": owner,
        "DedicatedHostType": dedicated_hosts.TYPE,
        "Description": one.description,
        "ExpiredTime": NEVER,
        "Instances": {"Instance": guests},
        "MachineId": one.host if call.key.operator else "",
        "OperationLocks": {"OperationLock": [{"LockReason": one.reason}] if one.reason else []},
        "RegionId": call.context.region,
        "Status": "UnderAssessment" if host is not None and host.status != "up" else status_of(one),
        "SupportedInstanceTypeFamilies": {"SupportedInstanceTypeFamily": families},
        "SupportedInstanceTypesList": {"SupportedInstanceTypesList": list(types)},
        "ZoneId": call.context.zone,
    }


@action(
    ECS,
    "DescribeDedicatedHosts",
    f"DedicatedHostIds:j DedicatedHostName DedicatedHostType Status ZoneId{PAGES}{TOKENS}",
    f"DedicatedHosts{{DedicatedHost[]{{{_HOST}}}}} NextToken PageNumber:i PageSize:i TotalCount:i",
)
async def describe_dedicated_hosts(call: Call) -> dict[str, Any]:
    """List dedicated hosts with what is on them and what more fits."""
    page = await dedicated_hosts.describe_dedicated_hosts(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=call.texts("DedicatedHostIds"),
        name=call.text("DedicatedHostName"),
        status=call.text("Status"),
    )
    types = await instance_types.table(call.context.reads)
    rows = [_item(call, detail, types) for detail in page.items]
    return paged(page, "DedicatedHosts", "DedicatedHost", rows)
