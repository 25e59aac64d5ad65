"""What a host of this machine calls a socket, as the machine calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from yuntai.cli import local


def test_an_nbd_uri_keeps_its_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The three slashes are part of the form: qemu, fio and libnbd refuse ``nbd+unix:/name``."""
    monkeypatch.setenv("YUNTAI_HOME", str(tmp_path))
    (tmp_path / "hosts" / "h1" / "run").mkdir(parents=True)
    uri = local.local_uri("h1", "nbd+unix:///vol-1?socket=/run/yuntai/nbd/vol-1.sock")
    assert uri == f"nbd+unix:///vol-1?socket={tmp_path}/hosts/h1/run/yuntai/nbd/vol-1.sock"


def test_a_real_hosts_path_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YUNTAI_HOME", str(tmp_path))
    uri = "nbd+unix:///vol-1?socket=/run/yuntai/nbd/vol-1.sock"
    assert local.local_uri("far", uri) == uri
