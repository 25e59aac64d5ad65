"""The ``migration`` figure: how long a guest is not heard of while it moves, on a cloud of three hosts of its own.

An idle guest of the smallest image goes from host to host while another one pings it every 10 ms. The gap is the
longest time between two answered pings; the total is what the operator waits for `yuntai instance migrate --wait`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from bench.measure import Figure, Foreign, Options, percentile
from tests.functional import pinging
from tests.functional.cloud import Cloud, running_cloud
from yuntai.model.compute import Instance

NAME = "migration"


async def run(options: Options) -> Figure:
    """Take the figure."""
    figure = Figure(
        NAME,
        "an idle guest moves, pinged every 10 ms",
        ("trials", "gap ms p50", "gap ms p99", "total s p50", "total s worst", "pings lost", "others' cores"),
    )
    with (
        tempfile.TemporaryDirectory(prefix="yuntai-migration-") as folder,
        running_cloud(Path(folder), hosts=3, racks=3) as cloud,
    ):
        stays, moves = [await asyncio.to_thread(cloud.run_instance, name) for name in ("stays", "moves")]
        async with cloud.store() as store:
            address = await _address(cloud, moves)
            foreign = Foreign()
            trials = []
            for _ in range(options.repeat):
                before = (await store.need(Instance, moves)).value.host
                trials.append(await asyncio.to_thread(_trial, cloud, stays, moves, address))
                if (await store.need(Instance, moves)).value.host == before:
                    raise RuntimeError(f"{moves} did not leave {before}")
    gaps, totals, lost = ([one[part] for one in trials] for part in range(3))
    figure.raw["trials"] = trials
    figure.rows.append(
        (len(trials), statistics.median(gaps), percentile(gaps, 99), statistics.median(totals), max(totals), sum(lost),
         foreign.cores())
    )  # fmt: skip
    return figure


async def _address(cloud: Cloud, instance_id: str) -> str:
    return await asyncio.to_thread(
        cloud.ssh, instance_id, "ip -4 -o address show eth0 | awk '{print $4}' | cut -d/ -f1"
    )


def _trial(cloud: Cloud, stays: str, moves: str, address: str) -> tuple[float, float, float]:
    pinging.start(cloud, stays, address)
    began_s = time.monotonic()
    cloud.cli("instance", "migrate", moves, "--wait")
    total_s = time.monotonic() - began_s
    heard = pinging.stop(cloud, stays)
    print(f"gap {heard.gap_ms} ms, {total_s:.1f} s, {heard.lost} of {len(heard.answered)} lost", flush=True)  # noqa: T201
    return heard.gap_ms, total_s, heard.lost
