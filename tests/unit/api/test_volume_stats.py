"""Where the time of a volume's requests goes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.fake_cloud import FakeCloud
from tests.unit.api.test_api_operator import ask
from yuntai.api.operator_volume_stats import percentile

VOLUME = "vol-00000000000000aa"


def histogram(**buckets: int) -> dict[str, Any]:
    counts = [0] * 26
    for name, count in buckets.items():
        counts[int(name[1:])] = count
    total = sum(counts)
    return {"buckets": counts, "sum_us": total * 100, "count": total, "max_us": 900 if total else 0}


def stats() -> dict[str, Any]:
    server = {"link": "up", "in_sync": True, "behind_chunks": 0, "unanswered": 1, "answer_us": histogram(b8=10)}
    return {
        "generation": 3,
        "phase": "serving",
        "in_flight": 2,
        "oldest_us": 40,
        "counters": {"writes": 100, "write_us": histogram(b8=98, b10=2), "replicate_us": histogram()},
        "servers": {"10": server, "9": {**server, "in_sync": False}},
    }


def test_stages_and_servers_are_named_in_order(cloud: FakeCloud) -> None:
    cloud.volumes.figures[VOLUME] = stats()
    shown = ask(cloud, "DescribeVolumeStats", VolumeId=VOLUME)
    assert (shown["Phase"], shown["InFlight"], shown["Counters"]) == ("serving", 2, [{"Name": "writes", "Value": 100}])
    assert [stage["Stage"] for stage in shown["Stages"]] == ["write_us", "replicate_us"]
    write = shown["Stages"][0]
    assert [write[name] for name in ("Count", "MeanUs", "P50Us", "P99Us", "MaxUs")] == [100, 100, 256, 900, 900]
    assert [(one["ChunkServer"], one["InSync"]) for one in shown["Servers"]] == [(9, False), (10, True)]


def test_a_volume_that_is_not_open_has_no_figures(cloud: FakeCloud) -> None:
    shown = ask(cloud, "DescribeVolumeStats", VolumeId="vol-00000000000000bb")
    assert (shown["Phase"], shown["Stages"], shown["Servers"]) == ("closed", [], [])


@pytest.mark.parametrize(("percent", "bound"), [(50, 2), (75, 2), (76, 8), (100, 8)])
def test_percentiles_are_upper_bounds(percent: float, bound: int) -> None:
    assert percentile([0, 3, 0, 1], percent, 100) == bound
    assert percentile([0, 0, 0, 0], percent, 0) == 0
