"""The ``failover`` figure: from a fault of a host to its guest running elsewhere, on a cloud of three hosts of its own.

Each trial does one thing to the host of one instance of the smallest image, and waits until control and the new host's
agent say that it runs there, and until its console asks for a login: that is the guest's own boot. Then the host is
repaired, and forgiven, as a host that fails ten times in a row is otherwise jailed.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import Figure, Foreign, Options
from tests.functional.cloud import Cloud, running_cloud
from yuntai.compute.console import log_path
from yuntai.model.cluster import HostFailure
from yuntai.model.compute import Instance, ObservedInstance
from yuntai.state import Put, Reset, StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from yuntai.state import Store

NAME = "failover"
LIMIT_S = 240.0
LOGIN = "tiny login:"

FAULTS: dict[str, tuple[Callable[[Cloud, str], object], Callable[[Cloud, str], object]]] = {
    "killed": (Cloud.kill, Cloud.restart),
    "frozen": (Cloud.freeze, Cloud.thaw),
    "cut off": (Cloud.isolate, Cloud.heal),
    "storage dead": (Cloud.cut_storage, Cloud.heal),
}


async def run(options: Options) -> Figure:
    """Take the figure."""
    figure = Figure(
        NAME,
        "one instance, three hosts; seconds from the fault",
        ("fault", "trials", "running p50", "running p95", "login p50", "login p95", "others' cores"),
    )
    with (
        tempfile.TemporaryDirectory(prefix="yuntai-failover-") as folder,
        running_cloud(Path(folder), hosts=3, racks=3) as cloud,
    ):
        instance_id = await asyncio.to_thread(cloud.run_instance, "bench-failover")
        for name in [one for one in FAULTS if options.case in one]:
            foreign = Foreign()
            took = []
            for _ in range(options.repeat):
                took.append(await _trial(cloud, instance_id, name))
                print(f"{name}: running {took[-1][0]:.1f} s, login {took[-1][1]:.1f} s", flush=True)  # noqa: T201
            figure.raw[name] = took
            running, login = ([one[part] for one in took] for part in (0, 1))
            figure.rows.append(
                (name, len(took), *(f(part) for part in (running, login) for f in (statistics.median, p95)),
                 foreign.cores())
            )  # fmt: skip
    return figure


def p95(values: list[float]) -> float:
    """Return the value that 19 of 20 do not exceed; of fewer than 20 the worst."""
    return sorted(values)[max(0, -(-len(values) * 95 // 100) - 1)]


async def _trial(cloud: Cloud, instance_id: str, fault: str) -> tuple[float, float]:
    do, undo = FAULTS[fault]
    async with cloud.store() as store:
        host = (await store.need(Instance, instance_id)).value.host
        for other in set(cloud.hosts) - {host}:
            _console(cloud, other, instance_id).unlink(missing_ok=True)  # of the time when it ran there
        await asyncio.to_thread(do, cloud, host)
        began_s = time.monotonic()
        new = ""
        while not new:
            await asyncio.sleep(0.05)
            _check(began_s, f"{instance_id} does not leave {host}, which is {fault}")
            try:
                found = (await store.need(Instance, instance_id)).value
                seen = await store.get(ObservedInstance, instance_id)
            except StateError:
                continue  # its member was on that host
            if found.host != host and found.status == "Running" and seen is not None and seen.value.host == found.host:
                new = found.host
        running_s = time.monotonic() - began_s
        console = _console(cloud, new, instance_id)
        while not console.exists() or LOGIN not in console.read_text(errors="replace"):
            await asyncio.sleep(0.05)
            _check(began_s, f"{instance_id} does not boot on {new}")
        login_s = time.monotonic() - began_s
        await asyncio.to_thread(undo, cloud, host)
        await asyncio.to_thread(cloud.wait_up)
        async with asyncio.timeout(LIMIT_S):
            await _back(store, host)
        await asyncio.to_thread(cloud.forgive, host)
    return running_s, login_s


async def _back(store: Store, host: str) -> None:
    async for event in store.watch(HostFailure):
        match event:
            case Reset(records=records):
                found = [one.value for one in records]
            case Put(record=record):
                found = [record.value]
            case _:
                found = []
        if any(one.id == host and one.back for one in found):
            return


def _console(cloud: Cloud, host: str, instance_id: str) -> Path:
    return cloud.home.host(host).log / log_path("yuntai", instance_id)


def _check(began_s: float, what: str) -> None:
    if time.monotonic() - began_s > LIMIT_S:
        raise TimeoutError(f"{what} within {LIMIT_S:.0f} s")
