"""``yuntai host …`` against the real front."""

from __future__ import annotations

from tests.unit.cli.test_cli_commands import Run, good, read, run

__all__ = ["run"]  # fixtures


def test_a_jail_that_is_over_is_not_shown_and_failures_are_forgiven(run: Run) -> None:
    assert "jailed" not in good(run("host", "list"))
    assert read(run("host", "show", "h1", "-o", "json"))["JailedUntil"] == ""
    assert good(run("host", "forgive", "h1")) == "host h1: 2 failures count no longer\n"
    assert read(run("host", "forgive", "h1", "-o", "json"))["Forgiven"] == 0
    assert "InvalidHostId.NotFound" in str(run("host", "forgive", "h9").exception)


def test_a_host_that_is_there_is_not_awaited(run: Run) -> None:
    assert read(run("host", "show", "h1", "-o", "json"))["AwaitedUntil"] == ""
    assert "is not awaited" in str(run("host", "await", "h1", "--minutes", "5").exception)
    assert "choose 0" in str(run("host", "await", "h1", "--minutes", "-5").exception)
    assert "InvalidHostId.NotFound" in str(run("host", "await", "h9", "--minutes", "5").exception)


def test_a_host_is_shown_labelled_drained_and_given_back(run: Run) -> None:
    assert read(run("host", "show", "h1", "-o", "json"))["Address"] == "10.78.0.1"
    assert "there is no host h9" in str(run("host", "show", "h9").exception)
    assert good(run("host", "label", "h1", "room=2", "old=1")) == "old=1, room=2\n"
    assert read(run("host", "label", "h1", "old-", "-o", "json"))["labels"] == [{"Key": "room", "Value": "2"}]
    assert "is no label" in str(run("host", "label", "h1", "room").exception)
    assert "room=2" in good(run("host", "show", "h1"))
    assert good(run("host", "drain", "h1", "--storage")) == "host h1 is draining\n"
    assert "up draining" in good(run("host", "list"))
    assert "is not drained" in str(run("host", "remove", "h1", "--yes").exception)
    assert good(run("host", "undrain", "h1")) == "host h1 takes instances again\n"
    assert run("host", "remove", "h1").exit_code == 1
    assert good(run("host", "pools")).startswith("ID")
