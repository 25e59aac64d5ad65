"""What is to become of the instances of failed hosts: pure functions from records to requests and to new records.

Where each goes the scheduler says, in the order of priorities: when more was lost than fits, the higher ones come back
first, and the rest waits with the reason on it. What was made room for elsewhere by a reserve may be used here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from msgspec.structs import replace

from yuntai.control.scheduler import Request, request_of
from yuntai.control.settle import HOST_FAILED
from yuntai.model.base import new_id
from yuntai.model.compute import InstanceEvent
from yuntai.model.lifecycle import INSTANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yuntai.model.compute import Instance, InstanceStatus
    from yuntai.model.network import Port

REASON_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class Moved:
    """The records that make an instance another host's, all for one transaction."""

    instance: Instance
    ports: tuple[Port, ...]
    event: InstanceEvent


def lost(instances: Iterable[Instance], failed: frozenset[str], *, migrations_too: bool) -> list[Instance]:
    """Return what must leave the failed hosts, most important first.

    A stopped instance holds nothing there and is placed anew when it is started. One that migrates is its job's at
    first, which knows whether the destination has its disks already; ``migrations_too`` says that this took too long.
    """
    chosen = [
        one
        for one in instances
        if one.host in failed and one.status != "Stopped" and (migrations_too or not one.migrating_to)
    ]
    return sorted(chosen, key=lambda one: (-one.priority, one.created, one.id))


def request_for(instance: Instance, failed: frozenset[str]) -> Request:
    """Return what to ask the scheduler for. What is not to run any more needs an agent to say so, and no room."""
    avoid = failed | ({instance.migrating_to} if instance.migrating_to else frozenset())
    if not _runs(instance):
        return Request(instance.id, 0, 0, avoid=avoid, uses_reserve=True, priority=instance.priority)
    return dataclasses.replace(request_of(instance, prefer=False, uses_reserve=True), avoid=avoid, host_failed=True)


def move(instance: Instance, ports: Sequence[Port], to: str, now: str, why: str, *, leaves_set: bool = False) -> Moved:
    """Return the records of an instance that goes to ``to``. Jobs that work on it go on: they look at its host anew."""
    if leaves_set:
        why = f"{why}; it left the deployment set {instance.deployment_set}, which no host had room for"
        instance = replace(instance, deployment_set="", deployment_set_group=0)
    stays_up = _runs(instance)
    fact = "host_failed" if stays_up else "host_failed_stop"
    status = cast("InstanceStatus", INSTANCE.step(instance.status, fact, instance.id).state)
    verb = "started" if stays_up else "ended"
    fresh = replace(
        instance,
        host=to,
        migrating_to="",
        status=status,
        desired="stopped" if instance.desired == "running" and not stays_up else instance.desired,
        reason=f"{HOST_FAILED} ({instance.host}: {why}); it is being {verb} on {to}"[:REASON_CHARS_MAX],
    )
    return Moved(
        fresh,
        tuple(replace(port, host=to, destination="") for port in ports),
        InstanceEvent(
            id=new_id("e"),
            account=instance.account,
            instance=instance.id,
            type="SystemFailure.Reboot" if stays_up else "SystemFailure.Stop",
            cycle="Executing",
            reason=f"{instance.host}: {why}",
            from_host=instance.host,
            to_host=to,
            published=now,
            not_before=now,
        ),
    )


def wait(instance: Instance, why: str) -> Instance:
    """Return an instance that nothing has room for now: it comes back when something has, or its host does."""
    status = cast("InstanceStatus", INSTANCE.step(instance.status, "host_failed", instance.id).state)
    reason = f"{HOST_FAILED} ({instance.host}), and it waits for room elsewhere: {why}"
    return replace(instance, status=status, reason=reason[:REASON_CHARS_MAX])


def _runs(instance: Instance) -> bool:
    """Tell whether the instance is to run again. Its owner may have chosen that it is stopped then.

    One that is being made or started has just been asked to run, even if its job has not told its agent so yet.
    """
    if instance.status in ("Pending", "Starting"):
        return True
    if instance.desired != "running":
        return False
    return instance.action_on_maintenance != "Stop" and instance.restart_policy == "always"
