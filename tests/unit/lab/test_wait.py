from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from yuntai.lab import wait
from yuntai.lab.wait import HEALTHY_S, LONGEST_PAUSE_S, Stage, listens, pause_s, probe, read_stage, write_stage


def test_the_first_start_and_one_after_a_long_life_do_not_pause() -> None:
    assert pause_s(Stage(), 100.0) == (0, 0.0)
    assert pause_s(Stage(starts=4, streak=3, started_s=100.0), 100.0 + HEALTHY_S) == (0, 0.0)


def test_early_ends_pause_longer_each_time_up_to_a_bound() -> None:
    stage, pauses = Stage(starts=1, started_s=100.0), []
    for _ in range(12):
        stage.streak, pause = pause_s(stage, 100.0)
        pauses.append(pause)
    assert pauses == sorted(pauses)
    assert pauses[0] <= 0.2
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_stage_survives_a_restart_and_a_torn_one_is_a_fresh_one(tmp_path: Path) -> None:
    path = tmp_path / "stage" / "x.json"
    write_stage(path, Stage(starts=3, waits_for="tcp:a:1"))
    assert read_stage(path) == Stage(starts=3, waits_for="tcp:a:1")
    path.write_text('{"starts": 3')
    assert read_stage(path) == Stage()
    assert read_stage(tmp_path / "none.json") == Stage()


def test_probes_tell_what_is_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert probe(f"tcp:127.0.0.1:{port}") == ""
    assert probe(f"tcp:127.0.0.1:{port}") == "Connection refused"
    path = tmp_path / "s"
    assert probe(f"unix:{path}") == "No such file or directory"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert probe(f"listen:{path}") == "nobody listens"
        listener.listen()
        assert probe(f"unix:{path}") == ""
        assert probe(f"listen:{path}") == ""
    assert probe(f"file:{path}") == ""
    assert probe(f"listen:{path}") == "nobody listens"
    with pytest.raises(SystemExit):
        probe("udp:127.0.0.1:1")


def test_only_listening_sockets_count() -> None:
    table = (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000: 00000002 00000000 00010000 0001 01 100 /run/a\n"
        "0000: 00000003 00000000 00000000 0001 03 101 /run/b\n"
        "0000: 00000003 00000000 00000000 0001 03 102\n"
    )
    assert listens("/run/a", table)
    assert not listens("/run/b", table)


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from pathlib import Path; from yuntai.lab import wait; "
    code += f"wait.STAGE_FOLDER = Path({str(folder)!r}); wait.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--name", "x", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_it_prepares_then_becomes_the_program(tmp_path: Path) -> None:
    script = tmp_path / "prepare"
    script.write_text(f"echo prepared >> {tmp_path}/order\n")
    done = start(tmp_path, "--prepare", str(script), "--", "sh", "-c", f"echo ran >> {tmp_path}/order; exit 7")
    assert done.returncode == 7
    assert (tmp_path / "order").read_text() == "prepared\nran\n"
    stage = json.loads((tmp_path / "x.json").read_text())
    assert stage["starts"] == 1
    assert stage["waits_for"] == ""


def test_a_need_that_never_comes_ends_it_and_is_named(tmp_path: Path) -> None:
    done = start(tmp_path, "--need", f"file:{tmp_path}/never", "--timeout", "0.2", "--", "true")
    assert done.returncode == wait.EXIT_NOT_READY
    assert f"file:{tmp_path}/never: No such file or directory" in done.stderr
    assert "never" in read_stage(tmp_path / "x.json").error


def test_a_failing_prepare_is_the_programs_failure(tmp_path: Path) -> None:
    script = tmp_path / "prepare"
    script.write_text("echo no disk >&2; exit 3\n")
    done = start(tmp_path, "--prepare", str(script), "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == wait.EXIT_NOT_READY
    assert "no disk" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_failing_follower_ends_the_program(tmp_path: Path) -> None:
    script = tmp_path / "after"
    script.write_text("exit 4\n")
    done = start(tmp_path, "--after", str(script), "--", "sleep", "20")
    assert done.returncode == -15
    assert read_stage(tmp_path / "x.json").error == f"{script} failed with 4"


def test_one_of_several_needs_is_enough(tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert probe(f"file:{tmp_path}/a|file:{tmp_path}/b") == "No such file or directory; No such file or directory"
    there.touch()
    assert probe(f"file:{tmp_path}/a|file:{there}") == ""
