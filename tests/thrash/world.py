"""A site with volumes under load: conducts the faults one after another, and says in the end whether all was well."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from tests.thrash.compare import compare
from tests.thrash.fio import Fio
from tests.thrash.operator import Operator
from tests.thrash.register import Violation
from tests.thrash.schedule import CANARIES, KINDS, Fault
from tests.thrash.site import HOSTS, Site
from tests.thrash.writers import Volume
from yuntai.pangu.errors import PanguError
from yuntai.pangu.units import volume_number

MIB = 1 << 20
LANES = 6
RESUME_S = 90.0
"""After the last fault has ended every volume answers again within so long. Generous: this is no benchmark."""
WHOLE_S = 120.0
MOVE_S = 20.0
STORM_FAULTS = 5
"""Each conductor's, between two calms."""


class World:
    """What the faults are done to."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.began = time.monotonic()
        self.site = Site(folder, self.say)
        self.volumes: list[Volume] = []
        self.host: dict[str, str] = {}
        self.longest: dict[str, list[float]] = defaultdict(list)
        self.fio = Fio(folder, self.say)
        self.operator = Operator(self, seed)
        self._operating: asyncio.Task[None]
        self._tasks: list[asyncio.Task[None]] = []

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:8.2f}  {text}", flush=True)

    # -- the run -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.site.start()
        await self.until(self._up, 60, "everything is up")
        for place, (host, size) in enumerate(((HOSTS[0], 256 * MIB), (HOSTS[1], 128 * MIB))):
            made = await self.site.client.create_volume(size, client_token=f"v{place}")
            volume = Volume(made.id, volume_number(made.id), size, self.seed + place, self.say)
            volume.socket = await self.attach(made.id, host)
            self.host[made.id] = host
            self.volumes.append(volume)
            self._tasks.append(asyncio.create_task(volume.run(LANES)))
        made = await self.site.client.create_volume(128 * MIB, client_token="fio")
        self.host[made.id] = HOSTS[0]
        await self.fio.start(await self.attach(made.id, HOSTS[0]), made.id)
        self._tasks.append(asyncio.create_task(self.fio.run()))
        self._operating = asyncio.create_task(self.operator.run())
        self._tasks.append(self._operating)
        self.say("the writers are at work")

    async def conduct(self, fault: Fault) -> None:
        """Make one fault, let it end, and wait a while."""
        began = time.monotonic()
        self.say(str(fault))
        await self._meanwhile(self._make(fault))
        ended = time.monotonic()
        await self.watch(fault.then_s)
        await self.until(lambda: self._answering(ended), RESUME_S, f"I/O goes on after {fault}")
        longest = max(volume.gaps.longest_since(began) for volume in self.volumes)
        self.longest[fault.kind].append(longest)
        if longest > 0.3:
            self.say(f"  longest wait {longest:.2f} s")

    async def storm(self, faults: Sequence[Fault], at_once: int) -> None:
        """Make faults side by side, whatever comes of it; end them all now and then and see that all is whole."""
        waiting = list(faults)
        while waiting:
            batch, waiting = waiting[: at_once * STORM_FAULTS], waiting[at_once * STORM_FAULTS :]
            conductors = [self._one_by_one(batch[place::at_once]) for place in range(at_once)]
            await self._meanwhile(asyncio.gather(*conductors))
            await self.calm()

    async def _one_by_one(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            self.say(str(fault))
            await self._make(fault)
            await asyncio.sleep(fault.then_s)

    async def calm(self) -> None:
        """End every fault; all must answer and be whole again."""
        self.site.heal()
        ended = time.monotonic()
        await self._meanwhile(self._attach_all(), RESUME_S)
        await self.until(lambda: self._answering(ended), RESUME_S, "I/O goes on after all faults")
        await self.until(self.whole, WHOLE_S, "every volume is in sync again")
        self.say(f"whole again {time.monotonic() - ended:.1f} s after the last fault")

    async def _make(self, fault: Fault) -> None:
        kind = KINDS.get(fault.kind) or CANARIES[fault.kind]
        await kind.make(self, fault.target, fault.seconds)

    async def _answering(self, since: float) -> bool:
        """Every volume has answered since then, or nothing waits there; and nothing waits for long."""
        return all(
            volume.paused or (volume.gaps.since > since and volume.gaps.open_for() < 5) for volume in self.volumes
        )

    async def finish(self) -> None:
        """End every fault, and see that all is whole again, that every block is right, and that replicas agree."""
        await self.calm()
        self.operator.finish()
        await self._meanwhile(asyncio.shield(self._operating), RESUME_S)
        for snapshot in self.operator.snapshots:
            await self._meanwhile(self.operator.read_clone(snapshot), RESUME_S)
        for volume in self.volumes:
            volume.pause()
            await self._meanwhile(volume.idle(), RESUME_S)
            await self._meanwhile(volume.read_all(), RESUME_S)
        for volume in self.volumes:
            volume.stop()
            volume.go_on()
        self.fio.finish()
        await asyncio.wait_for(asyncio.gather(*self._tasks), RESUME_S)
        if self.site.deaths:
            raise Violation("; ".join(self.site.deaths))
        for volume in self.volumes:
            if volume.failures:
                raise Violation(f"{volume.id}: {len(volume.failures)} requests failed: {volume.failures[:3]}")
        for volume in self.volumes:
            await self.site.client.detach(volume.id, self.host[volume.id])
        self.say(f"{await compare(self.site, self.volumes)} blocks compared, each on all its servers")

    def report(self) -> None:
        """Print what each kind of fault cost."""
        self.say(f"{sum(volume.answers for volume in self.volumes)} answers checked, {self.fio.rounds} rounds of fio")
        self.say(f"operations done: {self.operator.done}")
        print(f"{'fault':32}{'times':>6}{'median wait s':>15}{'longest wait s':>16}")
        for kind, waits in sorted(self.longest.items()):
            print(f"{kind:32}{len(waits):6}{sorted(waits)[len(waits) // 2]:15.2f}{max(waits):16.2f}")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.fio.stop()
        await self.site.stop()

    # -- looking -------------------------------------------------------------------------------------------------

    async def _meanwhile(self, work: Coroutine[Any, Any, Any] | asyncio.Future[Any], within_s: float = 600.0) -> None:
        """Do something, unless a writer finds something first."""
        task = asyncio.ensure_future(work)
        running = [one for one in self._tasks if not one.done()]
        await asyncio.wait({task, *running}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        self.check()
        while not task.done() and (still := [one for one in running if not one.done()]) != running:
            # One of them has just ended well; the others go on.
            running = still
            await asyncio.wait({task, *running}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            self.check()
        if not task.done():
            task.cancel()
            raise Violation(f"not within {within_s:g} s: {task}")
        task.result()

    def check(self) -> None:
        """Raise what a writer found."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def watch(self, seconds: float) -> None:
        """Let time pass, unless a writer finds something."""
        await asyncio.wait(
            [task for task in self._tasks if not task.done()], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        self.check()

    async def until(self, true: Callable[[], Awaitable[Any]], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        last = ""
        while time.monotonic() < deadline:
            self.check()
            try:
                if await true():
                    return
            except (PanguError, OSError) as error:
                last = str(error)
            await asyncio.sleep(0.1)
        raise Violation(f"not within {within_s:g} s: {what} {last}")

    async def _up(self) -> bool:
        client = self.site.client
        servers = await client.chunkservers()
        gateways = await client.gateways()
        up = [server for server in servers if server.state == "up" and server.total_bytes]
        return len(up) == len(self.site.servers) and sum(one["state"] == "up" for one in gateways) == len(HOSTS)

    async def whole(self) -> bool:
        for volume in self.host:
            if (await self.site.client.volume(volume)).stale:
                return False
        return True

    # -- what faults do with volumes -----------------------------------------------------------------------------

    async def attach(self, volume: str, host: str) -> Path:
        """Have a host's gateway serve a volume; return its socket."""
        while True:
            with contextlib.suppress(PanguError):
                attached = await self.site.client.attach(volume, host)
                return Path(attached.uri.partition("socket=")[2])
            await asyncio.sleep(0.5)

    async def move_volumes(self, host: str, other: str) -> None:
        """Attach what a host has to another one, whatever the first one's gateway says; give up after a while."""
        for volume in self.volumes:
            if self.host[volume.id] == host:
                self.host[volume.id] = other
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MOVE_S):
                        await volume.move(await self.attach(volume.id, other))

    async def _attach_all(self) -> None:
        """See that every volume is where it was last wanted: a move may have been given up."""
        for volume in self.volumes:
            socket = await self.attach(volume.id, self.host[volume.id])
            if socket != volume.socket:
                await volume.move(socket)
