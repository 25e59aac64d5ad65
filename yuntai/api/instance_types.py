"""Actions that describe what can be bought: instance types, families, disks."""

from __future__ import annotations

from typing import Any

from yuntai.api.errors import invalid_parameter
from yuntai.api.registry import ECS, TOKENS, Call, action
from yuntai.control import instance_types
from yuntai.control.requests.validate import DISK_CATEGORIES
from yuntai.model.compute import InstanceType

_TYPE = """
    Attributes{Attribute[]{Name Value}} BaselineCredit:i Clock{PtpSupport} CpuArchitecture CpuCoreCount:i
    CpuOptions{Core:i CoreFactor:i HyperThreadingAdjustable:b NestedVirtualizationSupport
    SupportedTopologyTypes{SupportedTopologyType[]} ThreadsPerCore:i} CpuSpeedFrequency:f CpuTurboFrequency:f
    DiskQuantity:i EnhancedNetwork{ExpressSupport:b RssSupport:b SriovSupport:b VfQueueNumberPerEni:i}
    EniIpv6AddressQuantity:i EniPrivateIpAddressQuantity:i EniQuantity:i EniTotalQuantity:i EniTrunkSupported:b
    EriQuantity:i GPUAmount:i GPUMemorySize:f GPUSpec InitialCredit:i InstanceBandwidthRx:i InstanceBandwidthTx:i
    InstanceCategory InstanceFamilyLevel InstancePpsRx:i InstancePpsTx:i InstanceTypeFamily InstanceTypeId
    JumboFrameSupport:b LocalStorageAmount:i LocalStorageCapacity:i LocalStorageCategory MaximumQueueNumberPerEni:i
    MemorySize:f NetworkCardQuantity:i NetworkCards{NetworkCardInfo[]{NetworkCardIndex:i}} NetworkEncryptionSupport:b
    NetworkInfo{BandwidthWeighting{WeightingInfos{WeightingInfo[]{EbsBandwidth:i EbsBurstBandwidth:i Name
    VpcBandwidth:i VpcBurstBandwidth:i}}}} NvmeSupport PhysicalProcessorModel PrimaryEniQueueNumber:i
    QueuePairNumber:i SecondaryEniQueueNumber:i SecurityOptions{SecureBootSupport}
    SupportedBootModes{SupportedBootMode[]} TotalEniQueueQuantity:i
"""
_RESOURCES = """
    AvailableZones{AvailableZone[]{AvailableResources{AvailableResource[]{SupportedResources{SupportedResource[]{
    Max:i Min:i Status StatusCategory Unit Value}} Type}} RegionId Status StatusCategory ZoneId}}
"""
DISKS_PER_INSTANCE = 16
DISK_GIB_MIN, DISK_GIB_MAX = 1, 32768


def categories() -> list[str]:
    """Return the disk categories that a create accepts, the usual one first."""
    return sorted(DISK_CATEGORIES)


def _item(one: InstanceType) -> dict[str, Any]:
    return {
        "CpuArchitecture": "X86",
        "CpuCoreCount": one.cpu,
        "CpuOptions": {"Core": one.cpu, "ThreadsPerCore": 1},
        "DiskQuantity": DISKS_PER_INSTANCE,
        "EniPrivateIpAddressQuantity": 1,
        "EniQuantity": one.nics,
        "EniTotalQuantity": one.nics,
        "InstanceCategory": "General-purpose",
        "InstanceFamilyLevel": "EntryLevel",
        "InstanceTypeFamily": one.family,
        "InstanceTypeId": one.id,
        "MaximumQueueNumberPerEni": 1,
        "MemorySize": one.memory_mib / 1024,
        "NetworkCardQuantity": 1,
        "NvmeSupport": "unsupported",
        "PrimaryEniQueueNumber": 1,
        "SupportedBootModes": {"SupportedBootMode": ["BIOS"]},
        "TotalEniQueueQuantity": one.nics,
    }


@action(
    ECS,
    "DescribeInstanceTypes",
    f"""InstanceTypes[] InstanceTypeFamily InstanceTypeFamilies[] CpuArchitecture MinimumCpuCoreCount:i
    MaximumCpuCoreCount:i MinimumMemorySize:f MaximumMemorySize:f MinimumGPUAmount:i GPUSpec{TOKENS}""",
    f"InstanceTypes{{InstanceType[]{{{_TYPE}}}}} NextToken",
)
async def describe_instance_types(call: Call) -> dict[str, Any]:
    """List instance types; all of them unless MaxResults says how many."""
    there = await instance_types.table(call.context.reads)
    rows = [one for one in there.values() if _type_matches(call, one)]
    start = call.text("NextToken")
    if start and not (start.isascii() and start.isdigit()):
        raise invalid_parameter("NextToken", "use the value that the previous page gave")
    first = int(start or 0)
    last = first + call.paging().max_results if "MaxResults" in call.args else len(rows)  # type: ignore[operator]
    return {
        "InstanceTypes": {"InstanceType": [_item(one) for one in rows[first:last]]},
        "NextToken": str(last) if last < len(rows) else "",
    }


def _type_matches(call: Call, one: InstanceType) -> bool:
    families = (
        *((call.text("InstanceTypeFamily"),) if call.text("InstanceTypeFamily") else ()),
        *call.texts("InstanceTypeFamilies"),
    )
    wanted, args = call.texts("InstanceTypes"), call.args
    memory_gib = one.memory_mib / 1024
    return (
        (not wanted or one.id in wanted)
        and (not families or one.family in families)
        and call.text("CpuArchitecture").upper() in ("", "X86")
        and args.get("MinimumCpuCoreCount", 0) <= one.cpu <= args.get("MaximumCpuCoreCount", one.cpu)
        and args.get("MinimumMemorySize", 0) <= memory_gib <= args.get("MaximumMemorySize", memory_gib)
        and args.get("MinimumGPUAmount", 0) == 0
        and not call.text("GPUSpec")
    )


@action(
    ECS,
    "DescribeInstanceTypeFamilies",
    "Generation",
    "InstanceTypeFamilies{InstanceTypeFamily[]{Generation InstanceTypeFamilyId}}",
)
async def describe_instance_type_families(call: Call) -> dict[str, Any]:
    """List the families of instance types."""
    generation = "ecs-1"
    there = await instance_types.table(call.context.reads)
    families = sorted({one.family for one in there.values()})
    rows = [{"Generation": generation, "InstanceTypeFamilyId": family} for family in families]
    shown = rows if call.text("Generation") in ("", generation) else []
    return {"InstanceTypeFamilies": {"InstanceTypeFamily": shown}}


def _supported(call: Call, wanted: str, types: dict[str, InstanceType]) -> list[dict[str, Any]]:
    """Return the values of one kind of resource that are to be had."""
    have = {"Status": "Available", "StatusCategory": "WithStock"}
    if wanted == "InstanceType":
        return [
            {**have, "Value": one.id}
            for one in types.values()
            if call.text("InstanceType") in ("", one.id)
            and call.args.get("Cores", one.cpu) == one.cpu
            and call.args.get("Memory", one.memory_mib / 1024) == one.memory_mib / 1024
        ]
    if wanted in ("SystemDisk", "DataDisk"):
        category = call.text(f"{wanted}Category")
        return [
            {**have, "Max": DISK_GIB_MAX, "Min": DISK_GIB_MIN, "Unit": "GiB", "Value": one}
            for one in categories()
            if category in ("", one)
        ]
    plain = {"Zone": call.context.zone, "IoOptimized": "optimized", "Network": "vpc"}
    if wanted not in plain:
        kinds = "Zone, IoOptimized, InstanceType, SystemDisk, DataDisk, Network"
        raise invalid_parameter("DestinationResource", f"it is one of {kinds}")
    return [{**have, "Value": plain[wanted]}]


@action(
    ECS,
    "DescribeAvailableResource",
    """DestinationResource! ZoneId InstanceType Cores:i Memory:f SystemDiskCategory DataDiskCategory NetworkCategory
    IoOptimized ResourceType InstanceChargeType""",
    _RESOURCES,
)
async def describe_available_resource(call: Call) -> dict[str, Any]:
    """List what can be made in the zone."""
    wanted = call.text("DestinationResource")
    supported = _supported(call, wanted, await instance_types.table(call.context.reads))
    zone = {
        "AvailableResources": {
            "AvailableResource": [{"SupportedResources": {"SupportedResource": supported}, "Type": wanted}]
        },
        "RegionId": call.context.region,
        "Status": "Available",
        "StatusCategory": "WithStock",
        "ZoneId": call.context.zone,
    }
    shown = [zone] if supported and call.text("ZoneId") in ("", call.context.zone) else []
    return {"AvailableZones": {"AvailableZone": shown}}
