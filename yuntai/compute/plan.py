"""What to do next with one guest: a pure function from what is wanted and what is there to one move.

The agent asks again after every move, so each line below only has to know its own case. The order of the cases is the
safety of the whole: a guest that runs is never touched unless a record asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from yuntai.compute.driver import Guest
    from yuntai.model.compute import DesiredState, ObservedState

Action = Literal[
    "none", "start", "press_power", "restart", "reset", "resume", "destroy", "forget", "plug", "unplug", "release",
    "plug_nic", "unplug_nic", "clean",
]  # fmt: skip

SHUTDOWN_GRACE_S = 30.0
PRESS_AGAIN_S = 8.0  # a guest that is still booting does not hear the button
BACKOFF_MAX_S = 60.0
LOST = "its migration broke in post-copy, and part of its memory with it: it is started anew from its disks"
STABLE_S = 120.0  # a guest that ran this long starts its next back-off from the beginning


@dataclass(slots=True)
class Memory:
    """What the agent remembers of a guest while it runs. Losing it (a restart of the agent) costs at most patience."""

    deaths: int = 0
    """Deaths in a row; a long run resets them."""
    restart_at_s: float | None = None
    running_since_s: float | None = None
    stop_by_s: float | None = None
    pressed_at_s: float | None = None
    reboot_by_s: float | None = None
    resets_before: int = 0
    lost: bool = False
    """It has been ended, or is to be, because part of its memory was gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that the next move depends on."""

    desired: DesiredState
    guest: Guest | None
    disks: tuple[str, ...] = ()  # wanted, the system disk first
    nics: tuple[str, ...] = ()  # wanted ports, the primary one first; () = not looked at
    held: frozenset[str] = frozenset()  # disks whose volumes are attached to this host for this guest
    force: bool = False
    reboot: bool = False  # a reboot is wanted that has not been carried out
    restart_always: bool = True
    cleaned: bool = False  # nothing of a deleted guest is left on the host


@dataclass(frozen=True, slots=True)
class Move:
    """One action, on a ``disk`` or network card or on the guest itself, and the state to report.

    ``wait_s``: with "none", when to ask again at the latest.
    """

    action: Action
    state: ObservedState
    disk: str = ""
    wait_s: float | None = None
    why: str = ""
    rebooted: bool = field(default=False, kw_only=True)
    lost: bool = field(default=False, kw_only=True)


def plan(now: Situation, memory: Memory, clock_s: float) -> Move:
    """Return the next move. ``memory`` is brought up to date."""
    alive = now.guest is not None and now.guest.state != "off"
    if alive and memory.running_since_s is None:
        memory.running_since_s = clock_s
    if not alive:
        memory.reboot_by_s = None
    if now.desired == "running":
        memory.stop_by_s = None
        return _keep_running(now, memory, clock_s) if alive else _bring_up(now, memory, clock_s)
    memory.deaths, memory.restart_at_s = 0, None
    if alive:
        return _bring_down(now, memory, clock_s)
    memory.stop_by_s = memory.pressed_at_s = memory.running_since_s = None
    return _let_go(now)


def _bring_up(now: Situation, memory: Memory, clock_s: float) -> Move:
    guest = now.guest
    if memory.lost and guest is not None:
        return Move("forget", "starting")  # so that it is as after a failed host, and no death of the guest
    memory.lost = False
    if guest is None or guest.end == "unknown":
        # Never started here, or the whole host was down: that is no death of the guest.
        memory.running_since_s = memory.restart_at_s = None
        return Move("start", "starting")
    if guest.end == "shutdown":
        memory.running_since_s = None
        return Move("none", "stopped", why="the guest shut itself down")
    if not now.restart_always:
        return Move("none", "stopped", why=f"the guest ended ({guest.end}) and its restart policy is never")
    if memory.restart_at_s is None:
        ran_s = clock_s - memory.running_since_s if memory.running_since_s is not None else 0.0
        memory.deaths = 1 if ran_s >= STABLE_S else memory.deaths + 1
        memory.restart_at_s = clock_s + min(BACKOFF_MAX_S, 2.0 ** min(memory.deaths - 1, 10))
        memory.running_since_s = None
    left_s = memory.restart_at_s - clock_s
    if left_s > 0:
        why = f"the guest ended ({guest.end}), {memory.deaths} times in a row; restart follows"
        return Move("none", "crashed", wait_s=left_s, why=why)
    memory.restart_at_s = None
    return Move("start", "starting")


def _keep_running(now: Situation, memory: Memory, clock_s: float) -> Move:
    guest = now.guest
    assert guest is not None  # noqa: S101 — the caller looked
    memory.restart_at_s = None
    if guest.lost:
        memory.lost = True
        return Move("destroy", "starting", why=LOST, lost=True)
    if guest.io_error:
        return Move("resume", "running")
    if now.reboot:
        return _reboot(now, guest, memory, clock_s)
    memory.reboot_by_s = None
    for disk in now.disks:
        if disk not in guest.disks:
            return Move("plug", "running", disk)
    for disk in guest.disks:
        if disk not in now.disks:
            return Move("unplug", "running", disk)
    for disk in sorted(now.held):
        if disk not in guest.disks and disk not in now.disks:
            return Move("release", "running", disk)
    return _cards(now, guest)


def _cards(now: Situation, guest: Guest) -> Move:
    for nic in now.nics:
        if nic not in guest.nics:
            return Move("plug_nic", "running", nic)
    for nic in guest.nics if now.nics else ():
        if nic not in now.nics:
            return Move("unplug_nic", "running", nic)
    return Move("none", "running")


def _reboot(now: Situation, guest: Guest, memory: Memory, clock_s: float) -> Move:
    if memory.reboot_by_s is None:
        memory.resets_before = guest.resets
        memory.reboot_by_s = clock_s if now.force else clock_s + SHUTDOWN_GRACE_S
        memory.pressed_at_s = None
    if guest.resets > memory.resets_before:
        memory.reboot_by_s = None
        return Move("none", "running", rebooted=True)
    left_s = memory.reboot_by_s - clock_s
    if left_s <= 0:
        return Move("reset", "running")
    if memory.pressed_at_s is None or clock_s - memory.pressed_at_s >= PRESS_AGAIN_S:
        memory.pressed_at_s = clock_s
        return Move("restart", "running")
    return Move("none", "running", wait_s=min(left_s, PRESS_AGAIN_S))


def _bring_down(now: Situation, memory: Memory, clock_s: float) -> Move:
    if now.force or now.desired == "deleted" or (now.guest is not None and now.guest.lost):
        return Move("destroy", "stopping")
    if memory.stop_by_s is None:
        memory.stop_by_s, memory.pressed_at_s = clock_s + SHUTDOWN_GRACE_S, None
    left_s = memory.stop_by_s - clock_s
    if left_s <= 0:
        return Move("destroy", "stopping", why="the guest did not shut down in time")
    if memory.pressed_at_s is None or clock_s - memory.pressed_at_s >= PRESS_AGAIN_S:
        memory.pressed_at_s = clock_s
        return Move("press_power", "stopping")
    return Move("none", "stopping", wait_s=min(left_s, PRESS_AGAIN_S))


def _let_go(now: Situation) -> Move:
    gone = now.desired == "deleted"
    if now.guest is not None:
        return Move("forget", "stopping")
    if now.held:
        return Move("release", "stopping", sorted(now.held)[0])
    if gone and not now.cleaned:
        return Move("clean", "stopping")
    return Move("none", "absent" if gone else "stopped")
