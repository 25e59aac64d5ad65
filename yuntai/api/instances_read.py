"""Actions that describe instances."""

from __future__ import annotations

import base64
from typing import Any

from yuntai.api.common import NEVER, paged, tag_set, to_minute
from yuntai.api.instance_shapes import ATTRIBUTE, DESCRIBE, DESCRIBED, MAINTENANCE
from yuntai.api.registry import ECS, PAGES, Call, action
from yuntai.control.requests import instances
from yuntai.control.requests.types import InstanceDetail, InstanceFilter, Page

_METADATA = {"HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1, "HttpTokens": "optional"}
_ADDRESSES_WE_NEVER_HAVE = ("EipAddresses", "InnerIpAddresses", "Ipv6Address", "PublicIpAddresses", "RdmaIpAddresses")


def _addresses(detail: InstanceDetail) -> list[str]:
    return [detail.port.ip] if detail.port is not None else []


def _vpc_attributes(detail: InstanceDetail) -> dict[str, Any]:
    return {
        "PrivateIpAddress": {"IpAddress": _addresses(detail)},
        "VSwitchId": detail.instance.vswitch,
        "VpcId": detail.instance.vpc,
    }


def _cards(detail: InstanceDetail) -> list[dict[str, Any]]:
    return [
        {
            "MacAddress": port.mac,
            "NetworkInterfaceId": port.eni,
            "PrimaryIpAddress": port.ip,
            "PrivateIpSets": {"PrivateIpSet": [{"Primary": True, "PrivateIpAddress": port.ip}]},
            "Type": "Primary" if port.primary else "Secondary",
        }
        for port in (detail.port, *detail.more_ports)
        if port is not None
    ]


def shown_status(status: str) -> str:
    """Return a status that the clients of the public API know: one that is being deleted is on its way down."""
    return "Stopping" if status == "Deleting" else status


def _both(call: Call, detail: InstanceDetail) -> dict[str, Any]:
    """Return what the list of instances and the attributes of one have in common."""
    instance = detail.instance
    return {
        "Cpu": instance.cpu,
        "CreationTime": to_minute(instance.created),
        "DedicatedHostAttribute": {"DedicatedHostId": instance.dedicated_host},
        "Description": instance.description,
        "ExpiredTime": NEVER,
        "HostName": instance.hostname,
        "ImageId": instance.image,
        "InstanceChargeType": "PostPaid",
        "InstanceId": instance.id,
        "InstanceName": instance.name,
        "InstanceNetworkType": "vpc",
        "InstanceType": instance.instance_type,
        "InternetChargeType": "PayByTraffic",
        "Memory": instance.memory_mib,
        "RegionId": call.context.region,
        "SecurityGroupIds": {"SecurityGroupId": instance.security_groups},
        "SerialNumber": instance.id.removeprefix("i-"),
        "Status": shown_status(instance.status),
        "StoppedMode": instance.stopped_mode,
        "VpcAttributes": _vpc_attributes(detail),
        "ZoneId": instance.zone,
    }


def _item(call: Call, detail: InstanceDetail) -> dict[str, Any]:
    instance, image = detail.instance, detail.image
    return {
        **_both(call, detail),
        "CpuOptions": {"CoreCount": instance.cpu, "ThreadsPerCore": 1},
        "DedicatedInstanceAttribute": {
            "Affinity": "host" if instance.dedicated_host else "default",
            "Tenancy": "host" if instance.dedicated_host else "default",
        },
        "DeletionProtection": instance.deletion_protection,
        "DeploymentSetGroupNo": instance.deployment_set_group,
        "DeploymentSetId": instance.deployment_set,
        "DeviceAvailable": True,
        "InstanceTypeFamily": instance.instance_type.rpartition(".")[0],
        "IoOptimized": True,
        "KeyPairName": instance.key_pair,
        "MetadataOptions": _METADATA,
        "NetworkInterfaces": {"NetworkInterface": _cards(detail)},
        "OSName": image.os_name if image is not None else "",
        "OSNameEn": image.os_name if image is not None else "",
        "OSType": image.os_type if image is not None else "linux",
        "SpotStrategy": "NoSpot",
        "StartTime": to_minute(instance.started),
        "Tags": tag_set(instance.tags),
    }


def _never_matches(call: Call) -> bool:
    """Return whether a filter asks for what no instance here can be, such as one with a public address."""
    if any(call.args.get(name) for name in _ADDRESSES_WE_NEVER_HAVE):
        return True
    return call.text("InstanceChargeType") not in ("", "PostPaid") or call.text("InstanceNetworkType") not in (
        "",
        "vpc",
    )


def _empty(call: Call) -> Page[InstanceDetail]:
    paging = call.paging()
    return Page(items=(), total=0, page_number=paging.page_number, page_size=paging.page_size)


async def _by_ids(call: Call, name: str) -> Page[InstanceDetail]:
    wanted = InstanceFilter(ids=call.texts(name), zone_id=call.text("ZoneId"))
    return await instances.describe_instances(call.context.reads, call.caller, wanted, call.paging())


@action(ECS, "DescribeInstances", DESCRIBE, DESCRIBED)
async def describe_instances(call: Call) -> dict[str, Any]:
    """List instances, filtered and in pages."""
    wanted = InstanceFilter(
        ids=call.texts("InstanceIds"),
        name=call.text("InstanceName"),
        status=call.text("Status"),
        vpc_id=call.text("VpcId"),
        vswitch_id=call.text("VSwitchId"),
        zone_id=call.text("ZoneId"),
        image_id=call.text("ImageId"),
        instance_type=call.text("InstanceType"),
        security_group_id=call.text("SecurityGroupId"),
        key_pair_name=call.text("KeyPairName"),
        private_ips=call.texts("PrivateIpAddresses"),
        tags=call.tag_filter(),
    )
    if _never_matches(call):
        page = _empty(call)
    else:
        page = await instances.describe_instances(call.context.reads, call.caller, wanted, call.paging())
    return paged(page, "Instances", "Instance", (_item(call, detail) for detail in page.items))


@action(
    ECS,
    "DescribeInstanceStatus",
    f"InstanceId[] ZoneId{PAGES}",
    "InstanceStatuses{InstanceStatus[]{InstanceId Status}} PageNumber:i PageSize:i TotalCount:i",
)
async def describe_instance_status(call: Call) -> dict[str, Any]:
    """List instances with their status only."""
    page = await _by_ids(call, "InstanceId")
    rows = ({"InstanceId": detail.instance.id, "Status": shown_status(detail.instance.status)} for detail in page.items)
    return paged(page, "InstanceStatuses", "InstanceStatus", rows, token=False)


@action(ECS, "DescribeInstanceAttribute", "InstanceId!", ATTRIBUTE)
async def describe_instance_attribute(call: Call) -> dict[str, Any]:
    """Describe one instance. ``IoOptimized`` is a text here and a boolean in the list, as in the public API."""
    detail = await instances.get_instance(call.context.reads, call.caller, call.text("InstanceId"))
    return {**_both(call, detail), "IoOptimized": "optimized"}


@action(ECS, "DescribeUserData", "InstanceId!", "InstanceId RegionId UserData")
async def describe_user_data(call: Call) -> dict[str, Any]:
    """Return an instance's user data in base64, as it was given."""
    detail = await instances.get_instance(call.context.reads, call.caller, call.text("InstanceId"))
    return {
        "InstanceId": detail.instance.id,
        "RegionId": call.context.region,
        "UserData": detail.instance.user_data,
    }


@action(ECS, "GetInstanceConsoleOutput", "InstanceId! RemoveSymbols:b", "ConsoleOutput InstanceId LastUpdateTime")
async def get_instance_console_output(call: Call) -> dict[str, Any]:
    """Return the end of what the guest printed on its serial console, in base64."""
    detail = await instances.get_instance(call.context.reads, call.caller, call.text("InstanceId"))
    host, path = detail.instance.host, ""
    if detail.observed is not None:
        host, path = detail.observed.host, detail.observed.console_log
    text, changed = await call.context.console.read(host, detail.instance.id, path)
    return {
        "ConsoleOutput": base64.b64encode(text).decode(),
        "InstanceId": detail.instance.id,
        "LastUpdateTime": changed,
    }


@action(
    ECS,
    "DescribeInstanceRamRole",
    f"InstanceIds:j RamRoleName{PAGES}",
    "InstanceRamRoleSets{InstanceRamRoleSet[]{InstanceId RamRoleName}} RegionId TotalCount:i",
)
async def describe_instance_ram_role(call: Call) -> dict[str, Any]:
    """List the RAM roles of instances; there are none."""
    page = await _by_ids(call, "InstanceIds")
    rows = [{"InstanceId": detail.instance.id} for detail in page.items if not call.text("RamRoleName")]
    return {
        "InstanceRamRoleSets": {"InstanceRamRoleSet": rows},
        "RegionId": call.context.region,
        "TotalCount": len(rows) and page.total,
    }


@action(
    ECS,
    "DescribeInstanceAttachmentAttributes",
    f"InstanceIds:j{PAGES}",
    """Instances{Instance[]{InstanceId PrivatePoolOptionsId PrivatePoolOptionsMatchCriteria}}
    PageNumber:i PageSize:i TotalCount:i""",
)
async def describe_instance_attachment_attributes(call: Call) -> dict[str, Any]:
    """List which private pools instances are attached to: none, which clients want said for each."""
    page = await _by_ids(call, "InstanceIds")
    rows = ({"InstanceId": detail.instance.id, "PrivatePoolOptionsMatchCriteria": "None"} for detail in page.items)
    return paged(page, "Instances", "Instance", rows, token=False)


@action(ECS, "DescribeInstanceMaintenanceAttributes", f"InstanceId[]{PAGES}", MAINTENANCE)
async def describe_instance_maintenance_attributes(call: Call) -> dict[str, Any]:
    """List what happens to instances when their host fails: they are started again elsewhere."""
    page = await _by_ids(call, "InstanceId")
    rows = (
        {
            "ActionOnMaintenance": {
                "DefaultValue": "AutoRecover",
                "SupportedValues": {"SupportedValue": ["Stop", "AutoRecover", "AutoRedeploy"]},
                "Value": detail.instance.action_on_maintenance
                if detail.instance.restart_policy == "always"
                else "Stop",
            },
            "InstanceId": detail.instance.id,
            "MaintenanceWindows": {
                "MaintenanceWindow": [
                    {"StartTime": start, "EndTime": end} for start, end in detail.instance.maintenance_windows
                ]
            },
            "NotifyOnMaintenance": detail.instance.notify_on_maintenance,
        }
        for detail in page.items
    )
    return paged(page, "MaintenanceAttributes", "MaintenanceAttribute", rows, token=False)
