"""``yuntai pangu …`` against the real front."""

from __future__ import annotations

from tests.unit.cli.test_cli_commands import Run, good, read, run

__all__ = ["run"]  # fixtures


def test_work_is_shown_with_bars(run: Run) -> None:
    text = good(run("pangu", "work"))
    assert "scrub" in text
    assert "3,072/4,096 MiB" in text
    assert "50.0 MiB/s" in text
    assert "repair" not in text
    assert "repair" in good(run("pangu", "work", "--all"))
    assert [one["name"] for one in read(run("pangu", "work", "-o", "json"))] == ["scrub", "repair"]


def test_health_says_what_and_how_long(run: Run) -> None:
    shown = run("pangu", "health")
    assert shown.exit_code == 1
    assert "data: of 9 chunks, 4 chunks have 2 live replicas" in shown.output
    assert "over in about 1 min 15 s" in shown.output
    assert "http://10.0.0.2:7300 does not answer" in shown.output
    assert "space" not in shown.output


def test_orders(run: Run) -> None:
    assert good(run("pangu", "drain", "cs-2")) == "cs-2\n"
    assert good(run("pangu", "undrain", "cs-2")) == "cs-2\n"
    assert good(run("pangu", "drain-rack", "rack-2", "--wait")) == "cs-2\n"
    assert good(run("pangu", "balance")) == "from cs-1\n"
    assert read(run("pangu", "scrub", "-o", "json"))["begun"] == ["cs-1"]
    assert "cs-2: it is down" in str(run("pangu", "scrub").exception)
    good(run("pangu", "set", "scrub_period_s", "3600"))
    good(run("pangu", "set", "repair_bytes_per_s", "200M"))
    good(run("pangu", "set", "repair_bytes_per_s", "default"))
    assert "is no value" in str(run("pangu", "set", "repair_after_s", "soon").exception)
    assert "repair_after_s" in good(run("pangu", "settings"))
    good(run("pangu", "salvage", "vol-0000000000000001", "3", "--yes"))
    assert run("pangu", "salvage", "vol-0000000000000001", "3").exit_code == 1
    given_up = good(run("pangu", "server", "give-up", "cs-2", "--yes-its-data-is-lost"))
    assert given_up == "cs-2 is given up; 1 volumes go on without it\n"
    assert run("pangu", "server", "give-up", "cs-2").exit_code == 1
    good(run("pangu", "server", "remove", "cs-2"))
