"""What waiting for a disk and for a network card have in common: whether its host sees that the guest has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.control.jobs.outcome import JobFailedError, NotYetError

if TYPE_CHECKING:
    from collections.abc import Collection

    from yuntai.control.jobs.context import Context
    from yuntai.model.compute import Instance, ObservedInstance

PLUG_TIMEOUT_S = 120.0


def need_alive(ctx: Context, instance: Instance | None) -> Instance:
    """Return the instance; raise :class:`JobFailedError` if it is going."""
    if instance is None or instance.status == "Deleting":
        raise JobFailedError(f"the instance {ctx.job.arguments['instance']} is being deleted")
    return instance


def need_plugged(
    instance: Instance, observed: ObservedInstance | None, has: Collection[str], id_: str, what: str
) -> None:
    """Raise :class:`NotYetError` until the running guest has ``id_``; one that does not run gets it at its start."""
    state = observed.state if observed is not None else ""
    if (instance.desired == "running" or state == "running") and (state != "running" or id_ not in has):
        raise _not_yet(f"the guest does not have the {what} yet", instance, observed)


def need_unplugged(instance: Instance, observed: ObservedInstance, has: Collection[str], id_: str, what: str) -> None:
    """Raise :class:`NotYetError` while a guest has ``id_``."""
    if observed.state != "absent" and id_ in has:
        raise _not_yet(f"the guest still has the {what}", instance, observed)


def _not_yet(what: str, instance: Instance, observed: ObservedInstance | None) -> NotYetError:
    why = f": {observed.error}" if observed is not None and observed.error else ""
    return NotYetError(what + why, f"observed/{instance.id}", f"instance/{instance.id}", timeout_s=PLUG_TIMEOUT_S)
