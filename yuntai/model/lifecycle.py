"""Life cycles as tables: every pair (state, event) is decided, allowed or refused, and a test walks all of them.

A *request* event comes from a tenant and may be refused with an error code of the ECS API. A *fact* comes from the
executor or from what an agent observed; a fact is never refused, at most it changes nothing. The table of the instance
is here, those of disk, snapshot and image are in :mod:`yuntai.model.lifecycle_storage`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GONE = ""
"""The state of a record that is not there (any more)."""


@dataclass(frozen=True, slots=True)
class Allow:
    """The event leads to ``state``; ``wants`` is then wanted (a job's action or a desired state; "" = nothing)."""

    state: str
    wants: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The event is not possible in this state: the ECS error code and what to do about it."""

    code: str
    way_out: str


class LifecycleError(Exception):
    """A request that the table refuses."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Machine:
    """One life cycle. ``table`` decides every pair of a state in ``states`` and an event."""

    name: str
    states: tuple[str, ...]
    initial: tuple[str, ...]
    requests: tuple[str, ...]
    facts: tuple[str, ...]
    table: dict[tuple[str, str], Allow | Refuse] = field(repr=False)

    def decide(self, state: str, event: str) -> Allow | Refuse:
        """Return the table's decision."""
        return self.table[state, event]

    def step(self, state: str, event: str, identifier: str = "") -> Allow:
        """Return where ``event`` leads; raise :class:`LifecycleError` with the code, the state and the way out."""
        decision = self.decide(state, event)
        if isinstance(decision, Refuse):
            raise LifecycleError(
                decision.code,
                f'The current status "{state}" of the {self.name} {identifier} does not support this operation '
                f"({event}); {decision.way_out}.",
            )
        return decision


def build(
    name: str,
    *,
    states: tuple[str, ...],
    initial: tuple[str, ...],
    requests: dict[str, tuple[str, str]],
    facts: tuple[str, ...],
    moves: dict[str, dict[str, Allow]],
) -> Machine:
    """Complete ``moves`` (event → state → move) to a whole table.

    ``requests`` gives each request the code and the way out of its refusals. A fact that has no move changes nothing.
    """
    table: dict[tuple[str, str], Allow | Refuse] = {}
    for event in (*requests, *facts):
        given = moves.get(event, {})
        for state in states:
            if state in given:
                table[state, event] = given[state]
            elif event in requests:
                table[state, event] = Refuse(*requests[event])
            else:
                table[state, event] = Allow(state)
    unknown = set(moves) - set(requests) - set(facts) | {s for m in moves.values() for s in m} - set(states)
    if unknown:
        raise ValueError(f"the table of {name} has moves for what it does not declare: {sorted(unknown)}")
    return Machine(name, states, initial, tuple(requests), facts, table)


_STATUS = "IncorrectInstanceStatus"
_WAIT = "wait until it is Running or Stopped, and try again"
_ALIVE = ("Running", "Stopped")
_FORCIBLE = ("Pending", "Starting", "Running", "Stopping", "Stopped")


def _stay(*states: str) -> dict[str, Allow]:
    return {state: Allow(state) for state in states}


INSTANCE = build(
    "instance",
    states=("Pending", "Starting", "Running", "Stopping", "Stopped", "Deleting"),
    initial=("Pending",),
    requests={
        "start": (_STATUS, "only a Stopped instance can be started"),
        "stop": (_STATUS, "only a Running instance can be stopped; ForceStop also ends one that is Starting"),
        "force_stop": (_STATUS, "only an instance that is Starting, Running or Stopping can be stopped by force"),
        "reboot": (_STATUS, "only a Running instance can be rebooted"),
        "delete": (_STATUS, "stop the instance first, or delete it with Force=true"),
        "force_delete": (_STATUS, "it is being deleted already"),
        "attach_disk": (_STATUS, _WAIT),
        "detach_disk": (_STATUS, _WAIT),
        "modify": (_STATUS, "it is being deleted"),
        "modify_groups": (_STATUS, _WAIT),
        "modify_spec": (_STATUS, "stop the instance first: another size needs a restart"),
        "attach_nic": (_STATUS, _WAIT),
        "detach_nic": (_STATUS, _WAIT),
        "create_image": (_STATUS, _WAIT),
    },
    facts=(
        "created",  # disks and port are there, the guest is to run
        "parked",  # disks and port are there, the guest is not to run yet (CreateInstance)
        "create_failed",  # everything is undone
        "guest_running",  # observed on the instance's host, and the wanted reboot was done
        "guest_stopped",  # observed stopped or absent while that is wanted
        "guest_ended",  # the guest stopped by itself and its policy is to leave it so
        "host_failed",  # its host is called failed: it is to run elsewhere
        "host_failed_stop",  # the same, and it is to be stopped then
        "guest_lost",  # the guest is not running although wanted; the agent restarts it
        "start_failed",  # it did not come up within the time, or no host has room
        "reboot_failed",  # the reset was not confirmed within the time
        "deleted",  # guest, port, disks and record are gone
    ),
    moves={
        "start": {"Stopped": Allow("Starting", "start_instance")},
        "stop": {"Running": Allow("Stopping", "stop_instance")},
        "force_stop": {
            "Starting": Allow("Stopping", "stop_instance"),
            "Running": Allow("Stopping", "stop_instance"),
            "Stopping": Allow("Stopping", "stop_instance"),
        },
        "reboot": {"Running": Allow("Starting", "reboot_instance")},
        "delete": {"Stopped": Allow("Deleting", "delete_instance")},
        "force_delete": {state: Allow("Deleting", "delete_instance") for state in _FORCIBLE},
        "attach_disk": _stay(*_ALIVE),
        "detach_disk": _stay(*_ALIVE),
        "modify": _stay(*_FORCIBLE),
        "modify_groups": _stay(*_ALIVE),
        "modify_spec": _stay("Stopped"),
        "attach_nic": _stay(*_ALIVE),
        "detach_nic": _stay(*_ALIVE),
        "create_image": _stay(*_ALIVE),
        "created": {"Pending": Allow("Starting", "running")},
        "parked": {"Pending": Allow("Stopped", "stopped")},
        "create_failed": {"Pending": Allow(GONE), "Deleting": Allow(GONE)},
        "guest_running": {"Starting": Allow("Running")},
        "guest_stopped": {"Stopping": Allow("Stopped")},
        "guest_ended": {"Running": Allow("Stopped", "stopped")},
        "host_failed": {"Running": Allow("Starting")},
        "host_failed_stop": {"Running": Allow("Stopping")},
        "start_failed": {"Starting": Allow("Stopped", "stopped")},
        "reboot_failed": {"Starting": Allow("Running")},
        "deleted": {"Deleting": Allow(GONE)},
    },
)
