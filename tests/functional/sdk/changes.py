"""What changes of an instance that lives, through the new SDK: network cards, limits, its size."""

from __future__ import annotations

from typing import Any

import alibabacloud_ecs20140526.models as e

from tests.functional.sdk.base import Base

LARGER = "ecs.yt1.micro"


class ChangeLife(Base):
    """The part of the life that changes the instance."""

    def use_network_cards(self) -> None:
        """Make a card, plug it in, take it out, delete it, while the instance runs."""
        ecs, region, made = self.sdk.ecs, self.region, self.made
        request = e.CreateNetworkInterfaceRequest(
            region_id=region,
            v_switch_id=made["vswitch"],
            security_group_ids=[made["group"]],
            network_interface_name=self.name,
            tag=[e.CreateNetworkInterfaceRequestTag(key="owner", value="sdk")],
            client_token=f"{self.name}-card",
        )
        created = ecs.create_network_interface(request).body
        card = created.network_interface_id
        assert (created.status, created.type) == ("Available", "Secondary")
        assert ecs.create_network_interface(request).body.network_interface_id == card
        ecs.modify_network_interface_attribute(
            e.ModifyNetworkInterfaceAttributeRequest(region_id=region, network_interface_id=card, description="a card")
        )
        ecs.attach_network_interface(
            e.AttachNetworkInterfaceRequest(region_id=region, instance_id=made["instance"], network_interface_id=card)
        )
        shown = self._wait_card(card, "InUse")
        assert (shown.instance_id, shown.description) == (made["instance"], "a card")
        # Card and instance are two records, which the API may hear of one after the other.
        self.until(
            "the instance to show both cards",
            lambda: [one.type for one in self.instance(made["instance"]).network_interfaces.network_interface],
            lambda shown: shown == ["Primary", "Secondary"],
        )
        ecs.detach_network_interface(
            e.DetachNetworkInterfaceRequest(region_id=region, instance_id=made["instance"], network_interface_id=card)
        )
        assert self._wait_card(card, "Available").instance_id == ""
        ecs.delete_network_interface(e.DeleteNetworkInterfaceRequest(region_id=region, network_interface_id=card))
        assert self._card(card) is None

    def use_limits(self) -> None:
        """Limit a disk of the running instance, and end the limit."""
        ecs, disk = self.sdk.ecs, self.made["system_disk"]
        options = e.ModifyDiskSpecRequestPerformanceControlOptions(iops=500, throughput=64)
        ecs.modify_disk_spec(e.ModifyDiskSpecRequest(disk_id=disk, performance_control_options=options))
        shown = self.disk(disk)
        assert (shown.iops, shown.throughput) == (500, 64)
        ended = e.ModifyDiskSpecRequestPerformanceControlOptions(recover="All")
        ecs.modify_disk_spec(e.ModifyDiskSpecRequest(disk_id=disk, performance_control_options=ended))
        shown = self.disk(disk)
        assert (shown.iops, shown.throughput) == (0, 0)

    def change_size(self) -> None:
        """Give the stopped instance another type, and its own again."""
        ecs, one = self.sdk.ecs, self.made["instance"]
        before = self.instance(one).instance_type
        for wanted in (LARGER, before):
            ecs.modify_instance_spec(e.ModifyInstanceSpecRequest(instance_id=one, instance_type=wanted))
            assert self.instance(one).instance_type == wanted

    def _card(self, card: str) -> Any:
        request = e.DescribeNetworkInterfacesRequest(region_id=self.region, network_interface_id=[card])
        found = self.sdk.ecs.describe_network_interfaces(request).body.network_interface_sets.network_interface_set
        return found[0] if found else None

    def _wait_card(self, card: str, status: str) -> Any:
        return self.until(
            f"{card} to be {status}", lambda: self._card(card), lambda seen: seen is not None and seen.status == status
        )
