"""``python -m bench.control``: the control plane at the size of a large cloud. ``make bench-control`` runs it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.client import ECS, Client, Key
from bench.control import cloud, plans
from bench.control.cloud import SECRET, Size
from bench.measure import ROOT, Foreign, machine, percentile
from bench.scale import etcd
from tests.etcd_process import EtcdProcess
from yuntai.state import EtcdStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

READY_S = 300.0
RUNNING_S = 600.0
AT_ONCE = 8
IN_ONE_CALL = 20
RESULTS = ROOT / "bench" / "results"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--create", type=int, default=1_000, help="instances that are created")
    parser.add_argument("--calls", type=int, default=200, help="calls of each action")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def rss_mib(pid: int) -> int:
    """Return a process's resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


@contextlib.contextmanager
def process(role: str, endpoint: str) -> Iterator[tuple[subprocess.Popen[bytes], int, float]]:
    """Run one of the processes; yield it, the number that it printed, and how long it took to be ready."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "bench.control.processes", role, "--etcd", endpoint]
    made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.stdin is not None  # noqa: S101
    assert made.stdout is not None  # noqa: S101
    try:
        line = made.stdout.readline()
        if not line:
            raise AssertionError(f"{role} ended with {made.wait(10)} before it was ready")
        yield made, int(line), time.perf_counter() - began
    finally:
        made.stdin.close()
        try:
            made.wait(20)
        except subprocess.TimeoutExpired:
            made.kill()
            made.wait(10)


async def latencies(client: Client, count: int, action: str, **params: str | int) -> tuple[float, float]:
    """Return p50 and p99 in ms of calls of one action, one after the other."""
    took: list[float] = []
    for number in range(count + 3):
        began = time.perf_counter()
        await client.call(action, ECS, **params)
        if number >= 3:  # the first ones find nothing warm
            took.append((time.perf_counter() - began) * 1e3)
    return percentile(took, 50), percentile(took, 99)


def _pair(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.1f} / {pair[1]:.1f}"


async def reads(client: Client, calls: int, when: str) -> AsyncIterator[tuple[str, object]]:
    """Measure what describes."""
    wanted = {
        "DescribeInstances, PageSize 100": {"PageSize": 100},
        "DescribeInstances of one id": {"InstanceIds": '["i-0000000000000001"]'},
        "DescribeInstanceStatus, PageSize 50": {"PageSize": 50},
        "DescribeDisks, PageSize 100": {"PageSize": 100},
    }
    for name, params in wanted.items():
        pair = await latencies(client, calls, name.split(",")[0].split()[0], **params)  # type: ignore[arg-type]
        yield f"{name}, {when}, p50 / p99 ms", _pair(pair)


def _run(number: int, amount: int) -> dict[str, str | int]:
    one = cloud.tenant(number)
    return {
        "ImageId": cloud.IMAGE,
        "InstanceType": "ecs.yt1.micro",
        "VSwitchId": one.vswitch.id,
        "SecurityGroupId": one.group.id,
        "Amount": amount,
    }


async def create(port: int, size: Size, wanted: int) -> AsyncIterator[tuple[str, object]]:
    """Create instances through the API, from several accounts at once, and wait until all run."""
    clients = [Client("127.0.0.1", port, Key(cloud.key_of(n), SECRET)) for n in range(min(AT_ONCE, size.accounts))]
    took: list[float] = []
    ids: list[list[str]] = [[] for _ in clients]

    async def load(number: int, calls: int) -> None:
        for _ in range(calls):
            began = time.perf_counter()
            answer = await clients[number].call("RunInstances", ECS, **_run(number, IN_ONE_CALL))
            took.append((time.perf_counter() - began) * 1e3)
            ids[number] += answer["InstanceIdSets"]["InstanceIdSet"]

    calls = max(1, wanted // IN_ONE_CALL // len(clients))
    began = time.perf_counter()
    await asyncio.gather(*(load(number, calls) for number in range(len(clients))))
    asked_s = time.perf_counter() - began
    async with asyncio.timeout(RUNNING_S):
        for number, client in enumerate(clients):
            await _all_run(client, ids[number])
    took_s = time.perf_counter() - began
    made = sum(len(one) for one in ids)
    yield (
        f"RunInstances of {IN_ONE_CALL}, {len(clients)} clients, p50 / p99 ms",
        _pair((percentile(took, 50), percentile(took, 99))),
    )
    yield f"{made} instances: asked for within, s", round(asked_s, 1)
    yield f"{made} instances: all Running within, s", round(took_s, 1)
    yield "schedule rate, instances per s from the request to Running", round(made / took_s, 1)
    for client in clients:
        await client.close()


async def _all_run(client: Client, ids: list[str]) -> None:
    for start in range(0, len(ids), 100):
        part = ids[start : start + 100]
        while True:
            answer = await client.call("DescribeInstances", InstanceIds=json.dumps(part), PageSize=100)
            if all(one["Status"] == "Running" for one in answer["Instances"]["Instance"]):
                break
            await asyncio.sleep(0.2)


async def measure(
    size: Size, options: argparse.Namespace, endpoint: str, etcd_pid: int
) -> AsyncIterator[tuple[str, object]]:
    """Yield every figure of the running control plane."""
    began = time.perf_counter()
    async with EtcdStore([endpoint]) as store:
        count = await cloud.write(store, size)
    yield f"records in etcd: {count}; writing them, s", round(time.perf_counter() - began, 1)
    yield "etcd's file, MiB", round(etcd.figures(endpoint).file_bytes / 2**20)
    with (
        process("agents", endpoint),
        process("leader", endpoint) as (control, _, control_s),
        process("api", endpoint) as (front, port, front_s),
    ):
        yield "start until ready: leader / API, s", f"{control_s:.1f} / {front_s:.1f}"
        yield "memory at rest: leader / API / etcd, MiB", _memory(control.pid, front.pid, etcd_pid)
        client = Client("127.0.0.1", port, Key(cloud.key_of(0), SECRET))
        async for figure in reads(client, options.calls, "idle"):
            yield figure
        yield (
            "RunInstances of 1, idle, p50 / p99 ms",
            _pair(await latencies(client, max(10, options.calls // 10), "RunInstances", **_run(0, 1))),
        )
        async for figure in create(port, size, options.create):
            yield figure
        creating = asyncio.create_task(_drained(create(port, size, options.create)))
        async for figure in reads(client, options.calls, "while instances are created"):
            yield figure
        await creating
        yield "memory afterwards: leader / API / etcd, MiB", _memory(control.pid, front.pid, etcd_pid)
        await client.close()


async def _drained(figures: AsyncIterator[tuple[str, object]]) -> None:
    async for _ in figures:
        pass


def _memory(*pids: int) -> str:
    return " / ".join(str(rss_mib(pid)) for pid in pids)


def show(name: str, value: object) -> None:
    """Print one figure."""
    print(f"{name:72} {value}", flush=True)  # noqa: T201


async def run(options: argparse.Namespace) -> dict[str, object]:
    """Take every figure."""
    size = Size(options.hosts, options.racks, options.instances, options.accounts)
    found: dict[str, object] = {}
    foreign = Foreign()
    for name, value in plans.figures(size):
        show(name, value)
        found[name] = value
    with tempfile.TemporaryDirectory(prefix="yuntai-control-") as folder:
        server = EtcdProcess(Path(folder))
        await asyncio.to_thread(server.start)
        assert server.process is not None  # noqa: S101
        try:
            async for name, value in measure(size, options, server.endpoint, server.process.pid):
                show(name, value)
                found[name] = value
        finally:
            with contextlib.suppress(OSError):
                server.stop()
    found["processors that others kept busy, the benchmark's own processes included"] = round(foreign.cores(), 2)
    return found


def main() -> int:
    """Run, print, and keep the figures."""
    options = arguments()
    figures = asyncio.run(run(options))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"control-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
    print(f"kept in {path}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
