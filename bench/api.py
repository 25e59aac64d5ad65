"""The ``api`` figure: how long DescribeInstances takes, and how often a second one API process answers it.

The server is a process of its own; client and server share the machine. One connection gives the latency, several
the rate. Beside it stands the rate of the same listener's ``/healthz``: the ceiling that the HTTP library sets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.api_server import KEY, SECRET
from bench.client import Client, Key
from bench.measure import ROOT, Figure, Foreign, Options, cpu_s, percentile
from tests.etcd_process import EtcdProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

NAME = "api"
INSTANCES = (1, 100, 1000)
CONNECTIONS = 8
PAGE = 100
START_S = 60.0
WARM_UP = 50


async def run(options: Options) -> Figure:
    """Take the figure."""
    figure = Figure(
        NAME,
        f"DescribeInstances, PageSize {PAGE}, one API process; latency at 1 connection, rate at {CONNECTIONS}",
        ("store", "instances", "p50 ms", "p99 ms", "max ms", "req/s", "KB", "server ms CPU/req", "others' cores"),
    )
    with tempfile.TemporaryDirectory(prefix="yuntai-bench-") as folder:
        for store in ("memory", "etcd"):
            for instances in INSTANCES:
                etcd = EtcdProcess(Path(tempfile.mkdtemp(dir=folder))) if store == "etcd" else None
                if etcd is not None:
                    await asyncio.to_thread(etcd.start)
                try:
                    async with _server(etcd.endpoint if etcd else "", instances) as (process, port):
                        await _measure(figure, options, store, instances, process.pid, port)
                finally:
                    if etcd is not None:
                        await asyncio.to_thread(etcd.stop)
    return figure


async def _measure(figure: Figure, options: Options, store: str, instances: int, pid: int, port: int) -> None:
    key = Key(KEY, SECRET)
    clients = [Client("127.0.0.1", port, key) for _ in range(CONNECTIONS)]
    try:
        answer = await clients[0].call("DescribeInstances", PageSize=PAGE)
        if answer["TotalCount"] != instances:
            raise AssertionError(f"asked for {instances} instances, got {answer['TotalCount']}")
        size_bytes = len(json.dumps(answer))

        def signed(client: Client) -> str:
            return "/?" + client.sign("DescribeInstances", PageSize=PAGE)

        foreign = Foreign([pid])
        latencies_ms = await _latencies(clients[0], signed, options.seconds)
        before_s = cpu_s(pid)
        rate, served = await _rate(clients, signed, options.seconds)
        cpu_ms = (cpu_s(pid) - before_s) / served * 1000
        ceiling, _ = await _rate(clients, lambda _client: "/healthz", options.seconds / 2)
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    others = foreign.cores()
    row = (
        store, instances, percentile(latencies_ms, 50), percentile(latencies_ms, 99), max(latencies_ms), rate,
        size_bytes / 1000, cpu_ms, others,
    )  # fmt: skip
    figure.rows.append(row)
    figure.notes.append(f"{store}, {instances}: /healthz of the same listener {ceiling:.0f} req/s")
    figure.raw[f"{store}-{instances}"] = {
        "requests": len(latencies_ms), "mean_ms": statistics.mean(latencies_ms), "healthz_per_s": ceiling,
    }  # fmt: skip


async def _latencies(client: Client, target: Callable[[Client], str], seconds: float) -> list[float]:
    for _ in range(WARM_UP):
        await client.get(target(client))
    latencies_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while (began_s := time.perf_counter()) < until_s:
        request = target(client)  # signing is the client's time, not the server's
        began_s = time.perf_counter()
        status, body = await client.get(request)
        latencies_ms.append((time.perf_counter() - began_s) * 1000)
        if status != 200:
            raise AssertionError(f"{status}: {body[:300]!r}")
    return latencies_ms


async def _rate(clients: list[Client], target: Callable[[Client], str], seconds: float) -> tuple[float, int]:
    until_s = time.perf_counter() + seconds

    async def load(client: Client) -> int:
        count = 0
        while time.perf_counter() < until_s:
            status, _ = await client.get(target(client))
            count += status == 200
        return count

    began_s = time.perf_counter()
    served = sum(await asyncio.gather(*(load(client) for client in clients)))
    return served / (time.perf_counter() - began_s), served


@contextlib.asynccontextmanager
async def _server(endpoint: str, instances: int) -> AsyncIterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, "-m", "bench.api_server", "--instances", str(instances)]
    if endpoint:
        command += ["--etcd", endpoint]
    process = await asyncio.to_thread(
        subprocess.Popen, command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    try:
        line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), START_S)
        if not line:
            raise AssertionError(f"the server ended with {process.wait(10)} before it served")
        yield process, int(line)
    finally:
        process.stdin.close()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait, 10)
