"""Actions on deployment sets."""

from __future__ import annotations

from typing import Any

from yuntai.api.common import account_number, paged
from yuntai.api.registry import ECS, PAGES, Call, action
from yuntai.control.requests import deployment_sets
from yuntai.control.requests.deployment_sets import SetDetail

_SET = """
    AccountId:i Affinity:i Capacities{Capacity[]{AvailableAmount:i UsedAmount:i ZoneId}} CreationTime
    DeploymentSetDescription DeploymentSetId DeploymentSetName DeploymentStrategy Domain Granularity GroupCount:i
    InstanceAmount:i InstanceIds{InstanceId[]} Strategy Type
"""


@action(
    ECS,
    "CreateDeploymentSet",
    """DeploymentSetName Description Strategy GroupCount:i OnUnableToRedeployFailedInstance Type Domain Granularity
    ClientToken""",
    "DeploymentSetId",
)
async def create_deployment_set(call: Call) -> dict[str, Any]:
    """Make a set; instances come into it when they are created."""
    made = await deployment_sets.create_deployment_set(
        call.context.writes,
        call.caller,
        name=call.text("DeploymentSetName"),
        description=call.text("Description"),
        strategy=call.text("Strategy"),
        group_count=call.args.get("GroupCount"),
        on_failure=call.text("OnUnableToRedeployFailedInstance"),
        client_token=call.text("ClientToken"),
    )
    return {"DeploymentSetId": made}


@action(ECS, "ModifyDeploymentSetAttribute", "DeploymentSetId! DeploymentSetName Description:t")
async def modify_deployment_set_attribute(call: Call) -> dict[str, Any]:
    """Change name and description."""
    await deployment_sets.modify_deployment_set(
        call.context.writes,
        call.caller,
        call.text("DeploymentSetId"),
        name=call.args.get("DeploymentSetName"),
        description=call.args.get("Description"),
    )
    return {}


@action(ECS, "DeleteDeploymentSet", "DeploymentSetId!")
async def delete_deployment_set(call: Call) -> dict[str, Any]:
    """Delete a set that has no instance."""
    await deployment_sets.delete_deployment_set(call.context.writes, call.caller, call.text("DeploymentSetId"))
    return {}


def _item(call: Call, detail: SetDetail) -> dict[str, Any]:
    one = detail.one
    capacity = {
        "AvailableAmount": detail.hosts_left,
        "UsedAmount": len(detail.instances),
        "ZoneId": call.context.zone,
    }
    return {
        "AccountId": account_number(one.account),
        "Affinity": 1,
        "Capacities": {"Capacity": [capacity]},
        "CreationTime": one.created,
        "DeploymentSetDescription": one.description,
        "DeploymentSetId": one.id,
        "DeploymentSetName": one.name,
        "DeploymentStrategy": one.strategy,
        "Domain": "Default",
        "Granularity": "Host",
        "GroupCount": one.group_count if one.strategy == "AvailabilityGroup" else 0,
        "InstanceAmount": len(detail.instances),
        "InstanceIds": {"InstanceId": detail.instances},
        "Strategy": one.strategy,
        "Type": "host",
    }


@action(
    ECS,
    "DescribeDeploymentSets",
    f"DeploymentSetIds:j DeploymentSetName Strategy NetworkType Domain Granularity{PAGES}",
    f"DeploymentSets{{DeploymentSet[]{{{_SET}}}}} PageNumber:i PageSize:i RegionId TotalCount:i",
)
async def describe_deployment_sets(call: Call) -> dict[str, Any]:
    """List sets with their instances; what is available is hosts, whatever room they have."""
    page = await deployment_sets.describe_deployment_sets(
        call.context.reads,
        call.caller,
        paging=call.paging(),
        ids=call.texts("DeploymentSetIds"),
        name=call.text("DeploymentSetName"),
        strategy=call.text("Strategy"),
    )
    rows = [_item(call, detail) for detail in page.items]
    return {
        **paged(page, "DeploymentSets", "DeploymentSet", rows, token=False),
        "RegionId": call.context.region,
    }
