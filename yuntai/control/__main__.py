"""The control process: ``python -m yuntai.control``. One of the cluster leads; the others stand by.

The leader runs the executor of jobs, the reconciler of instances and hosts, the network syncer, and the housekeeping.
Every write of executor and reconciler carries the leadership, so one that lost it without noticing changes nothing.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from yuntai import config as configuration
from yuntai import log, process
from yuntai.compute.witness import Prober
from yuntai.control import bindings, bootstrap, calendar, housekeeping, pools, removals
from yuntai.control.drains import Drains
from yuntai.control.failover.service import Failover
from yuntai.control.jobs.executor import Executor
from yuntai.control.jobs.pangu import PanguVolumes
from yuntai.control.jobs.runner import Runner
from yuntai.control.placer import Placer
from yuntai.control.reconciler import Reconciler
from yuntai.network import syncer
from yuntai.pangu.client import PanguClient
from yuntai.state import EtcdStore, StateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yuntai.config import Config
    from yuntai.control.jobs.volumes import Volumes
    from yuntai.state import Store
    from yuntai.state.election import Leadership

ELECTION = "control"
LEASE_S = 5.0
RESTART_FIRST_S = 0.5
RESTART_MAX_S = 15.0
RESIGN_S = 5.0

_log = log.get("control")


async def keep(name: str, part: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the leader's work, again after a while when it breaks; return when it is done."""
    delay_s = RESTART_FIRST_S
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await part()
        except Exception as error:  # noqa: BLE001 — one broken part must not take the others down; it is logged
            if asyncio.get_running_loop().time() - started > RESTART_MAX_S * 2:
                delay_s = RESTART_FIRST_S
            _log.error(
                "part broke", name=name, error=f"{type(error).__name__}: {error}", again_s=delay_s, exc_info=True
            )
            await asyncio.sleep(delay_s)
            delay_s = min(RESTART_MAX_S, delay_s * 2)
        else:
            return


async def lead(
    store: Store, volumes: Volumes, prober: Prober, config: Config, leadership: Leadership, stop: asyncio.Event
) -> None:
    """Do the leader's work until the leadership is lost or ``stop`` is set."""
    fences = (leadership.guard,)
    placer = Placer(store)
    parts: dict[str, Callable[[], Awaitable[None]]] = {
        "bootstrap": lambda: bootstrap.run(store, Path(config.secrets_dir) / bootstrap.FILE_NAME),
        "placer": placer.run,
        "executor": lambda: Executor(store, Runner(store, volumes, fences=fences, placer=placer)).run(),
        "reconciler": lambda: Reconciler(store, fences=fences).run(),
        "failover": lambda: Failover(store, placer, prober, fences=fences).run(),
        "network": lambda: syncer.run(store, config),
        "housekeeping": lambda: housekeeping.run(store, volumes, fences),
        "pools": lambda: pools.run(store, fences),
        "drains": lambda: Drains(store, placer, fences).run(),
        "removals": lambda: removals.run(store, config.ovn_sb, fences),
        "bindings": lambda: bindings.run(store, config.ovn_sb),
        "calendar": lambda: calendar.run(store),
    }
    tasks = [asyncio.create_task(keep(name, part), name=name) for name, part in parts.items()]
    ends = [asyncio.create_task(leadership.lost.wait()), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, *ends):
            task.cancel()
        await asyncio.gather(*tasks, *ends, return_exceptions=True)


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Stand for the office, and lead while elected, until ``stop`` is set."""
    async with (
        EtcdStore(config.etcd) as store,
        PanguClient.from_config(config) as client,
        Prober(config) as prober,
    ):
        volumes = PanguVolumes(client)
        while not stop.is_set():
            standing = asyncio.create_task(_stand(store, volumes, prober, config, stop))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({standing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not standing.done():
                await asyncio.wait({standing}, timeout=RESIGN_S)  # a leader resigns, so that the next one need not wait
                standing.cancel()
            stopped.cancel()
            await asyncio.gather(standing, stopped, return_exceptions=True)
            if not standing.cancelled():
                standing.result()


async def _stand(store: Store, volumes: Volumes, prober: Prober, config: Config, stop: asyncio.Event) -> None:
    try:
        async with store.election(ELECTION, config.host, LEASE_S) as leadership:
            _log.info("leading", host=config.host)
            await lead(store, volumes, prober, config, leadership, stop)
            _log.info("not leading any more", host=config.host)
    except StateError as error:
        _log.warning("no election now", error=str(error))
        await asyncio.sleep(RESTART_FIRST_S)


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT."""
    await serve(config, process.told_to_stop())


def main() -> int:
    """Start the process."""
    logger = log.setup("control")
    try:
        config = configuration.load()
    except configuration.ConfigError as error:
        logger.error("cannot start", error=str(error))  # noqa: TRY400 — the text says it all
        return 2
    asyncio.run(run(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
