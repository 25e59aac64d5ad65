"""Which faults there are, and the seeded schedule of them: the same seed gives the same schedule."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.thrash import faults, upheavals

if TYPE_CHECKING:
    from tests.thrash.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what, to whom, for how long, and how long after it ended the next one begins."""

    kind: str
    target: int
    seconds: float
    then_s: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} for {self.seconds:.1f} s, then {self.then_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a fault is made, how many targets there are, and how long it lasts: least, most, and most in a long run."""

    make: Callable[[World, int, float], Awaitable[None]]
    targets: int
    least_s: float
    most_s: float
    long_s: float = 0.0


KINDS: dict[str, Kind] = {
    "kill_server": Kind(faults.kill_server, 5, 0.1, 3, 20),
    "stop_server": Kind(faults.stop_server, 5, 3, 4, 60),
    "stutter_server": Kind(faults.stutter_server, 5, 2, 4, 20),
    "kill_two_servers": Kind(faults.kill_two_servers, 5, 1, 3, 10),
    "cut_server_from_gateways": Kind(faults.cut_server_from_gateways, 5, 2, 4, 30),
    "cut_one_way": Kind(faults.cut_one_way, 10, 2, 4, 30),
    "isolate_server": Kind(faults.isolate_server, 5, 2, 4, 30),
    "cut_servers_from_each_other": Kind(faults.cut_servers_from_each_other, 5, 2, 3, 15),
    "cut_hosts": Kind(faults.cut_hosts, 1, 2, 4, 30),
    "cut_leader_from_etcd": Kind(faults.cut_leader_from_etcd, 1, 2, 5, 20),
    "full_disk": Kind(faults.full_disk, 15, 2, 4, 30),
    "failing_reads": Kind(faults.failing_reads, 5, 2, 3, 10),
    "failing_syncs": Kind(faults.failing_syncs, 5, 2, 3, 10),
    "kill_leader": Kind(faults.kill_leader, 1, 0.1, 2, 10),
    "stop_leader": Kind(faults.stop_leader, 1, 3, 6, 20),
    "kill_leader_and_server": Kind(faults.kill_leader_and_server, 5, 1, 5, 10),
    "kill_etcd": Kind(faults.kill_etcd, 3, 0.5, 2, 20),
    "no_control": Kind(faults.no_control, 1, 3, 5, 300),
    "kill_gateway": Kind(faults.kill_gateway, 2, 0.1, 1, 5),
    "stop_gateway": Kind(faults.stop_gateway, 2, 1, 3, 15),
    "take_over": Kind(faults.take_over, 2, 1, 2, 10),
    "swap_disk": Kind(upheavals.swap_disk, 5, 0.2, 2),
    "rot": Kind(upheavals.rot, 5, 1, 3, 10),
    "drain": Kind(upheavals.drain, 5, 3, 6, 40),
    "balance": Kind(upheavals.balance, 1, 1, 2, 20),
    "kill_everything": Kind(faults.kill_everything, 1, 0.1, 1, 5),
}

CANARIES = {"foreign_write": Kind(faults.foreign_write, 1, 2, 3)}
"""What must be found; never in a schedule by itself."""


def schedule(seed: int, seconds: float, *, long: bool, only: Sequence[str] = ()) -> list[Fault]:
    """Return faults for about so many seconds: every kind in a random order, then again."""
    chance = random.Random(seed)
    found: list[Fault] = []
    spent = 0.0
    while spent < seconds:
        kinds = list(only or KINDS)
        chance.shuffle(kinds)
        for name in kinds:
            kind = KINDS.get(name) or CANARIES[name]
            # A long run has mostly short faults too, so that there are many of them.
            most = kind.long_s if long and kind.long_s and chance.random() < 0.25 else kind.most_s
            fault = Fault(
                name, chance.randrange(kind.targets), chance.uniform(kind.least_s, most), chance.choice((0.2, 1, 2, 3))
            )
            found.append(fault)
            spent += fault.seconds + fault.then_s
            if spent >= seconds:
                break
    return found
