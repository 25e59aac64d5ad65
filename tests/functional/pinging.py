"""One guest pings another every 10 ms while something happens to it: how long was it not heard of?"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from tests.functional.cloud import Cloud

EVERY_MS = 10


@dataclass(frozen=True)
class Heard:
    """Which of the pings were answered: their numbers, and how many were sent at least."""

    answered: tuple[int, ...]

    @property
    def lost(self) -> int:
        """How many before the last answered one were not."""
        return (self.answered[-1] - self.answered[0] + 1 - len(set(self.answered))) if self.answered else 0

    @property
    def gap_ms(self) -> int:
        """The longest time between two pings that were answered."""
        numbers = sorted(set(self.answered))
        steps = [after - before for before, after in itertools.pairwise(numbers)]
        return max(steps, default=0) * EVERY_MS


def start(cloud: Cloud, listener: str, address: str) -> None:
    """Let the guest ``listener`` ping ``address`` until :func:`stop`; return when the first answer has come."""
    ping = f"ping -i {EVERY_MS / 1000} {address} > /run/pings 2>&1 & echo $! > /run/ping.pid"
    cloud.ssh(listener, f"setsid sh -c '{ping}' < /dev/null > /dev/null 2>&1")
    cloud.until(lambda: "seq=" in cloud.ssh(listener, "head -n 5 /run/pings"), f"{listener} hears {address}")


def stop(cloud: Cloud, listener: str) -> Heard:
    """End the pings and return what was heard."""
    text = cloud.ssh(listener, "kill $(cat /run/ping.pid); grep -o 'seq=[0-9]*' /run/pings")
    return Heard(tuple(int(number) for number in re.findall(r"seq=(\d+)", text)))
