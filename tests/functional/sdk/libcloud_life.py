"""A life cycle through Apache libcloud: GET, XML, and an opinion of its own about states."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from libcloud.compute.types import NodeState, StorageVolumeState

from tests.functional.sdk.clients import Target, libcloud_driver


class LibcloudLife:
    """Everything that libcloud's driver for ECS can do with a cloud like ours."""

    def __init__(self, target: Target, patience_s: float = 20.0, poll_s: float = 0.02) -> None:
        self.driver = libcloud_driver(target)
        self.region = target.region
        self.patience_s = patience_s
        self.poll_s = poll_s

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        """Poll until ``look`` returns something true."""
        deadline = time.monotonic() + self.patience_s
        while not (seen := look()):
            assert time.monotonic() < deadline, f"waited {self.patience_s} s for {what}"
            time.sleep(self.poll_s)
        return seen

    def node(self, node_id: str) -> Any:
        """Return a node by its id, or None."""
        return next(iter(self.driver.list_nodes(ex_node_ids=[node_id])), None)

    def volume(self, volume_id: str) -> Any:
        """Return a disk by its id, or None."""
        return next(iter(self.driver.list_volumes(ex_volume_ids=[volume_id])), None)

    def wait_node(self, node_id: str, state: str) -> Any:
        """Wait until a node has a state."""
        return self.until(f"{node_id} {state}", lambda: (n := self.node(node_id)) and n.state == state and n)

    def wait_volume(self, volume_id: str, state: str) -> Any:
        """Wait until a disk has a state."""
        return self.until(f"{volume_id} {state}", lambda: (v := self.volume(volume_id)) and v.state == state and v)

    def run(self) -> None:
        """Live the life."""
        driver = self.driver
        assert [location.id for location in driver.list_locations()] == [self.region]
        zone = driver.ex_list_zones()[0]
        size = min(driver.list_sizes(), key=lambda one: (one.ram, one.extra["cpu_core_count"]))
        image = min(driver.list_images(), key=lambda one: one.extra["size"])
        group = driver.ex_create_security_group(description="by libcloud")
        assert group in {one.id for one in driver.ex_list_security_groups()}
        driver.ex_modify_security_group_by_id(group, name="libcloud", description="by libcloud")
        assert driver.ex_list_security_group_attributes(group) == []  # a new group has no rules
        node = driver.create_node(
            name="libcloud", size=size, image=image, ex_security_group_id=group, ex_description="a node"
        )
        try:
            self._live(node.id, zone.id)
        finally:
            node = self.node(node.id)
            assert driver.destroy_node(node)
            self.until("the node to go", lambda: self.node(node.id) is None)
            free = lambda: self._freed(lambda: driver.ex_delete_security_group_by_id(group))  # noqa: E731
            self.until("the group to be free", free)

    def _live(self, node_id: str, zone_id: str) -> None:
        driver = self.driver
        node = self.wait_node(node_id, NodeState.RUNNING)  # libcloud starts what CreateInstance left Stopped
        assert node.private_ips
        assert node.extra["instance_type"]
        assert driver.reboot_node(node)
        node = self.wait_node(node_id, NodeState.RUNNING)
        assert driver.ex_stop_node(node, ex_force_stop=True)
        assert driver.ex_start_node(self.wait_node(node_id, NodeState.STOPPED))
        node = self.wait_node(node_id, NodeState.RUNNING)
        volume = driver.create_volume(1, "libcloud", ex_zone_id=zone_id, ex_description="a volume")
        volume = self.wait_volume(volume.id, StorageVolumeState.AVAILABLE)
        assert driver.attach_volume(node, volume, ex_delete_with_instance=False)
        volume = self.wait_volume(volume.id, StorageVolumeState.INUSE)
        snapshot = driver.create_volume_snapshot(volume, name="libcloud")
        taken = self.until(
            "the snapshot",
            lambda: [
                one
                for one in driver.list_volume_snapshots(volume)
                if one.id == snapshot.id and one.extra["progress"] == "100%"
            ],
        )[0]
        assert driver.detach_volume(volume, ex_instance_id=node_id)
        volume = self.wait_volume(volume.id, StorageVolumeState.AVAILABLE)
        self.until("the volume to be free", lambda: self._freed(lambda: driver.destroy_volume(volume)))
        self.until("the volume to go", lambda: self.volume(volume.id) is None)
        self.until("the snapshot to be free", lambda: self._freed(lambda: driver.destroy_volume_snapshot(taken)))
        assert driver.ex_stop_node(self.node(node_id), ex_force_stop=True)
        self.wait_node(node_id, NodeState.STOPPED)

    def _freed(self, call: Callable[[], Any]) -> bool:
        """Return whether a request was taken; "still in use" is no failure yet."""
        try:
            return bool(call())
        except Exception as error:
            if any(word in str(error) for word in ("Conflict", "Status", "Dependency", "SnapshotCreated")):
                return False
            raise
