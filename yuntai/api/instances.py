"""Actions that create, change and end instances."""

from __future__ import annotations

from typing import Any

import msgspec

from yuntai.api.instance_shapes import CREATE, RESPONSES
from yuntai.api.registry import ECS, Call, action
from yuntai.control.requests import instances
from yuntai.control.requests.types import DiskSpec, InstanceChange, InstanceResponse, RunInstances
from yuntai.model.compute import Instance
from yuntai.state import Versioned

CREATED_WAIT_S = 5.0
"""How long CreateInstance waits (clients give up after 10 s); an instance that is not made by then is Pending."""
_ONE = "InstanceId! DryRun:b"
_MANY = "InstanceId![] DryRun:b BatchOptimization"


def _disk(given: dict[str, Any]) -> DiskSpec:
    return DiskSpec(
        size_gib=given.get("Size"),
        category=given.get("Category", ""),
        snapshot_id=given.get("SnapshotId", ""),
        delete_with_instance=given.get("DeleteWithInstance", True),
        name=given.get("DiskName", ""),
        description=given.get("Description", ""),
    )


def _request(call: Call) -> RunInstances:
    """Read the parameters that RunInstances and CreateInstance share.

    The network may be given flat or as the first (primary) ``NetworkInterface``; flat parameters come first.
    """
    card: dict[str, Any] = next(iter(call.args.get("NetworkInterface", ())), {})
    groups = (
        *((call.text("SecurityGroupId"),) if call.text("SecurityGroupId") else ()),
        *call.texts("SecurityGroupIds"),
    )
    if not groups:
        groups = (
            *((card["SecurityGroupId"],) if card.get("SecurityGroupId") else ()),
            *card.get("SecurityGroupIds", ()),
        )
    return RunInstances(
        image_id=call.text("ImageId"),
        instance_type=call.text("InstanceType"),
        vswitch_id=call.text("VSwitchId") or card.get("VSwitchId", ""),
        security_group_ids=tuple(dict.fromkeys(groups)),
        name=call.text("InstanceName"),
        hostname=call.text("HostName"),
        description=call.text("Description"),
        unique_suffix=call.args.get("UniqueSuffix", False),
        user_data=call.text("UserData"),
        key_pair_name=call.text("KeyPairName"),
        password=call.text("Password"),
        system_disk=_disk(call.args.get("SystemDisk", {})),
        data_disks=tuple(_disk(disk) for disk in call.args.get("DataDisk", ())),
        tags=call.tags(),
        private_ip=call.text("PrivateIpAddress") or card.get("PrimaryIpAddress", ""),
        zone_id=call.text("ZoneId"),
        deletion_protection=call.args.get("DeletionProtection", False),
        deployment_set_id=call.text("DeploymentSetId"),
        deployment_set_group=call.args.get("DeploymentSetGroupNo"),
        dedicated_host_id=call.text("DedicatedHostId"),
        amount=call.args.get("Amount", 1),
        min_amount=call.args.get("MinAmount", 0),
        client_token=call.text("ClientToken"),
        dry_run=call.args.get("DryRun", False),
    )


@action(ECS, "RunInstances", CREATE, "InstanceIdSets{InstanceIdSet[]} OrderId TradePrice:f")
async def run_instances(call: Call) -> dict[str, Any]:
    """Create instances and start them."""
    made = await instances.run_instances(call.context.writes, call.caller, _request(call))
    return {"InstanceIdSets": {"InstanceIdSet": made}}


@action(ECS, "CreateInstance", CREATE, "InstanceId OrderId TradePrice:f")
async def create_instance(call: Call) -> dict[str, Any]:
    """Create one instance and answer when it is Stopped: clients start it in the next breath."""
    request = msgspec.structs.replace(_request(call), amount=1, min_amount=0)
    instance_id = await instances.create_instance(call.context.writes, call.caller, request)
    await call.context.reads.seen(Instance, instance_id, _is_made, CREATED_WAIT_S)
    return {"InstanceId": instance_id}


def _is_made(found: Versioned[Instance] | None) -> bool:
    return found is None or found.value.status != "Pending"


@action(ECS, "StartInstance", _ONE)
async def start_instance(call: Call) -> dict[str, Any]:
    """Start an instance."""
    dry = call.args.get("DryRun", False)
    await instances.start_instance(call.context.writes, call.caller, call.text("InstanceId"), dry_run=dry)
    return {}


@action(ECS, "StopInstance", f"{_ONE} ForceStop:b StoppedMode")
async def stop_instance(call: Call) -> dict[str, Any]:
    """Stop an instance: ask the guest, or with ForceStop take its power away."""
    await instances.stop_instance(
        call.context.writes,
        call.caller,
        call.text("InstanceId"),
        force=call.args.get("ForceStop", False),
        stopped_mode=call.text("StoppedMode"),
        dry_run=call.args.get("DryRun", False),
    )
    return {}


@action(ECS, "RebootInstance", f"{_ONE} ForceStop:b")
async def reboot_instance(call: Call) -> dict[str, Any]:
    """Restart an instance."""
    await instances.reboot_instance(
        call.context.writes,
        call.caller,
        call.text("InstanceId"),
        force=call.args.get("ForceStop", False),
        dry_run=call.args.get("DryRun", False),
    )
    return {}


@action(ECS, "DeleteInstance", f"{_ONE} Force:b ForceStop:b")
async def delete_instance(call: Call) -> dict[str, Any]:
    """Release an instance; with Force also one that runs."""
    await instances.delete_instance(
        call.context.writes,
        call.caller,
        call.text("InstanceId"),
        force=call.args.get("Force", False),
        dry_run=call.args.get("DryRun", False),
    )
    return {}


def _responses(made: list[InstanceResponse]) -> dict[str, Any]:
    rows = [
        {
            "Code": one.code,
            "CurrentStatus": one.current_status,
            "InstanceId": one.instance_id,
            "Message": one.message,
            "PreviousStatus": one.previous_status,
        }
        for one in made
    ]
    return {"InstanceResponses": {"InstanceResponse": rows}}


def _together(call: Call) -> bool:
    """Return whether one failure fails all, which is the default of the plural actions."""
    return call.text("BatchOptimization") != "SuccessFirst"


@action(ECS, "StartInstances", _MANY, RESPONSES)
async def start_instances(call: Call) -> dict[str, Any]:
    """Start several instances."""
    made = await instances.start_instances(
        call.context.writes,
        call.caller,
        call.texts("InstanceId"),
        all_together=_together(call),
        dry_run=call.args.get("DryRun", False),
    )
    return _responses(made)


@action(ECS, "StopInstances", f"{_MANY} ForceStop:b StoppedMode", RESPONSES)
async def stop_instances(call: Call) -> dict[str, Any]:
    """Stop several instances."""
    made = await instances.stop_instances(
        call.context.writes,
        call.caller,
        call.texts("InstanceId"),
        force=call.args.get("ForceStop", False),
        stopped_mode=call.text("StoppedMode"),
        all_together=_together(call),
        dry_run=call.args.get("DryRun", False),
    )
    return _responses(made)


@action(ECS, "RebootInstances", f"{_MANY} ForceReboot:b", RESPONSES)
async def reboot_instances(call: Call) -> dict[str, Any]:
    """Restart several instances."""
    made = await instances.reboot_instances(
        call.context.writes,
        call.caller,
        call.texts("InstanceId"),
        force=call.args.get("ForceReboot", False),
        all_together=_together(call),
        dry_run=call.args.get("DryRun", False),
    )
    return _responses(made)


@action(ECS, "DeleteInstances", "InstanceId![] DryRun:b Force:b ForceStop:b ClientToken")
async def delete_instances(call: Call) -> dict[str, Any]:
    """Release several instances, all or none."""
    await instances.delete_instances(
        call.context.writes,
        call.caller,
        call.texts("InstanceId"),
        force=call.args.get("Force", False),
        client_token=call.text("ClientToken"),
        dry_run=call.args.get("DryRun", False),
    )
    return {}


@action(
    ECS,
    "ModifyInstanceAttribute",
    "InstanceId! InstanceName Description:t HostName UserData:t Password DeletionProtection:b SecurityGroupIds[]",
)
async def modify_instance_attribute(call: Call) -> dict[str, Any]:
    """Change what may change of an instance."""
    groups = call.texts("SecurityGroupIds")
    change = InstanceChange(
        name=call.args.get("InstanceName"),
        description=call.args.get("Description"),
        hostname=call.args.get("HostName"),
        user_data=call.args.get("UserData"),
        password=call.args.get("Password"),
        deletion_protection=call.args.get("DeletionProtection"),
        security_group_ids=groups or None,
    )
    await instances.modify_instance_attribute(call.context.writes, call.caller, call.text("InstanceId"), change)
    return {}
