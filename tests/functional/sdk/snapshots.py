"""Snapshots through the new SDK: groups, going back, chains and sums, automatic policies."""

from __future__ import annotations

from typing import Any

import alibabacloud_ecs20140526.models as e

from tests.functional.sdk.network import Network


class SnapshotLife(Network):
    """The part of the life that is about snapshots; the instance runs, with a data disk."""

    def use_snapshots(self) -> None:
        """Freeze all disks of the instance at one moment; roll a disk back, and make it new again."""
        self._group()
        ecs, region, made = self.sdk.ecs, self.region, self.made
        disk = made["reset_disk"] = ecs.create_disk(
            e.CreateDiskRequest(region_id=region, zone_id=made["zone"], size=1, disk_name=self.name)
        ).body.disk_id
        self.wait_disk(disk, "Available")
        taken = ecs.create_snapshot(e.CreateSnapshotRequest(disk_id=disk, retention_days=3)).body.snapshot_id
        self.until("it to be taken", lambda: self.snapshot(taken), lambda s: bool(s) and s.status == "accomplished")
        ecs.reset_disk(e.ResetDiskRequest(disk_id=disk, snapshot_id=taken))
        self.wait_disk(disk, "Available")
        ecs.re_init_disk(e.ReInitDiskRequest(disk_id=disk, password="Secret-123", auto_start_instance=True))
        self.wait_disk(disk, "Available")
        ecs.reset_disk(e.ResetDiskRequest(disk_id=disk, snapshot_id=taken))
        self.wait_disk(disk, "Available")
        links = ecs.describe_snapshot_links(
            e.DescribeSnapshotLinksRequest(region_id=region, disk_ids=f'["{disk}"]')
        ).body.snapshot_links.snapshot_link
        assert [(row.source_disk_id, row.total_count) for row in links] == [(disk, 1)]
        usage = ecs.describe_snapshots_usage(e.DescribeSnapshotsUsageRequest(region_id=region)).body
        assert usage.snapshot_count >= 1
        ecs.delete_snapshot(e.DeleteSnapshotRequest(snapshot_id=taken, force=True))
        self.until("the snapshot to go", lambda: self.snapshot(taken), lambda seen: seen is None)
        self.until("the disk to be free", lambda: self._gone(disk), bool)

    def _gone(self, disk: str) -> bool:
        return self._tried(lambda: self.sdk.ecs.delete_disk(e.DeleteDiskRequest(disk_id=disk)))

    def _group(self) -> None:
        ecs, region, made = self.sdk.ecs, self.region, self.made
        group = made["group_of_snapshots"] = ecs.create_snapshot_group(
            e.CreateSnapshotGroupRequest(region_id=region, instance_id=made["instance"], name=self.name)
        ).body.snapshot_group_id

        def look() -> Any:
            request = e.DescribeSnapshotGroupsRequest(region_id=region, snapshot_group_id=[group])
            found = ecs.describe_snapshot_groups(request).body.snapshot_groups.snapshot_group
            return found[0] if found else None

        shown = self.until("the group", look, lambda seen: bool(seen) and seen.status == "accomplished")
        assert len(shown.snapshots.snapshot) >= 2
        assert shown.instance_id == made["instance"]
        ecs.modify_snapshot_group(
            e.ModifySnapshotGroupRequest(region_id=region, snapshot_group_id=group, description="at one moment")
        )
        assert look().description == "at one moment"
        outcome = ecs.delete_snapshot_group(
            e.DeleteSnapshotGroupRequest(region_id=region, snapshot_group_id=group)
        ).body.operation_progress_set.operation_progress
        assert [row.operation_status for row in outcome] == ["Success"] * len(shown.snapshots.snapshot)
        self.until("the group to go", look, lambda seen: seen is None)

    def use_policies(self) -> None:
        """Make, change, apply and cancel an automatic snapshot policy."""
        ecs, region, made = self.sdk.ecs, self.region, self.made
        policy = made["policy"] = ecs.create_auto_snapshot_policy(
            e.CreateAutoSnapshotPolicyRequest(
                region_id=region,
                auto_snapshot_policy_name=self.name,
                time_points='["0","12"]',
                repeat_weekdays='["1","7"]',
                retention_days=7,
            )
        ).body.auto_snapshot_policy_id
        ecs.modify_auto_snapshot_policy_ex(
            e.ModifyAutoSnapshotPolicyExRequest(region_id=region, auto_snapshot_policy_id=policy, retention_days=-1)
        )
        disks = f'["{made["system_disk"]}"]'
        ecs.apply_auto_snapshot_policy(
            e.ApplyAutoSnapshotPolicyRequest(region_id=region, auto_snapshot_policy_id=policy, disk_ids=disks)
        )
        assert self.disk(made["system_disk"]).auto_snapshot_policy_id == policy
        listing = e.DescribeAutoSnapshotPolicyExRequest(region_id=region, auto_snapshot_policy_id=policy)
        (row,) = ecs.describe_auto_snapshot_policy_ex(listing).body.auto_snapshot_policies.auto_snapshot_policy
        assert (row.disk_nums, row.retention_days, row.time_points) == (1, -1, '["0","12"]')
        linked = ecs.describe_auto_snapshot_policy_associations(
            e.DescribeAutoSnapshotPolicyAssociationsRequest(region_id=region, auto_snapshot_policy_id=policy)
        ).body.auto_snapshot_policy_associations.auto_snapshot_policy_association
        assert [(one.auto_snapshot_policy_id, one.disk_id) for one in linked] == [(policy, made["system_disk"])]
        ecs.cancel_auto_snapshot_policy(e.CancelAutoSnapshotPolicyRequest(region_id=region, disk_ids=disks))
        assert self.disk(made["system_disk"]).auto_snapshot_policy_id == ""
        ecs.delete_auto_snapshot_policy(
            e.DeleteAutoSnapshotPolicyRequest(region_id=region, auto_snapshot_policy_id=policy)
        )
