"""Actions that describe the region, its zones and its endpoint. A cloud of ours has one of each."""

from __future__ import annotations

from typing import Any

from yuntai.api.instance_types import categories
from yuntai.api.registry import ECS, LOCATION, VPC, Call, action
from yuntai.control import instance_types

_ZONE = """
    AvailableDedicatedHostTypes{DedicatedHostType[]} AvailableDiskCategories{DiskCategories[]}
    AvailableInstanceTypes{InstanceTypes[]} AvailableResourceCreation{ResourceTypes[]}
    AvailableResources{ResourcesInfo[]{DataDiskCategories{supportedDataDiskCategory[]}
    InstanceGenerations{supportedInstanceGeneration[]} InstanceTypeFamilies{supportedInstanceTypeFamily[]}
    InstanceTypes{supportedInstanceType[]} IoOptimized:b NetworkTypes{supportedNetworkCategory[]}
    SystemDiskCategories{supportedSystemDiskCategory[]}}} AvailableVolumeCategories{VolumeCategories[]}
    DedicatedHostGenerations{DedicatedHostGeneration[]} LocalName ZoneId ZoneType
"""


def _region(call: Call) -> dict[str, Any]:
    return {
        "LocalName": call.context.region,
        "RegionEndpoint": call.endpoint,
        "RegionId": call.context.region,
    }


@action(
    ECS,
    "DescribeRegions",
    "ResourceType InstanceChargeType AcceptLanguage",
    "Regions{Region[]{LocalName RegionEndpoint RegionId Status}}",
)
async def describe_regions(call: Call) -> dict[str, Any]:
    """List the region, with the endpoint by which the caller came."""
    return {"Regions": {"Region": [{**_region(call), "Status": "available"}]}}


@action(VPC, "DescribeRegions", "AcceptLanguage", "Regions{Region[]{LocalName RegionEndpoint RegionId}}")
async def describe_vpc_regions(call: Call) -> dict[str, Any]:
    """List the region, in the form of the VPC product."""
    return {"Regions": {"Region": [_region(call)]}}


@action(ECS, "DescribeZones", "Verbose:b", f"Zones{{Zone[]{{{_ZONE}}}}}")
async def describe_zones(call: Call) -> dict[str, Any]:
    """List the zone and what can be made in it."""
    there = await instance_types.table(call.context.reads)
    types, families = list(there), sorted({one.family for one in there.values()})
    disks = categories()
    resources = {
        "DataDiskCategories": {"supportedDataDiskCategory": disks},
        "InstanceTypeFamilies": {"supportedInstanceTypeFamily": families},
        "InstanceTypes": {"supportedInstanceType": types},
        "IoOptimized": True,
        "NetworkTypes": {"supportedNetworkCategory": ["vpc"]},
        "SystemDiskCategories": {"supportedSystemDiskCategory": disks},
    }
    zone = {
        "AvailableDiskCategories": {"DiskCategories": disks},
        "AvailableInstanceTypes": {"InstanceTypes": types},
        "AvailableResourceCreation": {"ResourceTypes": ["VSwitch", "IoOptimized", "Instance", "Disk"]},
        "AvailableResources": {"ResourcesInfo": [resources]},
        "LocalName": call.context.zone,
        "ZoneId": call.context.zone,
        "ZoneType": "AvailabilityZone",
    }
    return {"Zones": {"Zone": [zone]}}


@action(VPC, "DescribeZones", "ZoneType AcceptLanguage", "Zones{Zone[]{LocalName ZoneId ZoneType}}")
async def describe_vpc_zones(call: Call) -> dict[str, Any]:
    """List the zone, in the form of the VPC product."""
    return {"Zones": {"Zone": [{"LocalName": call.context.zone, "ZoneId": call.context.zone, "ZoneType": "Zone"}]}}


@action(
    LOCATION,
    "DescribeEndpoints",
    "Id! ServiceCode! Type",
    "Endpoints{Endpoint[]{Endpoint Id Namespace Protocols{Protocols[]} SerivceCode Type}} Success:b",
)
async def describe_endpoints(call: Call) -> dict[str, Any]:
    """Tell a client where a product is: here. ``SerivceCode`` is how the public API spells it."""
    mine = call.text("Id") == call.context.region
    endpoint = {
        "Endpoint": call.endpoint,
        "Id": call.context.region,
        "Protocols": {"Protocols": ["HTTP"]},
        "SerivceCode": call.text("ServiceCode"),
        "Type": call.text("Type") or "openAPI",
    }
    return {"Endpoints": {"Endpoint": [endpoint] if mine else []}, "Success": True}
