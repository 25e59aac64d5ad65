"""The parameters and answers of the instance actions that are too long to stand beside their functions."""

from __future__ import annotations

from typing import Final

_DISK: Final = "Category DeleteWithInstance:b Description Device DiskName Size:i SnapshotId"

CREATE: Final = f"""
    Amount:i ClientToken DataDisk[]{{{_DISK}}} DedicatedHostId DeletionProtection:b DeploymentSetGroupNo:i
    DeploymentSetId Description DryRun:b HostName ImageId InstanceName
    InstanceType KeyPairName MinAmount:i NetworkInterface[]{{InstanceType PrimaryIpAddress SecurityGroupId
    SecurityGroupIds[] VSwitchId}} Password PrivateIpAddress SecurityGroupId SecurityGroupIds[]
    SystemDisk{{Category Description DiskName Size:i}} Tag[]{{Key! Value}} UniqueSuffix:b UserData VSwitchId ZoneId
"""

DESCRIBE: Final = """
    EipAddresses:j ImageId InnerIpAddresses:j InstanceChargeType InstanceIds:j InstanceName InstanceNetworkType
    InstanceType InstanceTypeFamily Ipv6Address[] KeyPairName PrivateIpAddresses:j PublicIpAddresses:j
    RdmaIpAddresses:j SecurityGroupId Status Tag[]{Key! Value} VSwitchId VpcId ZoneId
    PageNumber:i PageSize:i NextToken MaxResults:i
"""

PRIVATE_IP_SETS: Final = "PrivateIpSets{PrivateIpSet[]{Primary:b PrivateDnsName PrivateIpAddress}}"
IPV6_SETS: Final = """
    Ipv4PrefixSets{Ipv4PrefixSet[]{Ipv4Prefix}} Ipv6PrefixSets{Ipv6PrefixSet[]{Ipv6Prefix}}
    Ipv6Sets{Ipv6Set[]{Ipv6Address Primary:b}}
"""

INSTANCE: Final = f"""
    AdditionalInfo{{EnableHighDensityMode:b ManagedHostId NodeSerialNumber}} AutoReleaseTime ClockOptions{{PtpStatus}}
    ClusterId Cpu:i CpuOptions{{CoreCount:i EnableVISST:b EnableVRDT:b NestedVirtualization Numa ThreadsPerCore:i
    TopologyType TurboMode}} CreationTime CreditSpecification
    DedicatedHostAttribute{{DedicatedHostClusterId DedicatedHostId DedicatedHostName}}
    DedicatedInstanceAttribute{{Affinity Tenancy}} DeletionProtection:b DeploymentSetGroupNo:i DeploymentSetId
    Description DeviceAvailable:b
    EcsCapacityReservationAttr{{CapacityReservationId CapacityReservationPreference}}
    EipAddress{{AllocationId Bandwidth:i InternetChargeType IpAddress IsSupportUnassociate:b}} EnableNVS:b ExpiredTime
    GPUAmount:i GPUSpec HibernationOptions{{Configured:b}} HostName HpcClusterId ISP ImageId
    ImageOptions{{CurrentOSNVMeSupported:b LoginAsNonRoot:b}} InnerIpAddress{{IpAddress[]}} InstanceChargeType
    InstanceId InstanceName InstanceNetworkType InstanceType InstanceTypeFamily InternetChargeType
    InternetMaxBandwidthIn:i InternetMaxBandwidthOut:i IoOptimized:b KeyPairName LocalStorageAmount:i
    LocalStorageCapacity:i Memory:i
    MetadataOptions{{HttpEndpoint HttpPutResponseHopLimit:i HttpTokens InstanceMetadataTags}}
    NetworkInterfaces{{NetworkInterface[]{{{IPV6_SETS} MacAddress NetworkInterfaceId PrimaryIpAddress
    {PRIVATE_IP_SETS} Type}}}} OSName OSNameEn OSType OperationLocks{{LockReason[]{{LockMsg LockReason}}}}
    PrivateDnsNameOptions{{EnableInstanceIdDnsAAAARecord:b EnableInstanceIdDnsARecord:b EnableIpDnsARecord:b
    EnableIpDnsPtrRecord:b HostnameType}} PublicIpAddress{{IpAddress[]}} RdmaIpAddress{{IpAddress[]}} Recyclable:b
    RegionId ResourceGroupId SaleCycle SecurityGroupIds{{SecurityGroupId[]}} SecurityOptions{{EnableSecureBoot:b}}
    SerialNumber SpotDuration:i SpotInterruptionBehavior SpotPriceLimit:f SpotStrategy StartTime Status StoppedMode
    Tags{{Tag[]{{TagKey TagValue}}}} VlanId
    VpcAttributes{{NatIpAddress PrivateIpAddress{{IpAddress[]}} VSwitchId VpcId}} ZoneId
"""

DESCRIBED: Final = f"Instances{{Instance[]{{{INSTANCE}}}}} NextToken PageNumber:i PageSize:i TotalCount:i"

ATTRIBUTE: Final = """
    ClusterId Cpu:i CreationTime CreditSpecification DedicatedHostAttribute{DedicatedHostId DedicatedHostName}
    Description EipAddress{AllocationId Bandwidth:i InternetChargeType IpAddress} EnableJumboFrame:b
    EnableNetworkEncryption:b ExpiredTime HostName ImageId InnerIpAddress{IpAddress[]} InstanceChargeType InstanceId
    InstanceName InstanceNetworkType InstanceType InternetChargeType InternetMaxBandwidthIn:i
    InternetMaxBandwidthOut:i IoOptimized Memory:i
    NetworkOptions{BandwidthWeighting EnableJumboFrame:b EnableNetworkEncryption:b}
    OperationLocks{LockReason[]{LockReason}} PublicIpAddress{IpAddress[]} RegionId
    SecurityGroupIds{SecurityGroupId[]} SecurityOptions{EnableSecureBoot:b} SerialNumber Status StoppedMode VlanId
    VpcAttributes{NatIpAddress PrivateIpAddress{IpAddress[]} VSwitchId VpcId} ZoneId
"""

RESPONSES: Final = "InstanceResponses{InstanceResponse[]{Code CurrentStatus InstanceId Message PreviousStatus}}"

MAINTENANCE: Final = """
    MaintenanceAttributes{MaintenanceAttribute[]{ActionOnMaintenance{DefaultValue
    SupportedValues{SupportedValue[]} Value} InstanceId
    MaintenanceWindows{MaintenanceWindow[]{EndTime StartTime}} NotifyOnMaintenance:b}}
    PageNumber:i PageSize:i TotalCount:i
"""
