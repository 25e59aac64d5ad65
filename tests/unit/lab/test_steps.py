from __future__ import annotations

import argparse
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from yuntai.lab.layout import Home
from yuntai.lab.setup import __main__ as setup
from yuntai.lab.setup.runner import Runner
from yuntai.lab.setup.steps import Log, SetupError, Step, digest_files, replaced, swap_in


class Work:
    """A step whose inputs and result the test sets."""

    def __init__(self) -> None:
        self.inputs, self.there, self.runs, self.error = "1", True, 0, ""

    def run(self, log: Log) -> None:
        self.runs += 1
        log.say("working hard")
        if self.error:
            raise SetupError(self.error, "")

    def step(self) -> Step:
        return Step("work", "some work", lambda: self.inputs, lambda: self.there, self.run, "buy a new disk")


def test_a_step_runs_again_only_when_its_inputs_changed_or_its_result_is_gone(tmp_path: Path) -> None:
    work, runner = Work(), Runner(Home(tmp_path))
    for _ in range(2):
        runner.run([work.step()])
    assert work.runs == 1
    work.inputs = "2"
    runner.run([work.step()])
    assert work.runs == 2
    work.there = False
    runner.run([work.step()])
    assert work.runs == 3


def test_a_failed_step_shows_its_log_and_the_way_out_and_is_not_remembered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, runner = Work(), Runner(Home(tmp_path))
    runner.run([work.step()])
    work.inputs, work.error = "2", "the disk is full"
    with pytest.raises(SystemExit) as caught:
        runner.run([work.step()])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "some work failed: the disk is full" in said
    assert "working hard" in said
    assert "Way out: buy a new disk" in said
    work.inputs, work.error = "1", ""
    runner.run([work.step()])
    assert work.runs == 3


@pytest.mark.parametrize("error", [subprocess.TimeoutExpired("pip", 300), OSError(28, "No space left on device")])
def test_a_program_that_hangs_and_a_full_disk_are_failures_of_the_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def run(_: Log) -> None:
        raise error

    with pytest.raises(SystemExit):
        Runner(Home(tmp_path)).run([Step("work", "some work", lambda: "", lambda: True, run, "buy a new disk")])
    said = capsys.readouterr().err
    assert f"some work failed: {error}" in said
    assert "Way out: buy a new disk" in said


def test_steps_run_side_by_side_but_after_what_they_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[str] = []
    short_ended = threading.Event()

    def step(name: str, *after: str) -> Step:
        def run(_: Log) -> None:
            events.append(f"{name} begins")
            if name == "long":
                assert short_ended.wait(60)
            events.append(f"{name} ends")
            if name == "short":
                short_ended.set()

        return Step(name, f"the {name}", lambda: "", lambda: True, run, "", after)

    steps = [
        step("base"),
        step("long", "base"),
        step("short", "base"),
        step("last", "long", "short"),
    ]
    Runner(Home(tmp_path)).run(steps)
    assert events[:2] == ["base begins", "base ends"]
    assert events.index("short ends") < events.index("long ends")
    assert events[-2:] == ["last begins", "last ends"]
    Runner(Home(tmp_path)).run(steps)
    assert len(events) == 8
    assert capsys.readouterr().out.count("ready") == 4


def test_when_one_step_fails_the_other_is_ended(tmp_path: Path) -> None:
    def fail(_: Log) -> None:
        raise SetupError("no", "way")

    def hang(log: Log) -> None:
        log.run("sleep", "60", timeout_s=60)

    steps = [
        Step("hang", "hang", lambda: "", lambda: True, hang, ""),
        Step("fail", "fail", lambda: "", lambda: True, fail, ""),
    ]
    began_s = time.monotonic()
    with pytest.raises(SystemExit):
        Runner(Home(tmp_path)).run(steps)
    assert time.monotonic() - began_s < 50
    assert not (Home(tmp_path).stamps / "hang").exists()


def test_a_stamp_that_was_cut_short_is_none(tmp_path: Path) -> None:
    work, home = Work(), Home(tmp_path)
    Runner(home).run([work.step()])
    (home.stamps / "work").write_text('{"inputs"')
    assert Runner(home).stale(work.step())


def test_a_command_that_hangs_ends_with_all_its_children(tmp_path: Path) -> None:
    log, pipe = Log(tmp_path / "log"), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(SetupError, match="took more than"):
        log.run("sh", "-c", f"exec 9> {pipe}; sleep 600 & wait", timeout_s=0.5)
    deadline = time.monotonic() + 60
    while _has_writers(reader):
        assert time.monotonic() < deadline, "a child lives on"
        time.sleep(0.01)
    os.close(reader)


def _has_writers(reader: int) -> bool:
    """Whether a process has the other end of a pipe that nothing is written to."""
    try:
        return os.read(reader, 1) != b""
    except BlockingIOError:
        return True


def test_a_failing_command_is_named_and_its_words_are_in_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with pytest.raises(SetupError, match="`sh -c"):
        log.run("sh", "-c", "echo so sad; exit 3", timeout_s=5)
    assert "so sad" in log.tail()


def test_a_digest_follows_names_and_contents_but_not_compiled_python(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = digest_files([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert digest_files([tmp_path]) == before
    (tmp_path / "a.py").write_text("2")
    changed = digest_files([tmp_path])
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({before, changed, digest_files([tmp_path])}) == 3


def test_swapping_in_keeps_what_was_there(tmp_path: Path) -> None:
    final = tmp_path / "image"
    for content in ("old", "new"):
        partial = tmp_path / "image.partial"
        partial.mkdir()
        (partial / "file").write_text(content)
        swap_in(partial, final)
    assert (final / "file").read_text() == "new"
    assert [(kept / "file").read_text() for kept in replaced(tmp_path)] == ["old"]


class SaidLog(Log):
    """Notes the commands instead of running them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "said.log")
        self.commands: list[tuple[str, ...]] = []

    def run(self, *command: str, **_: object) -> None:
        self.commands.append(command[1:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hosts": None, "racks": None}, ()),
        ({"hosts": 4, "racks": 2}, ("--hosts", "4", "--racks", "2")),
    ],
)
def test_make_up_starts_the_cloud_as_the_lab_does(
    tmp_path: Path, options: dict[str, int | None], words: tuple[str, ...]
) -> None:
    log = SaidLog(tmp_path)
    setup._cloud(Home(tmp_path), argparse.Namespace(api_port=8080, **options), ()).run(log)
    log.close()
    assert log.commands == [("-m", "yuntai.cli", "lab", "up", "--api-port", "8080", *words)]


def test_what_a_new_image_replaced_goes_when_no_host_stands_on_it(tmp_path: Path) -> None:
    (tmp_path / "image.replaced-1").mkdir()
    log = SaidLog(tmp_path)
    setup._cloud(Home(tmp_path), argparse.Namespace(api_port=8080, hosts=None, racks=None), ()).run(log)
    log.close()
    assert [command[3] for command in log.commands] == ["down", "up"]
    assert not (tmp_path / "image.replaced-1").exists()


@pytest.mark.parametrize(("given", "number"), [("", None), ("4", 4)])
def test_the_number_of_hosts_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, given: str, number: int | None
) -> None:
    monkeypatch.setenv("HOSTS", given)
    assert setup._number("HOSTS") == number


def test_a_number_of_hosts_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTS", "four")
    with pytest.raises(SystemExit, match="HOSTS is 'four'; write a number, such as HOSTS=4"):
        setup._number("HOSTS")
