"""Limits of disks and vCPUs, made true of a running guest: level-triggered, from what it has to what it is to have.

A limit that cannot be set now is no error of the instance: its guest runs, and it is tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai import log
from yuntai.compute.driver import HypervisorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.compute.driver import Guest, Hypervisor
    from yuntai.model.compute import Disk, Instance

AGAIN_S = 30.0
_LOG = log.get("compute.limits")


async def apply(
    hypervisor: Hypervisor, disk_of: Callable[[str], Disk | None], instance: Instance, guest: Guest | None
) -> float | None:
    """Set what differs; return when to try again, ``None`` when all is as wanted."""
    if guest is None or guest.state == "off":
        return None
    try:
        for disk_id in guest.disks:
            disk = disk_of(disk_id)
            if disk is None or disk.instance != instance.id:
                continue
            wanted = (disk.iops_max, disk.bytes_per_s_max)
            if guest.limits.get(disk_id, (0, 0)) != wanted:
                _LOG.info("disk limited", instance=instance.id, disk=disk_id, iops=wanted[0], bytes_per_s=wanted[1])
                await hypervisor.limit_disk(instance.id, disk_id, *wanted)
        if guest.vcpu_quota_percent != instance.vcpu_quota_percent:
            _LOG.info("vCPUs limited", instance=instance.id, percent=instance.vcpu_quota_percent)
            await hypervisor.limit_vcpus(instance.id, instance.vcpu_quota_percent)
    except HypervisorError as error:
        _LOG.warning("a limit cannot be set now", instance=instance.id, error=str(error))
        return AGAIN_S
    return None
