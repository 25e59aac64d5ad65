"""Hosts are switched off and on, alone and all together, under changing leaders; the real judge on a store in memory.

Whoever goes off alone is called failed as soon as it is looked at; whoever went off with most of the others is given
its time first, and never more; whoever is back counts as back.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, rule
from msgspec.structs import replace

from yuntai.control.failover.judge import Judge
from yuntai.control.failover.returning import ANEW_S, awaited, later, most_started
from yuntai.control.failover.verdict import Evidence, verdict
from yuntai.model.cluster import Host, HostFailure
from yuntai.model.placement import SchedulerSettings
from yuntai.state import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

NAMES = ["h1", "h2", "h3", "h4", "h5"]
BEAT_S = 10
STEP_S = 3
AWAIT_S = SchedulerSettings(id="").await_hosts_s
START = "2026-11-23T10:00:00Z"
REACHED: Counter[str] = Counter()
which = st.sampled_from(NAMES)


class PowerMachine(RuleBasedStateMachine):
    """One cloud of five hosts; ``now`` are the seconds since it began."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore()
        self.now = 0
        self.booted = dict.fromkeys(NAMES, 0)  # who is on → since when
        self.off: dict[str, int] = {}  # who is off → since when
        self.seen = dict.fromkeys(NAMES, 0)
        self.decided: dict[str, int] = {}
        self.until: dict[str, int] = {}  # who is awaited → until when
        self.failed: set[str] = set()
        for name in NAMES:
            sizes = {"cpus": 1, "memory_mib": 1, "vcpus_max": 1, "memory_mib_max": 1}
            self.do(self.store.put(Host(id=name, address="", accelerator="tcg", seen=START, **sizes)))  # type: ignore[arg-type]
        self.lead()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def wall(self, at: int | None = None) -> str:
        return later(START, self.now if at is None else at)

    @rule()
    def lead(self) -> None:
        """A leader begins, and knows nothing but the records."""
        REACHED["a leader began while a host was awaited"] += bool(self.until)
        self.judge = Judge(self.store, (), lambda: float(self.now), self.wall)

    @rule(name=which)
    def switch_off(self, name: str) -> None:
        if name in self.booted:
            del self.booted[name]
            self.off[name] = self.now

    @rule(name=which)
    def switch_on(self, name: str) -> None:
        if name in self.off:
            del self.off[name]
            self.booted[name] = self.now
            self.beat(name)

    @rule(late=st.sets(which, min_size=1, max_size=2), stay=st.sets(which, max_size=2), seconds=st.integers(1, 400))
    def most_off_and_most_on(self, late: set[str], stay: set[str], seconds: int) -> None:
        """Of a power cut that some outlive nobody hears before it is over: the others keep the records."""
        for name in sorted(set(NAMES) - (stay - late)):
            self.switch_off(name)
        self.now += seconds
        for name in sorted(set(NAMES) - late):
            self.switch_on(name)
        self.look()

    @rule(seconds=st.integers(1, 120))
    def time_passes(self, seconds: int) -> None:
        for _ in range(0, seconds, STEP_S):
            self.now += STEP_S
            for name in self.booted:
                if self.now - self.seen[name] >= BEAT_S:
                    self.beat(name)
            self.look()

    def beat(self, name: str) -> None:
        self.seen[name] = self.now
        self.do(self.store.update(Host, name, lambda old: replace(old, seen=self.wall())))

    @rule(name=which, seconds=st.sampled_from([0, 600]))
    def the_operator_decides(self, name: str, seconds: int) -> None:
        """End the wait, or prolong it, as the request does which goes by the real clock."""
        if name in self.until and self.now < self.until[name]:
            self.decided[name] = self.now
            self.until[name] = self.now + seconds
            decided = {"awaited_since": self.wall(), "awaited_until": self.wall(self.now + seconds)}
            self.do(self.store.update(Host, name, lambda old: replace(old, **decided)))
            REACHED["the operator ended a wait"] += not seconds
            self.look()

    @rule()
    def look(self) -> None:
        if self.booted:
            self.do(self._look())

    async def _look(self) -> None:
        for _ in range(2):  # a host that is awaited for no time is failed a turn later
            for name in NAMES:
                record = (await self.store.need(Host, name)).value
                await self.judge.note(record, verdict(self._evidence(record)), self.off.get(name))
        for name in NAMES:
            record = (await self.store.need(Host, name)).value
            failure = await self.store.get(HostFailure, name)
            is_failed = failure is not None and not failure.value.back
            if name in self.booted:
                self._check_on(name, record, is_failed=is_failed)
            else:
                self._check_off(name, record, is_failed=is_failed)

    def _evidence(self, record: Host) -> Evidence:
        started = most_started([self.wall(at) for at in self.booted.values()])
        return Evidence(
            lease=record.id in self.booted,
            led_s=60,
            steady_s=60,
            witnesses=dict.fromkeys(self.booted, False),
            awaited=awaited(record, started, self.wall()),
        )

    def _check_on(self, name: str, record: Host, *, is_failed: bool) -> None:
        assert (record.status, record.awaited_since, record.awaited_until) == ("up", "", "")
        assert not is_failed
        REACHED["an awaited host came back"] += self.until.pop(name, None) is not None
        self.failed.discard(name)

    def _check_off(self, name: str, record: Host, *, is_failed: bool) -> None:
        assert record.status == "down"
        waits = record.awaited_until > self.wall()
        assert is_failed != waits, f"{name}: failed {is_failed}, awaited until {record.awaited_until}"
        if name in self.failed:
            assert is_failed
            REACHED["one that had failed was not awaited when all were off"] += not self._outlived(name, 0)
            return
        until = self.until.get(name)
        if until is None:
            self._check_first(name, waits=waits)
        elif not waits:
            assert self.now >= until
            REACHED["a host did not come back"] += 1
        elif self.now >= until or record.awaited_until != self.wall(until):
            again = [at for at in self.booted.values() if at > self.decided[name] + ANEW_S]
            assert 2 * len(again) > len(self.booted), "it is awaited for longer though most were not off once more"
            REACHED["a wait began anew"] += 1
        if is_failed:
            self.failed.add(name)
            self.until.pop(name, None)
        elif until is None or record.awaited_until != self.wall(until):
            self.decided[name] = self.now
            self.until[name] = self.now + AWAIT_S
            assert record.awaited_until == self.wall(self.until[name])

    def _check_first(self, name: str, *, waits: bool) -> None:
        """Compare with who was there before and after the host went off."""
        if not self._outlived(name, 0):
            assert waits, f"{name} is called failed, though most others were off as well"
            REACHED["a late host was awaited"] += 1
        elif self._outlived(name, BEAT_S + STEP_S):
            assert not waits, f"{name} went off alone, and is awaited"
            REACHED["one that went off alone was failed at once"] += 1

    def _outlived(self, name: str, slack_s: int) -> bool:
        """Tell whether half of those that live have been there since before the host went off."""
        stayed = [at for at in self.booted.values() if at <= self.off[name] - slack_s]
        return 2 * len(stayed) >= len(self.booted)

    def teardown(self) -> None:
        """In the end whoever is off is failed, and whoever is on counts as such."""
        if not self.booted:
            self.switch_on("h1")
        self.look()
        self.now += 600 + AWAIT_S + int(ANEW_S)
        self.look()
        assert self.failed == set(self.off)
        for name in NAMES:
            self.switch_on(name)
        self.look()
        assert not self.failed
        self.loop.close()


TestPowerMachine = PowerMachine.TestCase
TestPowerMachine.settings = settings(
    max_examples=int(os.environ.get("EXAMPLES", "60")),
    stateful_step_count=30,
    derandomize="EXAMPLES" not in os.environ,
    deadline=None,
)


def test_every_interesting_thing_happened() -> None:
    """Runs after the histories."""
    wanted = [
        "a late host was awaited",
        "an awaited host came back",
        "a host did not come back",
        "a wait began anew",
        "a leader began while a host was awaited",
        "the operator ended a wait",
        "one that went off alone was failed at once",
        "one that had failed was not awaited when all were off",
    ]
    print(dict(REACHED))
    assert not [what for what in wanted if not REACHED[what]], dict(REACHED)
