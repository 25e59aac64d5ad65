"""How fast a volume's requests are, stage by stage, as its gateway counts them."""

from __future__ import annotations

from typing import Any

from yuntai.api.registry import YUNTAI, Call, action

STAGES = {
    "queue_us": "all: guest asks to it is begun",
    "read_us": "read: guest asks to guest has it",
    "replica_read_us": "read: replica asked to answered",
    "write_us": "write: guest asks to guest knows",
    "replicate_us": "write: sent to acknowledged by all in-sync replicas",
    "flush_us": "flush: guest asks to guest knows",
    "replica_flush_us": "flush: replica asked to answered",
    "source_us": "lazy read: source asked to answered",
}
"""The gateway's histograms; the parts of a way stand below the whole."""
COUNTERS = (
    "reads", "writes", "flushes", "read_bytes", "written_bytes", "stalls", "degrades", "readmits", "damaged_blocks",
    "lazy_reads",
)  # fmt: skip
_TIMES = "Count:i MaxUs:i MeanUs:i P50Us:i P99Us:i"


def percentile(buckets: list[int], percent: float, most: int) -> int:
    """Return the upper bound of the bucket that the percentile falls into: bucket n is below 2^n microseconds."""
    wanted, seen = sum(buckets) * percent / 100, 0
    for number, count in enumerate(buckets):
        seen += count
        if seen >= wanted and seen:
            return min(most, 1 << number)
    return most


def times(histogram: dict[str, Any]) -> dict[str, int]:
    """Return what a person wants to know of a histogram."""
    buckets, count, most = list(histogram["buckets"]), int(histogram["count"]), int(histogram["max_us"])
    return {
        "Count": count,
        "MaxUs": most,
        "MeanUs": int(histogram["sum_us"]) // max(1, count),
        "P50Us": percentile(buckets, 50, most),
        "P99Us": percentile(buckets, 99, most),
    }


@action(
    YUNTAI,
    "DescribeVolumeStats",
    "VolumeId!",
    f"Counters[]{{Name Value:i}} Generation:i InFlight:i OldestUs:i Phase "
    f"Servers[]{{BehindChunks:i ChunkServer:i InSync:b Link Unanswered:i {_TIMES}}} "
    f"Stages[]{{Description Stage {_TIMES}}} VolumeId",
    operator=True,
)
async def describe_volume_stats(call: Call) -> dict[str, Any]:
    """Say how long a volume's requests take, and where; nothing while no host has it open."""
    stats = await call.context.volumes.stats(call.text("VolumeId"))
    counters = stats.get("counters", {})
    stages = ((name, text) for name, text in STAGES.items() if name in counters)
    return {
        "Counters": [{"Name": name, "Value": counters[name]} for name in COUNTERS if name in counters],
        "Generation": stats.get("generation", 0),
        "InFlight": stats.get("in_flight", 0),
        "OldestUs": stats.get("oldest_us", 0),
        "Phase": stats.get("phase", "closed"),
        "Servers": [
            {
                "BehindChunks": server["behind_chunks"],
                "ChunkServer": int(number),
                "InSync": server["in_sync"],
                "Link": server["link"],
                "Unanswered": server["unanswered"],
                **times(server["answer_us"]),
            }
            for number, server in sorted(stats.get("servers", {}).items(), key=lambda item: int(item[0]))
        ],
        "Stages": [{"Stage": name, "Description": text, **times(counters[name])} for name, text in stages],
        "VolumeId": call.text("VolumeId"),
    }
