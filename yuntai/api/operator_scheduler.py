"""The operator's actions on placement: explanations, settings, the table of instance types, quotas."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from yuntai.api.errors import invalid_parameter
from yuntai.api.registry import YUNTAI, Call, action
from yuntai.control import errors, explaining, instance_types
from yuntai.control.requests import quotas
from yuntai.model.compute import InstanceType
from yuntai.model.placement import SETTINGS_ID, SchedulerSettings
from yuntai.state import Exists

AWAIT_HOSTS_S_MAX = 24 * 3600
_VIEW = "FreeMemoryMib:i FreeVcpus:i HostId Possible:b Rack Status Why"
_TYPE = "Cpu:i EniQuantity:i Family Instances:i InstanceTypeId MemoryMib:i"
_QUOTA = "Account AccountName Limit:i Name Own:b Used:i"


@action(
    YUNTAI,
    "ExplainInstance",
    "InstanceId!",
    f"""Best BestWhy Cpu:i DedicatedHost DeploymentSet DeploymentSetGroup:i Host Hosts[]{{{_VIEW}}} InstanceId
    MemoryMib:i MigratingTo PlacedWhy Priority:i Reason Status""",
    operator=True,
)
async def explain_instance(call: Call) -> dict[str, Any]:
    """Say where an instance is, why there, and what each host says now."""
    found = await explaining.explain(call.context.reads, call.text("InstanceId"))
    instance = found.instance
    return {
        "Best": found.best,
        "BestWhy": found.best_why,
        "Cpu": instance.cpu,
        "DedicatedHost": instance.dedicated_host,
        "DeploymentSet": instance.deployment_set,
        "DeploymentSetGroup": instance.deployment_set_group,
        "Host": instance.host,
        "Hosts": [
            {
                "FreeMemoryMib": view.room.memory_mib,
                "FreeVcpus": view.room.vcpus,
                "HostId": view.host.id,
                "Possible": not view.why,
                "Rack": view.host.rack,
                "Status": view.host.maintenance or view.host.status,
                "Why": view.why or "it fits",
            }
            for view in found.hosts
        ],
        "InstanceId": instance.id,
        "MemoryMib": instance.memory_mib,
        "MigratingTo": instance.migrating_to,
        "PlacedWhy": instance.placed_why,
        "Priority": instance.priority,
        "Reason": instance.reason,
        "Status": instance.status,
    }


async def _settings(call: Call) -> SchedulerSettings:
    found = await call.context.reads.get(SchedulerSettings, SETTINGS_ID)
    return found.value if found is not None else SchedulerSettings(id=SETTINGS_ID)


@action(YUNTAI, "DescribeSchedulerSettings", "", "AwaitHostsS:i OwnInstanceTypes:b ReserveForOneHost:b", operator=True)
async def describe_scheduler_settings(call: Call) -> dict[str, Any]:
    """Show what the operator set of the scheduler."""
    settings = await _settings(call)
    return {
        "AwaitHostsS": settings.await_hosts_s,
        "OwnInstanceTypes": settings.own_types,
        "ReserveForOneHost": settings.reserve_for_one_host,
    }


@action(YUNTAI, "ModifySchedulerSettings", "AwaitHostsS:i ReserveForOneHost:b", operator=True)
async def modify_scheduler_settings(call: Call) -> dict[str, Any]:
    """Change it; instances that are placed stay where they are."""
    given = {"await_hosts_s": call.args.get("AwaitHostsS"), "reserve_for_one_host": call.args.get("ReserveForOneHost")}
    wanted = {field: value for field, value in given.items() if value is not None}
    if not wanted:
        raise errors.missing("ReserveForOneHost or AwaitHostsS")
    if not 0 <= wanted.get("await_hosts_s", 0) <= AWAIT_HOSTS_S_MAX:
        raise errors.invalid("AwaitHostsS", wanted["await_hosts_s"], f"choose 0 (never wait) to {AWAIT_HOSTS_S_MAX}")
    store = call.context.writes
    if await store.get(SchedulerSettings, SETTINGS_ID) is None:
        with contextlib.suppress(Exists):  # somebody else was first; what they wrote is changed below
            await store.create(SchedulerSettings(id=SETTINGS_ID, **wanted))
    await store.update(SchedulerSettings, SETTINGS_ID, lambda one: msgspec.structs.replace(one, **wanted))
    return {}


@action(YUNTAI, "ListInstanceTypes", "", f"InstanceTypes{{InstanceType[]{{{_TYPE}}}}}", operator=True)
async def list_instance_types(call: Call) -> dict[str, Any]:
    """List the table with how many instances have each type."""
    used = await instance_types.users(call.context.reads)
    rows = [
        {
            "Cpu": row.cpu,
            "EniQuantity": row.nics,
            "Family": row.family,
            "Instances": used.get(row.id, 0),
            "InstanceTypeId": row.id,
            "MemoryMib": row.memory_mib,
        }
        for row in (await instance_types.table(call.context.reads)).values()
    ]
    return {"InstanceTypes": {"InstanceType": rows}}


@action(
    YUNTAI, "CreateInstanceType", "InstanceTypeId! Cpu!:i MemoryMib!:i EniQuantity:i", "InstanceTypeId", operator=True
)
async def create_instance_type(call: Call) -> dict[str, Any]:
    """Enter a type into the table; its family is the first two parts of its id."""
    type_id = call.text("InstanceTypeId")
    row = InstanceType(
        id=type_id,
        family=type_id.rpartition(".")[0],
        cpu=call.args["Cpu"],
        memory_mib=call.args["MemoryMib"],
        nics=call.args.get("EniQuantity", 4),
    )
    await instance_types.create(call.context.writes, row)
    return {"InstanceTypeId": type_id}


@action(YUNTAI, "DeleteInstanceType", "InstanceTypeId!", operator=True)
async def delete_instance_type(call: Call) -> dict[str, Any]:
    """Take a type from the table; instances that have it keep it."""
    await instance_types.delete(call.context.writes, call.text("InstanceTypeId"))
    return {}


@action(YUNTAI, "DescribeQuotas", "Account", f"Quotas{{Quota[]{{{_QUOTA}}}}}", operator=True)
async def describe_quotas(call: Call) -> dict[str, Any]:
    """List the quotas of all accounts, or of one; ``Own`` = it differs from the product's."""
    rows = [
        {
            "Account": account.id,
            "AccountName": account.name,
            "Limit": quota.limit,
            "Name": quota.name,
            "Own": quota.name in account.quotas,
            "Used": quota.used,
        }
        for account, uses in await quotas.accounts(call.context.reads, call.text("Account"))
        for quota in uses
    ]
    return {"Quotas": {"Quota": rows}}


@action(YUNTAI, "ModifyQuota", "Account! Name! Limit:i Default:b", operator=True)
async def modify_quota(call: Call) -> dict[str, Any]:
    """Set an account's limit, or with Default the product's again."""
    default, limit = bool(call.args.get("Default")), call.args.get("Limit")
    if default == (limit is not None):
        raise invalid_parameter("Limit", "give either Limit or Default=true")
    await quotas.set_quota(call.context.writes, call.text("Account"), call.text("Name"), limit)
    return {}
