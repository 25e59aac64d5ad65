"""Runs of fio against an NBD export, with the processor time of everybody involved."""

from __future__ import annotations

import json
import resource
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.measure import CannotMeasure, Foreign, cpu_s, need_program

if TYPE_CHECKING:
    from collections.abc import Sequence

RAMP_S = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """One workload."""

    name: str
    rw: str
    block: str
    depth: int
    extra: tuple[str, ...] = ()


CASES = (
    Case("randwrite 4k qd1", "randwrite", "4k", 1),
    Case("randwrite 4k qd16", "randwrite", "4k", 16),
    Case("randread 4k qd1", "randread", "4k", 1),
    Case("randread 4k qd16", "randread", "4k", 16),
    Case("randwrite 4k qd1 fsync", "randwrite", "4k", 1, ("--fsync=1",)),
    Case("write 1m qd4", "write", "1m", 4),
    Case("read 1m qd4", "read", "1m", 4),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave. ``server_cpu_s`` and ``others_cores`` say what it cost, and in whose company."""

    iops: float
    mb_s: float
    p50_us: float
    p99_us: float
    max_ms: float
    fio_cpu_s_per_10k: float
    server_cpu_s_per_10k: float
    others_cores: float
    sync_p50_us: float = 0.0


def engine(target: str) -> tuple[str, ...]:
    """Return fio's options for a target: an NBD URI, or ``rbd:POOL/IMAGE`` (its cluster is in ``CEPH_CONF``)."""
    if not target.startswith("rbd:"):
        return ("--ioengine=nbd", f"--uri={target}")
    pool, image = target.removeprefix("rbd:").split("/")
    return ("--ioengine=rbd", "--clientname=admin", f"--pool={pool}", f"--rbdname={image}")


def fio(case: Case, uri: str, size: str, seconds: float, pids: Sequence[int]) -> Run:
    """Run one case for ``seconds`` against ``uri``, whose servers are ``pids``."""
    program = need_program("fio", "fio")
    command = [
        *(program, f"--name={case.name.replace(' ', '-')}", *engine(uri), f"--rw={case.rw}"),
        *(f"--bs={case.block}", f"--iodepth={case.depth}", f"--size={size}", "--time_based", f"--runtime={seconds}"),
        *(f"--ramp_time={RAMP_S}", "--randrepeat=0", "--norandommap", "--output-format=json"),
        *("--percentile_list=50:99", *case.extra),
    ]
    foreign = Foreign(pids)
    own_before_s, servers_before_s = _children_s(), sum(cpu_s(pid) for pid in pids)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * 3 + 120, check=False)
    servers_s, own_s = sum(cpu_s(pid) for pid in pids) - servers_before_s, _children_s() - own_before_s
    others = foreign.cores()
    if done.returncode != 0 or "{" not in done.stdout:
        raise CannotMeasure(f"fio failed on {uri}: {(done.stderr or done.stdout).strip()[-300:]}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    main: dict[str, Any] = max(job["read"], job["write"], key=lambda part: part["total_ios"])
    iops = job["read"]["iops"] + job["write"]["iops"]
    # Processor time is taken over ramp and run, so the operations are scaled to both.
    per_10k = 10_000 / max(1.0, iops * (seconds + RAMP_S))
    latency = main["clat_ns"]
    return Run(
        iops=iops,
        mb_s=(job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / 1e6,
        p50_us=latency["percentile"]["50.000000"] / 1e3,
        p99_us=latency["percentile"]["99.000000"] / 1e3,
        max_ms=latency["max"] / 1e6,
        fio_cpu_s_per_10k=own_s * per_10k,
        server_cpu_s_per_10k=servers_s * per_10k,
        others_cores=others,
        sync_p50_us=job["sync"]["lat_ns"].get("percentile", {}).get("50.000000", 0.0) / 1e3,
    )


def fill(uri: str, size: str) -> None:
    """Write the whole span once: a first write costs more than a second one, on every side of a comparison."""
    command = [
        *(need_program("fio", "fio"), "--name=fill", *engine(uri), "--rw=write", "--bs=1m"),
        *("--iodepth=4", f"--size={size}", "--minimal"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise CannotMeasure(f"fio could not fill {uri}: {(done.stderr or done.stdout).strip()[-300:]}")


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
