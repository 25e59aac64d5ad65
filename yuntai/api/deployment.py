"""Where an instance may be, changed while it exists: the ECS action that migrates live."""

from __future__ import annotations

from typing import Any

from yuntai.api.errors import invalid_parameter
from yuntai.api.registry import ECS, Call, action
from yuntai.control.requests import migrations


@action(
    ECS,
    "ModifyInstanceDeployment",
    """InstanceId! RegionId Affinity DedicatedHostClusterId DedicatedHostId DeploymentSetGroupNo:i DeploymentSetId
    Force:b InstanceType MigrationType RemoveFromDeploymentSet:b Tenancy""",
    "",
)
async def modify_instance_deployment(call: Call) -> dict[str, Any]:
    """Put an instance into a deployment set or on a dedicated host; ``live`` moves it without a restart."""
    kind = call.text("MigrationType") or "reboot"
    if kind not in ("live", "reboot"):
        raise invalid_parameter("MigrationType", f"it is {kind}; use live or reboot")
    if call.text("InstanceType"):
        raise invalid_parameter("InstanceType", "change it with ModifyInstanceSpec")
    await migrations.modify_deployment(
        call.context.writes,
        call.caller,
        call.text("InstanceId"),
        live=kind == "live",
        deployment_set=call.text("DeploymentSetId"),
        group=call.args.get("DeploymentSetGroupNo"),
        dedicated_host=call.text("DedicatedHostId"),
        leave_set=bool(call.args.get("RemoveFromDeploymentSet")),
    )
    return {}
