"""Every module with actions. Importing them fills the table; nothing else needs to know them by name."""

from __future__ import annotations

from types import ModuleType

from yuntai.api import (
    account,
    auto_snapshots,
    dedicated_hosts,
    deployment,
    deployment_sets,
    disks,
    enis,
    images,
    instance_events,
    instance_types,
    instances,
    instances_read,
    keypairs,
    operator,
    operator_failover,
    operator_hosts,
    operator_images,
    operator_migrations,
    operator_pangu,
    operator_scheduler,
    operator_snapshots,
    operator_volume_stats,
    regions,
    security_groups,
    sizes,
    snapshot_groups,
    snapshots,
    tags,
    vpcs,
    vswitches,
)
from yuntai.api.registry import ACTIONS, Action

MODULES: tuple[ModuleType, ...] = (
    account,
    auto_snapshots,
    dedicated_hosts,
    deployment_sets,
    deployment,
    disks,
    enis,
    images,
    instance_events,
    instance_types,
    instances,
    instances_read,
    keypairs,
    operator,
    operator_failover,
    operator_hosts,
    operator_images,
    operator_pangu,
    operator_migrations,
    operator_scheduler,
    operator_snapshots,
    operator_volume_stats,
    regions,
    security_groups,
    sizes,
    snapshot_groups,
    snapshots,
    tags,
    vpcs,
    vswitches,
)


def load() -> dict[str, dict[str, Action]]:
    """Return the table of all actions by version and name."""
    return ACTIONS
