"""The processes of the benchmark: ``python -m bench.control.processes api|leader|agents --etcd ENDPOINT``.

``api`` is the real front. ``leader`` has the leader's real parts that work on instances: placer, executor, reconciler
(no network syncer and no failover: there is no OVN and nobody to ask). ``agents`` plays all hosts: what is placed runs,
what is to go is gone, and every host reports as often as a real one. Each prints a line when it is ready, and ends with
its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench.api_server import NoVolumes
from bench.control.cloud import ZONE
from yuntai import log
from yuntai.api.__main__ import fill
from yuntai.api.collector import calm
from yuntai.api.console import LocalConsoleReader
from yuntai.api.registry import Context
from yuntai.api.server import ApiServer
from yuntai.api.throttle import Throttle
from yuntai.control.jobs.executor import Executor
from yuntai.control.jobs.memory import MemoryVolumes
from yuntai.control.jobs.runner import Runner
from yuntai.control.placer import Placer
from yuntai.control.reconciler import Reconciler
from yuntai.model.base import now_utc
from yuntai.model.cluster import Host
from yuntai.model.compute import Instance, ObservedInstance
from yuntai.state import EtcdStore, Put, Reset

if TYPE_CHECKING:
    from yuntai.model.compute import ObservedState
    from yuntai.state import Store

BEAT_S = 10.0
AT_ONCE = 32


class Nothing(MemoryVolumes):
    """The block store of a cloud without one: what is asked of it is done at once, over images that nobody made."""

    async def create_volume(self, volume: str, size_bytes: int, source: tuple[str, int] | None) -> None:
        """Do nothing."""


async def api(store: Store) -> None:
    """Serve until standard input ends."""
    cached = await fill(store)
    calm()
    context = Context(
        region="cn-local", zone=ZONE, cluster="bench", reads=cached, writes=cached.writer(),
        console=LocalConsoleReader("h0", "/nonexistent"), volumes=NoVolumes(),
    )  # fmt: skip
    server = ApiServer(context, throttle=Throttle(rate_per_s=1e9, burst=1e9))
    await _ready(await server.start("127.0.0.1", 0))
    await server.close()
    await cached.stop()


async def leader(store: Store) -> None:
    """Lead until standard input ends."""
    async with store.election("control", "bench", 5.0) as leadership:
        fences = (leadership.guard,)
        placer = Placer(store)
        runner = Runner(store, Nothing(), fences=fences, placer=placer)
        parts = (placer.run(), Executor(store, runner).run(), Reconciler(store, fences=fences).run())
        tasks = [asyncio.create_task(part) for part in parts]
        while not await _knows(placer):
            pass  # a busy machine reads slowly; the benchmark's own time limit ends it
        await _ready(0)
        await _end(tasks)


async def _knows(placer: Placer) -> bool:
    try:
        await placer.fleet()
    except TimeoutError:
        return False
    return True


async def agents(store: Store) -> None:
    """Play all agents until standard input ends."""
    filled = asyncio.Event()
    tasks = [asyncio.create_task(_observe(store, filled)), asyncio.create_task(_beat(store))]
    await filled.wait()
    await _ready(0)
    await _end(tasks)


async def _observe(store: Store, filled: asyncio.Event) -> None:
    slots = asyncio.Semaphore(AT_ONCE)
    running: set[asyncio.Task[None]] = set()

    async def write(one: Instance) -> None:
        async with slots:
            state: ObservedState = "absent" if one.desired == "deleted" else one.desired
            seen = ObservedInstance(
                id=one.id, host=one.host, state=state, since=now_utc(), boot_seq=1, reboot_seq=one.reboot_seq,
                attached=one.disks if state == "running" else (), nics=(one.port, *one.ports),
            )  # fmt: skip
            await store.put(seen)

    known: dict[str, tuple[str, str]] = {}
    async with aclosing(store.watch(Instance)) as events:
        async for event in events:
            if isinstance(event, Reset):
                known = {one.value.id: (one.value.host, one.value.desired) for one in event.records}
                filled.set()
            elif isinstance(event, Put):
                one = event.record.value
                if one.host and known.get(one.id) != (one.host, one.desired):
                    known[one.id] = (one.host, one.desired)
                    task = asyncio.create_task(write(one))
                    running.add(task)
                    task.add_done_callback(running.discard)


async def _beat(store: Store) -> None:
    hosts = [one.value.id for one in await store.list(Host)]
    while True:
        for host_id in hosts:
            began = asyncio.get_running_loop().time()
            await store.update(Host, host_id, lambda host: replace(host, seen=now_utc()))
            await asyncio.sleep(max(0.0, BEAT_S / len(hosts) - (asyncio.get_running_loop().time() - began)))


async def _ready(number: int) -> None:
    print(number, flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


async def serve(role: str, endpoint: str) -> None:
    """Run one of them."""
    async with EtcdStore([endpoint]) as store:
        await {"api": api, "leader": leader, "agents": agents}[role](store)


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("api", "leader", "agents"))
    parser.add_argument("--etcd", required=True)
    options = parser.parse_args()
    log.setup(f"bench-{options.role}", "error")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.role, options.etcd))


if __name__ == "__main__":
    main()
