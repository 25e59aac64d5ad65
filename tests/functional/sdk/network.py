"""The part of a life cycle that looks around and makes a network."""

from __future__ import annotations

from typing import Any

import alibabacloud_ecs20140526.models as e
import alibabacloud_vpc20160428.models as v

from tests.functional.sdk.base import Base

SMALLEST = "ecs.yt1.nano"


class Network(Base):
    """Regions, types, images; VPC, vSwitch, security group, key pair."""

    def look_around(self) -> None:
        """Ask for everything that describes the cloud itself."""
        ecs, vpc, region = self.sdk.ecs, self.sdk.vpc, self.region
        assert ecs.describe_regions(e.DescribeRegionsRequest()).body.regions.region[0].region_id == region
        zone = ecs.describe_zones(e.DescribeZonesRequest(region_id=region)).body.zones.zone[0]
        self.made["zone"] = zone.zone_id
        assert zone.available_instance_types.instance_types
        types = ecs.describe_instance_types(e.DescribeInstanceTypesRequest()).body.instance_types.instance_type
        assert SMALLEST in {one.instance_type_id for one in types}
        page = ecs.describe_instance_types(e.DescribeInstanceTypesRequest(max_results=2)).body
        assert len(page.instance_types.instance_type) == 2
        assert page.next_token
        ecs.describe_instance_type_families(e.DescribeInstanceTypeFamiliesRequest(region_id=region))
        for wanted in ("InstanceType", "SystemDisk", "DataDisk", "Zone"):
            request = e.DescribeAvailableResourceRequest(region_id=region, destination_resource=wanted)
            zones = ecs.describe_available_resource(request).body.available_zones.available_zone
            assert zones[0].available_resources.available_resource[0].type == wanted
        quotas = ecs.describe_account_attributes(e.DescribeAccountAttributesRequest(region_id=region)).body
        assert quotas.account_attribute_items.account_attribute_item
        vpc.describe_regions(v.DescribeRegionsRequest())
        vpc.describe_zones(v.DescribeZonesRequest(region_id=region))
        assert self.sdk.sts.get_caller_identity().body.account_id
        images = ecs.describe_images(e.DescribeImagesRequest(region_id=region)).body.images.image
        assert images, "the cloud has no public image; import one"
        self.made["image"] = min(images, key=lambda image: image.size).image_id

    def make_network(self) -> None:
        """Create a VPC, a vSwitch, a security group with rules, and a key pair."""
        vpc, ecs, region, made = self.sdk.vpc, self.sdk.ecs, self.region, self.made
        tag = v.CreateVpcRequestTag(key="purpose", value="test")
        request = v.CreateVpcRequest(region_id=region, cidr_block="10.20.0.0/16", vpc_name=self.name, tag=[tag])
        answer = vpc.create_vpc(request).body
        made["vpc"] = answer.vpc_id
        assert answer.vrouter_id
        assert answer.route_table_id
        self.until("the VPC", lambda: self._vpc().status, lambda status: status == "Available")
        vpc.modify_vpc_attribute(v.ModifyVpcAttributeRequest(vpc_id=made["vpc"], description="a network"))
        assert self._vpc().description == "a network"
        listed = vpc.describe_vpcs(v.DescribeVpcsRequest(region_id=region, vpc_id=made["vpc"])).body.vpcs.vpc
        assert [one.vpc_id for one in listed] == [made["vpc"]]
        tables = vpc.describe_route_table_list(v.DescribeRouteTableListRequest(region_id=region, vpc_id=made["vpc"]))
        table = tables.body.router_table_list.router_table_list_type[0]
        assert (table.route_table_type, table.vpc_id) == ("System", made["vpc"])

        made["vswitch"] = vpc.create_vswitch(
            v.CreateVSwitchRequest(
                region_id=region,
                vpc_id=made["vpc"],
                zone_id=made["zone"],
                cidr_block="10.20.1.0/24",
                v_switch_name=self.name,
            )
        ).body.v_switch_id
        self.until("the vSwitch", lambda: self._vswitch().status, lambda status: status == "Available")
        vpc.modify_vswitch_attribute(
            v.ModifyVSwitchAttributeRequest(v_switch_id=made["vswitch"], v_switch_name="renamed")
        )
        switches = vpc.describe_vswitches(v.DescribeVSwitchesRequest(region_id=region, vpc_id=made["vpc"])).body
        assert switches.v_switches.v_switch[0].v_switch_name == "renamed"

        made["group"] = ecs.create_security_group(
            e.CreateSecurityGroupRequest(region_id=region, vpc_id=made["vpc"], security_group_name=self.name)
        ).body.security_group_id
        self._rules()
        pair = ecs.create_key_pair(e.CreateKeyPairRequest(region_id=region, key_pair_name=self.name)).body
        assert "PRIVATE KEY" in pair.private_key_body
        public = ecs.describe_key_pairs(
            e.DescribeKeyPairsRequest(region_id=region, key_pair_name=self.name, include_public_key=True)
        ).body.key_pairs.key_pair[0]
        assert public.public_key.startswith("ssh-")
        ecs.import_key_pair(
            e.ImportKeyPairRequest(
                region_id=region, key_pair_name=f"{self.name}-imported", public_key_body=public.public_key
            )
        )

    def _vpc(self) -> Any:
        request = v.DescribeVpcAttributeRequest(region_id=self.region, vpc_id=self.made["vpc"])
        return self.sdk.vpc.describe_vpc_attribute(request).body

    def _vswitch(self) -> Any:
        request = v.DescribeVSwitchAttributesRequest(region_id=self.region, v_switch_id=self.made["vswitch"])
        return self.sdk.vpc.describe_vswitch_attributes(request).body

    def _rules(self) -> None:
        """Add rules both ways in both forms, look at them, take one away again."""
        ecs, region, group = self.sdk.ecs, self.region, self.made["group"]
        ssh = e.AuthorizeSecurityGroupRequestPermissions(
            ip_protocol="tcp", port_range="22/22", source_cidr_ip="0.0.0.0/0", policy="accept", priority="1"
        )
        ecs.authorize_security_group(
            e.AuthorizeSecurityGroupRequest(region_id=region, security_group_id=group, permissions=[ssh])
        )
        ecs.authorize_security_group(
            e.AuthorizeSecurityGroupRequest(
                region_id=region,
                security_group_id=group,
                ip_protocol="icmp",
                port_range="-1/-1",
                source_cidr_ip="10.20.0.0/16",
            )
        )
        ecs.authorize_security_group_egress(
            e.AuthorizeSecurityGroupEgressRequest(
                region_id=region,
                security_group_id=group,
                ip_protocol="udp",
                port_range="53/53",
                dest_cidr_ip="0.0.0.0/0",
                policy="drop",
                priority="5",
            )
        )
        shown = self._permissions("ingress")
        assert {(one.ip_protocol.lower(), one.port_range) for one in shown} == {("tcp", "22/22"), ("icmp", "-1/-1")}
        assert self._permissions("egress")[0].priority == "5"
        ecs.revoke_security_group(
            e.RevokeSecurityGroupRequest(
                region_id=region,
                security_group_id=group,
                ip_protocol="icmp",
                port_range="-1/-1",
                source_cidr_ip="10.20.0.0/16",
            )
        )
        ecs.revoke_security_group_egress(
            e.RevokeSecurityGroupEgressRequest(
                region_id=region,
                security_group_id=group,
                security_group_rule_id=[self._permissions("egress")[0].security_group_rule_id],
            )
        )
        assert [one.port_range for one in self._permissions("all")] == ["22/22"]
        ecs.modify_security_group_policy(
            e.ModifySecurityGroupPolicyRequest(region_id=region, security_group_id=group, inner_access_policy="Drop")
        )
        ecs.modify_security_group_attribute(
            e.ModifySecurityGroupAttributeRequest(region_id=region, security_group_id=group, description="a group")
        )
        request = e.DescribeSecurityGroupsRequest(region_id=region, security_group_id=group)
        listed = ecs.describe_security_groups(request).body.security_groups.security_group
        assert [(one.description, one.rule_count) for one in listed] == [("a group", 1)]

    def _permissions(self, direction: str) -> Any:
        request = e.DescribeSecurityGroupAttributeRequest(
            region_id=self.region, security_group_id=self.made["group"], direction=direction
        )
        return self.sdk.ecs.describe_security_group_attribute(request).body.permissions.permission
