"""From what an agent observes to what the tenant is shown: a pure function over the life cycle's table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from yuntai.model.lifecycle import INSTANCE, Allow

if TYPE_CHECKING:
    from yuntai.model.compute import Instance, InstanceStatus, ObservedInstance

_DOWN = "the host does not report"
_LOST = "the guest is not running"
HOST_FAILED = "its host failed"
"""How the reasons begin that failover writes; they say more than that the host does not report."""


def fact_of(instance: Instance, observed: ObservedInstance | None) -> str:
    """Return the life cycle's fact that an observation amounts to, or "" for none.

    ``observed`` is by the agent of the instance's own host, or ``None``.
    """
    state = observed.state if observed is not None else None
    if instance.desired == "stopped":
        gone = state in ("stopped", "absent") or not instance.host
        return "guest_stopped" if instance.status == "Stopping" and gone else ""
    if instance.desired != "running" or observed is None:
        return ""
    if state == "running":
        rebooted = observed.reboot_seq >= instance.reboot_seq
        return "guest_running" if rebooted else ""
    # "stopped" although it is to run: the guest shut itself down, or it died and is not to be restarted. The agent
    # reports every other end as "crashed" and starts the guest again.
    return "guest_ended" if state == "stopped" else "guest_lost"


def settle(instance: Instance, observed: ObservedInstance | None, *, host_up: bool = True, now: str = "") -> Instance:
    """Return the instance as it is to be shown after an observation; the same one when nothing changes."""
    if observed is not None and observed.host != instance.host:
        observed = None
    if not host_up and instance.host and instance.status in ("Running", "Starting", "Stopping", "Deleting"):
        if instance.reason.startswith(HOST_FAILED):
            return instance
        return _with_reason(instance, f"{_DOWN}: {instance.host}; its state is the last one known")
    fact = fact_of(instance, observed)
    if fact == "guest_lost" and instance.status == "Running" and observed is not None:
        detail = f" ({observed.error})" if observed.error else ""
        return _with_reason(
            instance, f"{_LOST}: {observed.state} since {observed.since}{detail}; it is being restarted"
        )
    if not fact:
        return instance
    move = INSTANCE.decide(instance.status, fact)
    if not isinstance(move, Allow):
        return instance
    if move.state == instance.status:
        own = instance.reason.startswith((_DOWN, _LOST, HOST_FAILED))
        return _with_reason(instance, "") if own else instance
    changed = msgspec.structs.replace(instance, status=cast("InstanceStatus", move.state), reason="")
    if move.state == "Running":
        return msgspec.structs.replace(changed, started=now or instance.started, force_stop=False)
    if fact == "guest_ended":
        why = observed.error if observed is not None and observed.error else "the guest stopped by itself"
        return msgspec.structs.replace(changed, desired="stopped", stopped_mode="KeepCharging", reason=why)
    return changed


def _with_reason(instance: Instance, reason: str) -> Instance:
    return instance if instance.reason == reason else msgspec.structs.replace(instance, reason=reason)
