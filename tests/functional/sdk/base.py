"""What every part of a life cycle through the new SDK needs: waiting as real users do, and looking."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import alibabacloud_ecs20140526.models as e

from tests.functional.sdk.clients import NewSdk

T = TypeVar("T")


@dataclass
class Base:
    """One life cycle's state. ``patience_s`` bounds each wait: seconds on a fake, minutes on a real cloud."""

    sdk: NewSdk
    patience_s: float = 20.0
    poll_s: float = 0.02
    name: str = "sdk-life"
    made: dict[str, str] = field(default_factory=dict)

    @property
    def region(self) -> str:
        """The region of the target."""
        return self.sdk.target.region

    def until(self, what: str, look: Callable[[], T], good: Callable[[T], bool]) -> T:
        """Poll until ``good``; fail with what was last seen."""
        deadline = time.monotonic() + self.patience_s
        while True:
            seen = look()
            if good(seen):
                return seen
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: still {seen!r} after {self.patience_s} s")
            time.sleep(self.poll_s)

    def instance(self, instance_id: str) -> Any:
        """Return the instance as DescribeInstances shows it, or None."""
        request = e.DescribeInstancesRequest(region_id=self.region, instance_ids=f'["{instance_id}"]')
        found = self.sdk.ecs.describe_instances(request).body.instances.instance
        return found[0] if found else None

    def disk(self, disk_id: str) -> Any:
        """Return the disk as DescribeDisks shows it, or None."""
        request = e.DescribeDisksRequest(region_id=self.region, disk_ids=f'["{disk_id}"]')
        found = self.sdk.ecs.describe_disks(request).body.disks.disk
        return found[0] if found else None

    def snapshot(self, snapshot_id: str) -> Any:
        """Return the snapshot as DescribeSnapshots shows it, or None."""
        request = e.DescribeSnapshotsRequest(region_id=self.region, snapshot_ids=f'["{snapshot_id}"]')
        found = self.sdk.ecs.describe_snapshots(request).body.snapshots.snapshot
        return found[0] if found else None

    def wait_instance(self, instance_id: str, status: str) -> Any:
        """Wait until an instance has a status."""
        return self.until(
            f"{instance_id} to be {status}",
            lambda: self.instance(instance_id),
            lambda seen: seen is not None and seen.status == status,
        )

    def wait_disk(self, disk_id: str, status: str) -> Any:
        """Wait until a disk has a status."""
        return self.until(
            f"{disk_id} to be {status}", lambda: self.disk(disk_id), lambda seen: bool(seen) and seen.status == status
        )

    def _tried(self, call: Callable[[], Any]) -> bool:
        """Return whether a request was taken; a refusal because something still uses the resource is no failure."""
        try:
            call()
        except Exception as error:
            code = str(getattr(error, "code", ""))
            if any(word in code for word in ("Conflict", "Status", "Dependency", "SnapshotCreated", "ImageUsed")):
                return False
            raise
        return True

    def _until_done(self, what: str, call: Callable[[], bool]) -> None:
        self.until(what, call, bool)
