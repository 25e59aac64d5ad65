"""The planner: which steps an action takes, and what is undone when one of them cannot be done. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yuntai.control.jobs import steps_instance as on_instance
from yuntai.control.jobs import steps_migrate as on_migrate
from yuntai.control.jobs import steps_nic as on_nic
from yuntai.control.jobs import steps_place as on_place
from yuntai.control.jobs import steps_restore as on_restore
from yuntai.control.jobs import steps_snapshot as on_snapshot
from yuntai.control.jobs import steps_storage as on_storage
from yuntai.model.cluster import Step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yuntai.control.jobs.context import Context
    from yuntai.model.cluster import Job

    StepFunction = Callable[[Context], Awaitable[None]]

UNDO = "undo:"


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, what undoes them, and ``after``: step → what undoes a failure from that step on.

    With an empty ``after`` nothing is undone: the job has done what it was asked, and housekeeping cleans up behind it.
    A ``persistent`` plan is never given up: what was begun (a deletion, a stop) has no other end.
    """

    steps: tuple[StepFunction, ...]
    undo: tuple[StepFunction, ...] = ()
    after: dict[str, tuple[StepFunction, ...]] = field(default_factory=dict)
    persistent: bool = False


_MAKE = (on_instance.place, on_instance.make_volumes, on_instance.prepare)
_UNMAKE = (on_instance.undo_mark, on_instance.undo_volumes, on_instance.undo_records)

PLANS: dict[str, Plan] = {
    "create_instance": Plan((*_MAKE, on_instance.wait_running), _UNMAKE, {"wait_running": (on_instance.undo_start,)}),
    "create_stopped_instance": Plan(_MAKE[1:], _UNMAKE),
    "start_instance": Plan(
        (on_instance.place, on_instance.launch, on_instance.wait_running), (on_instance.undo_start,)
    ),
    "stop_instance": Plan((on_instance.wait_stopped_politely, on_instance.wait_stopped), persistent=True),
    "reboot_instance": Plan((on_instance.wait_running,), (on_instance.undo_reboot,)),
    "delete_instance": Plan(
        (on_instance.wait_absent, on_instance.remove_instance, on_storage.delete_volumes), persistent=True
    ),
    "allocate_dedicated_host": Plan((on_place.dedicate,), (on_place.undo_dedicate,)),
    "attach_nic": Plan(
        (on_nic.plug_card, on_nic.wait_card_plugged),
        (on_nic.unplug_card, on_nic.wait_card_unplugged, on_nic.undo_attach_card),
    ),
    "detach_nic": Plan(
        (on_nic.unplug_card, on_nic.wait_card_unplugged, on_nic.finish_detach_card), (on_nic.undo_detach_card,)
    ),
    "migrate_instance": Plan(
        (on_migrate.choose_destination, on_migrate.prepare_destination, on_migrate.move_guest, on_migrate.finish_move),
        (on_migrate.call_off, on_migrate.wait_undone),
        {"finish_move": (on_migrate.wait_undone,)},
    ),
    "create_disk": Plan(
        (on_instance.make_volumes, on_storage.finish_disk), (on_instance.undo_volumes, on_storage.undo_disk)
    ),
    "delete_disk": Plan((on_storage.remove_disk, on_storage.delete_volumes), persistent=True),
    "attach_disk": Plan(
        (on_storage.plug, on_storage.wait_plugged),
        (on_storage.unplug, on_storage.wait_unplugged, on_storage.undo_attach),
    ),
    "detach_disk": Plan(
        (on_storage.unplug, on_storage.wait_unplugged, on_storage.finish_detach), (on_storage.undo_detach,)
    ),
    "resize_disk": Plan((on_storage.resize,), (on_storage.undo_resize,)),
    "reset_disk": Plan(
        (on_restore.roll_back, on_storage.delete_volumes), (on_restore.undo_restore,), {"delete_volumes": ()}
    ),
    "reinit_disk": Plan(
        (on_instance.make_volumes, on_restore.swap_volume, on_storage.delete_volumes),
        (on_instance.undo_volumes, on_restore.undo_restore),
        {"delete_volumes": ()},
    ),
    "create_snapshot": Plan((on_snapshot.take_snapshot,), (on_snapshot.undo_snapshot, on_storage.delete_volumes)),
    "create_snapshot_group": Plan((on_snapshot.take_snapshot,), (on_snapshot.undo_snapshot, on_storage.delete_volumes)),
    "delete_snapshot": Plan(
        (
            on_snapshot.wait_snapshot_unread,
            on_snapshot.delete_node,
            on_snapshot.remove_snapshot,
            on_storage.delete_volumes,
        ),
        persistent=True,
    ),
    "create_image": Plan(
        (on_snapshot.take_snapshot, on_snapshot.publish_image),
        (on_snapshot.undo_snapshot, on_snapshot.undo_image, on_storage.delete_volumes),
    ),
    "delete_image": Plan(
        (on_snapshot.wait_image_unread, on_snapshot.remove_image, on_storage.delete_volumes), persistent=True
    ),
}


def name_of(function: StepFunction) -> str:
    """Return the name under which a step is recorded."""
    return str(getattr(function, "__name__", ""))


STEPS: dict[str, StepFunction] = {
    name_of(function): function
    for plan in PLANS.values()
    for function in (*plan.steps, *plan.undo, *(f for after in plan.after.values() for f in after))
}


def plan_of(job: Job) -> Plan | None:
    """Return the plan of a job's action, or ``None`` for an action that this build does not know."""
    if job.action == "create_instance" and not job.arguments.get("start", True):
        return PLANS["create_stopped_instance"]
    return PLANS.get(job.action)


def steps_of(plan: Plan) -> tuple[Step, ...]:
    """Return the records of a plan's steps."""
    return tuple(Step(name=name_of(function)) for function in plan.steps)


def undo_of(plan: Plan, failed: str) -> tuple[Step, ...]:
    """Return the records of what undoes a failure in the step ``failed``."""
    functions = plan.after.get(failed, plan.undo)
    return tuple(Step(name=UNDO + name_of(function)) for function in functions)


def function_of(step: Step) -> StepFunction | None:
    """Return what carries out a recorded step, or ``None`` for one that this build does not know."""
    return STEPS.get(step.name.removeprefix(UNDO))
