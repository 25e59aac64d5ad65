"""The arithmetic below every figure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import pytest

from bench.client import Key
from bench.measure import Figure, Foreign, cpu_s, percentile
from yuntai.api.signature import claim_of
from yuntai.api.wire import read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_figure_is_printed_and_kept(tmp_path: Path) -> None:
    figure = Figure("x", "a title", ("case", "IOPS"), [("first", 1234.5), ("second", 0.125)], ["a note"], {"raw": 1})
    assert figure.text().splitlines() == [
        "x: a title",
        "case    IOPS",
        "------  ----",
        "first   1234",
        "second  0.12",
        "  a note",
    ]
    kept = json.loads(figure.save(tmp_path, {"cpus": 2}).read_text())
    assert kept["rows"] == [["first", 1234.5], ["second", 0.125]]
    assert kept["machine"] == {"cpus": 2}


def test_processor_time_of_others_leaves_out_what_is_ours() -> None:
    burn = "import time\nend = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", burn]) as ours:
        counted, ignored = Foreign(), Foreign([ours.pid])
        began_s = time.monotonic()
        while cpu_s(ours.pid) < 0.4:
            time.sleep(0.01)
        with_it, without_it = counted.cores(), ignored.cores()
        elapsed_s = time.monotonic() - began_s
        ours.kill()
    assert with_it - without_it > 0.2 / elapsed_s


def test_the_client_signs_as_the_server_checks() -> None:
    query = Key("id", "secret").sign("DescribeInstances", "2014-05-26", {"InstanceIds": '["i-1"]', "Tag.1.Key": "a b~"})
    claim = claim_of(read("GET", f"/?{query}", {"Host": "h"}, b""))
    assert claim.proved_by("secret")
    assert not claim.proved_by("other")
    assert dict(parse_qsl(query))["Tag.1.Key"] == "a b~"
