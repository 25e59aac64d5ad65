"""The life of a virtual machine through the new SDK: every tenant action at least once."""

from __future__ import annotations

import base64
from typing import Any

import alibabacloud_ecs20140526.models as e
import alibabacloud_vpc20160428.models as v

from tests.functional.sdk.changes import ChangeLife
from tests.functional.sdk.deploying import DeployLife
from tests.functional.sdk.happening import HappenLife
from tests.functional.sdk.network import SMALLEST
from tests.functional.sdk.placing import PlaceLife
from tests.functional.sdk.snapshots import SnapshotLife


class Life(SnapshotLife, PlaceLife, ChangeLife, HappenLife, DeployLife):
    """The whole life, from an empty account back to an empty account."""

    def make_instance(self) -> None:
        """Run an instance with a data disk and look at it from every side."""
        ecs, region, made = self.sdk.ecs, self.region, self.made
        request = e.RunInstancesRequest(
            region_id=region,
            image_id=made["image"],
            instance_type=SMALLEST,
            v_switch_id=made["vswitch"],
            security_group_id=made["group"],
            instance_name=self.name,
            host_name="life",
            key_pair_name=self.name,
            user_data=base64.b64encode(b"#!/bin/sh\necho yuntai\n").decode(),
            data_disk=[e.RunInstancesRequestDataDisk(size=1, disk_name="extra")],
            tag=[e.RunInstancesRequestTag(key="owner", value="sdk")],
            deployment_set_id=made["set"],
            deployment_set_group_no=2,
            client_token=f"{self.name}-token-1",
            amount=1,
        )
        made["instance"] = ecs.run_instances(request).body.instance_id_sets.instance_id_set[0]
        again = ecs.run_instances(request).body.instance_id_sets.instance_id_set
        assert again == [made["instance"]], "the same ClientToken made a second instance"
        shown = self.wait_instance(made["instance"], "Running")
        assert shown.vpc_attributes.v_switch_id == made["vswitch"]
        assert shown.vpc_attributes.private_ip_address.ip_address[0].startswith("10.20.1.")
        assert shown.network_interfaces.network_interface[0].mac_address
        assert [(tag.tag_key, tag.tag_value) for tag in shown.tags.tag] == [("owner", "sdk")]
        self._sides()

    def _sides(self) -> None:
        ecs, region, made = self.sdk.ecs, self.region, self.made
        one, ids = made["instance"], f'["{made["instance"]}"]'
        attribute = ecs.describe_instance_attribute(e.DescribeInstanceAttributeRequest(instance_id=one)).body
        assert attribute.host_name == "life"
        status = ecs.describe_instance_status(e.DescribeInstanceStatusRequest(region_id=region, instance_id=[one])).body
        assert [row.status for row in status.instance_statuses.instance_status] == ["Running"]
        data = ecs.describe_user_data(e.DescribeUserDataRequest(region_id=region, instance_id=one)).body.user_data
        assert base64.b64decode(data).startswith(b"#!/bin/sh")
        ecs.describe_instance_ram_role(e.DescribeInstanceRamRoleRequest(region_id=region, instance_ids=ids))
        pools = ecs.describe_instance_attachment_attributes(
            e.DescribeInstanceAttachmentAttributesRequest(region_id=region, instance_ids=ids)
        ).body
        assert [row.instance_id for row in pools.instances.instance] == [one]
        care = ecs.describe_instance_maintenance_attributes(
            e.DescribeInstanceMaintenanceAttributesRequest(region_id=region, instance_id=[one])
        ).body
        assert care.maintenance_attributes.maintenance_attribute[0].action_on_maintenance.value
        cards = ecs.describe_network_interfaces(
            e.DescribeNetworkInterfacesRequest(region_id=region, instance_id=one)
        ).body.network_interface_sets.network_interface_set
        assert cards[0].private_ip_sets.private_ip_set[0].primary is True
        system = ecs.describe_disks(
            e.DescribeDisksRequest(region_id=region, instance_id=one, disk_type="system")
        ).body.disks.disk
        assert len(system) == 1
        made["system_disk"] = system[0].disk_id
        console = ecs.get_instance_console_output(
            e.GetInstanceConsoleOutputRequest(region_id=region, instance_id=one)
        ).body
        base64.b64decode(console.console_output, validate=True)
        ecs.modify_instance_attribute(
            e.ModifyInstanceAttributeRequest(instance_id=one, instance_name="renamed", description="a machine")
        )
        assert self.instance(one).instance_name == "renamed"

    def use_disks(self) -> None:
        """Create, attach, resize, snapshot, clone and detach disks while the instance runs."""
        ecs, region, made = self.sdk.ecs, self.region, self.made
        made["disk"] = ecs.create_disk(
            e.CreateDiskRequest(region_id=region, zone_id=made["zone"], size=1, disk_name=self.name)
        ).body.disk_id
        self.wait_disk(made["disk"], "Available")
        ecs.attach_disk(e.AttachDiskRequest(instance_id=made["instance"], disk_id=made["disk"]))
        shown = self.wait_disk(made["disk"], "In_use")
        assert shown.instance_id == made["instance"]
        assert shown.device.startswith("/dev/")
        ecs.modify_disk_attribute(e.ModifyDiskAttributeRequest(disk_id=made["disk"], description="a disk"))
        ecs.resize_disk(e.ResizeDiskRequest(disk_id=made["disk"], new_size=2, type="online"))
        self.until("the new size", lambda: self.disk(made["disk"]).size, lambda size: size == 2)
        made["snapshot"] = self._take(made["disk"], "data")
        ecs.modify_snapshot_attribute(
            e.ModifySnapshotAttributeRequest(snapshot_id=made["snapshot"], snapshot_name="renamed")
        )
        assert self.snapshot(made["snapshot"]).snapshot_name == "renamed"
        clone = ecs.create_disk(
            e.CreateDiskRequest(region_id=region, zone_id=made["zone"], snapshot_id=made["snapshot"])
        ).body.disk_id
        assert self.wait_disk(clone, "Available").size == 2
        self._detach(made["disk"])
        for disk_id in (clone, made["disk"]):
            self.until("the disk to be free", lambda d=disk_id: self._delete_disk(d), bool)  # type: ignore[misc]
            self.until(f"{disk_id} to go", lambda d=disk_id: self.disk(d), lambda seen: seen is None)  # type: ignore[misc]
        self._until_done("the snapshot to go", lambda: self._delete_snapshot(made["snapshot"]))

    def _take(self, disk_id: str, kind: str) -> str:
        ecs = self.sdk.ecs
        made: str = ecs.create_snapshot(e.CreateSnapshotRequest(disk_id=disk_id, snapshot_name=kind)).body.snapshot_id
        shown = self.until(
            "the snapshot", lambda: self.snapshot(made), lambda seen: bool(seen) and seen.status == "accomplished"
        )
        assert (shown.progress, shown.source_disk_type) == ("100%", kind)
        return made

    def _detach(self, disk_id: str) -> None:
        self.sdk.ecs.detach_disk(e.DetachDiskRequest(instance_id=self.made["instance"], disk_id=disk_id))
        assert self.wait_disk(disk_id, "Available").instance_id == ""

    def _delete_disk(self, disk_id: str) -> bool:
        return self._tried(lambda: self.sdk.ecs.delete_disk(e.DeleteDiskRequest(disk_id=disk_id)))

    def _delete_snapshot(self, snapshot_id: str) -> bool:
        return self._tried(lambda: self.sdk.ecs.delete_snapshot(e.DeleteSnapshotRequest(snapshot_id=snapshot_id)))

    def use_images(self) -> None:
        """Make an image of the running instance, and delete it."""
        ecs, region, made = self.sdk.ecs, self.region, self.made
        snapshot = self._take(made["system_disk"], "system")
        made["own_image"] = ecs.create_image(
            e.CreateImageRequest(region_id=region, snapshot_id=snapshot, image_name=self.name)
        ).body.image_id

        def look() -> Any:
            request = e.DescribeImagesRequest(region_id=region, image_id=made["own_image"], status="Creating,Available")
            return ecs.describe_images(request).body.images.image

        shown = self.until("the image", look, lambda seen: bool(seen) and seen[0].status == "Available")[0]
        assert (shown.image_owner_alias, shown.progress) == ("self", "100%")
        ecs.modify_image_attribute(
            e.ModifyImageAttributeRequest(region_id=region, image_id=made["own_image"], description="an image")
        )
        request = e.DeleteImageRequest(region_id=region, image_id=made["own_image"])
        self._until_done("the image to be free", lambda: self._tried(lambda: ecs.delete_image(request)))
        self.until("the image to go", look, lambda seen: not seen)
        self._until_done("the snapshot to go", lambda: self._delete_snapshot(snapshot))

    def use_tags(self) -> None:
        """Tag, list and untag through both products."""
        ecs, vpc, region, made = self.sdk.ecs, self.sdk.vpc, self.region, self.made
        ids = [made["instance"]]
        ecs.tag_resources(
            e.TagResourcesRequest(
                region_id=region,
                resource_type="instance",
                resource_id=ids,
                tag=[e.TagResourcesRequestTag(key="stage", value="one")],
            )
        )
        listing = e.ListTagResourcesRequest(region_id=region, resource_type="instance", resource_id=ids)
        rows = ecs.list_tag_resources(listing).body.tag_resources.tag_resource
        assert ("stage", "one") in {(row.tag_key, row.tag_value) for row in rows}
        filtered = e.DescribeInstancesRequest(
            region_id=region, tag=[e.DescribeInstancesRequestTag(key="stage", value="one")]
        )
        assert [one.instance_id for one in ecs.describe_instances(filtered).body.instances.instance] == ids
        ecs.untag_resources(
            e.UntagResourcesRequest(region_id=region, resource_type="instance", resource_id=ids, tag_key=["stage"])
        )
        rows = ecs.list_tag_resources(listing).body.tag_resources.tag_resource
        assert "stage" not in {row.tag_key for row in rows}
        vpc_ids = [made["vpc"]]
        vpc.tag_resources(
            v.TagResourcesRequest(
                region_id=region,
                resource_type="VPC",
                resource_id=vpc_ids,
                tag=[v.TagResourcesRequestTag(key="stage", value="two")],
            )
        )
        vpc.list_tag_resources(v.ListTagResourcesRequest(region_id=region, resource_type="VPC", resource_id=vpc_ids))
        vpc.un_tag_resources(
            v.UnTagResourcesRequest(region_id=region, resource_type="VPC", resource_id=vpc_ids, tag_key=["stage"])
        )

    def use_power(self) -> None:
        """Reboot, stop and start, one at a time and through the plural actions; join and leave a group."""
        ecs, region, one = self.sdk.ecs, self.region, self.made["instance"]
        ecs.reboot_instance(e.RebootInstanceRequest(instance_id=one))
        self.wait_instance(one, "Running")
        ecs.stop_instance(e.StopInstanceRequest(instance_id=one, force_stop=True))
        self.wait_instance(one, "Stopped")
        ecs.start_instance(e.StartInstanceRequest(instance_id=one))
        self.wait_instance(one, "Running")
        ecs.reboot_instances(e.RebootInstancesRequest(region_id=region, instance_id=[one], force_reboot=True))
        self.wait_instance(one, "Running")
        answer = ecs.stop_instances(e.StopInstancesRequest(region_id=region, instance_id=[one], force_stop=True)).body
        row = answer.instance_responses.instance_response[0]
        assert (row.code, row.instance_id, row.previous_status) == ("200", one, "Running")
        self.wait_instance(one, "Stopped")
        self._join_and_leave()
        self.change_size()
        self.change_deployment()
        ecs.start_instances(e.StartInstancesRequest(region_id=region, instance_id=[one]))
        self.wait_instance(one, "Running")

    def _join_and_leave(self) -> None:
        ecs, region, one, made = self.sdk.ecs, self.region, self.made["instance"], self.made
        other = ecs.create_security_group(
            e.CreateSecurityGroupRequest(region_id=region, vpc_id=made["vpc"], security_group_name="other")
        ).body.security_group_id
        ecs.join_security_group(e.JoinSecurityGroupRequest(instance_id=one, security_group_id=other))
        assert set(self.instance(one).security_group_ids.security_group_id) == {made["group"], other}
        ecs.leave_security_group(e.LeaveSecurityGroupRequest(instance_id=one, security_group_id=other))
        assert self.instance(one).security_group_ids.security_group_id == [made["group"]]
        ecs.delete_security_group(e.DeleteSecurityGroupRequest(region_id=region, security_group_id=other))
        attached = ecs.attach_key_pair(
            e.AttachKeyPairRequest(region_id=region, key_pair_name=f"{self.name}-imported", instance_ids=f'["{one}"]')
        ).body
        assert attached.fail_count == "0"
        ecs.detach_key_pair(
            e.DetachKeyPairRequest(region_id=region, key_pair_name=f"{self.name}-imported", instance_ids=f'["{one}"]')
        )

    def create_stopped(self) -> None:
        """Create an instance in the old way, which ends Stopped, and delete it with the plural action."""
        ecs, region, made = self.sdk.ecs, self.region, self.made
        second = ecs.create_instance(
            e.CreateInstanceRequest(
                region_id=region,
                image_id=made["image"],
                instance_type=SMALLEST,
                v_switch_id=made["vswitch"],
                security_group_id=made["group"],
            )
        ).body.instance_id
        self.wait_instance(second, "Stopped")
        ecs.delete_instances(e.DeleteInstancesRequest(region_id=region, instance_id=[second]))
        self.until("the second to go", lambda: self.instance(second), lambda seen: seen is None)

    def clean_up(self) -> None:
        """Release everything, in the order that Terraform would."""
        ecs, vpc, region, made = self.sdk.ecs, self.sdk.vpc, self.region, self.made
        if "instance" in made:
            ecs.delete_instance(e.DeleteInstanceRequest(instance_id=made["instance"], force=True))
            self.until("the instance to go", lambda: self.instance(made["instance"]), lambda seen: seen is None)
        self.drop_set()
        names = f'["{self.name}","{self.name}-imported"]'
        ecs.delete_key_pairs(e.DeleteKeyPairsRequest(region_id=region, key_pair_names=names))
        if "group" in made:
            group = e.DeleteSecurityGroupRequest(region_id=region, security_group_id=made["group"])
            self._until_done("the group to be free", lambda: self._tried(lambda: ecs.delete_security_group(group)))
        if "vswitch" in made:
            switch = v.DeleteVSwitchRequest(region_id=region, v_switch_id=made["vswitch"])
            self._until_done("the vSwitch to be free", lambda: self._tried(lambda: vpc.delete_vswitch(switch)))
        if "vpc" in made:
            network = v.DeleteVpcRequest(region_id=region, vpc_id=made["vpc"])
            self._until_done("the VPC to be free", lambda: self._tried(lambda: vpc.delete_vpc(network)))

    def run(self) -> None:
        """Live the whole life; what was made is released also when something fails on the way."""
        try:
            self.look_around()
            self.use_dedicated_hosts()
            self.make_network()
            self.make_set()
            self.make_instance()
            self.rehearse_events()
            self.check_set()
            self.use_disks()
            self.use_snapshots()
            self.use_policies()
            self.use_network_cards()
            self.use_limits()
            self.use_images()
            self.use_tags()
            self.use_power()
            self.create_stopped()
        finally:
            self.clean_up()
