"""The order in which a cloud goes down: nobody may take the silence of a host that has stopped for its death."""

from __future__ import annotations

import contextlib
import xmlrpc.client
from pathlib import Path
from typing import Any

import msgspec
import pytest

from yuntai.lab import cgroups, cloud, lifecycle
from yuntai.lab import supervisor as supervisors
from yuntai.lab.layout import Home
from yuntai.lab.supervisor import Supervisor, SupervisorError


class Lab:
    """What is done to the hosts, in order, by stand-ins for their supervisors and records."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, hosts: int, frozen: str = "") -> None:
        self.done: list[str] = []
        self.broken: set[str] = set()
        for spec in cloud.plan(root, hosts, {"name": "unit-down"}):
            folders = Home(root).host(spec.name)
            folders.make()
            folders.spec.write_bytes(msgspec.json.encode(spec))
        lab = self

        class Played:
            def __init__(self, socket: Path, timeout_s: float) -> None:
                assert timeout_s > 0
                self.host = next(part for part in socket.parts if part in {"h1", "h2", "h3"})

            def stop_if_present(self, name: str) -> None:
                lab.note(self.host, name)

        def stop(_: Path, name: str, grace_s: float) -> bool:
            lab.note(name, "all" if not grace_s else f"all after {grace_s:g} s")
            return True

        monkeypatch.setattr(cloud, "running", lambda _home, name: name)
        monkeypatch.setattr(cgroups, "machine", lambda: ())
        monkeypatch.setattr(cgroups, "is_frozen", lambda _trees, netns: bool(frozen) and netns.endswith(frozen))
        monkeypatch.setattr(cloud, "Supervisor", Played)
        monkeypatch.setattr(lifecycle, "stop_guests", lambda _home, name, _record, _grace_s: lab.note(name, "guests"))
        monkeypatch.setattr(lifecycle, "stop", stop)

    def note(self, host: str, what: str) -> None:
        self.done.append(f"{host} {what}")
        if host in self.broken and what == "control":
            raise SupervisorError("it does not answer")

    def stages(self) -> list[str]:
        """Return what was done, each stage once; fail if a host began one before the others had ended theirs."""
        stages = [entry.split(maxsplit=1)[1] for entry in self.done]
        order = list(dict.fromkeys(stages))
        assert stages == sorted(stages, key=order.index)
        return order


def test_who_judges_hosts_stops_first_everywhere_and_what_serves_disks_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path, monkeypatch, hosts=3)
    assert sorted(cloud.down(tmp_path)) == ["h1", "h2", "h3"]
    assert lab.stages() == ["control", "guests", "gateway", "all"]
    assert len(lab.done) == 12


def test_a_host_that_cannot_be_asked_keeps_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, hosts=3, frozen="h3")
    lab.broken.add("h2")
    assert sorted(cloud.down(tmp_path)) == ["h1", "h2", "h3"]
    assert "h3 control" not in lab.done, "a frozen one judges nobody and would not answer"
    assert lab.stages() == ["control", "guests", "gateway", "all"]


def test_one_host_by_itself_has_nobody_who_misses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, monkeypatch, hosts=1)
    assert cloud.down(tmp_path, grace_s=3) == ["h1"]
    assert lab.done == ["h1 all after 3 s"]


@pytest.mark.parametrize(
    ("state", "stopped"),
    [("RUNNING", True), ("STARTING", True), ("BACKOFF", True), ("STOPPED", False), ("EXITED", False), ("FATAL", False)],
)
def test_a_program_that_is_about_to_run_is_stopped_too(
    monkeypatch: pytest.MonkeyPatch, state: str, stopped: bool
) -> None:
    calls: list[tuple[Any, ...]] = []

    def call(_: Supervisor, method: str, *arguments: object) -> Any:
        calls.append((method, *arguments))
        return [{"name": "control", "statename": state}, {"name": "api", "statename": "RUNNING"}]

    monkeypatch.setattr(supervisors.Supervisor, "call", call)
    Supervisor(Path("/nonexistent")).stop_if_present("control")
    assert (("stopProcess", "control", True) in calls) is stopped


@pytest.mark.parametrize(("code", "refused"), [(70, False), (10, True)])
def test_one_that_ends_by_itself_meanwhile_is_stopped(
    monkeypatch: pytest.MonkeyPatch, code: int, refused: bool
) -> None:
    def call(_: Supervisor, method: str, *arguments: object) -> Any:
        if method == "stopProcess":
            raise SupervisorError(f"{method}{arguments}") from xmlrpc.client.Fault(code, "a fault")
        return [{"name": "control", "statename": "BACKOFF"}]

    monkeypatch.setattr(supervisors.Supervisor, "call", call)
    with pytest.raises(SupervisorError) if refused else contextlib.nullcontext():
        Supervisor(Path("/nonexistent")).stop_if_present("control")
