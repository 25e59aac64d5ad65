"""Console logs stay bounded while a writer that has them open goes on, and the newest text stays in the same file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yuntai.compute import console


def test_a_log_below_the_limit_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    assert not console.bound(path, 100)
    assert not console.bound(tmp_path / "none", 100)
    assert console.tail(path, 10) == b"x" * 10
    assert console.tail(tmp_path / "none", 10) == b""


@pytest.mark.parametrize("collapses", [True, False])
def test_the_newest_text_stays_and_the_writer_appends_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collapses: bool
) -> None:
    if not collapses:
        monkeypatch.setattr(console, "_collapse", lambda _handle, _length: False)
    path = tmp_path / "log"
    lines = [f"line {number:06d}\n".encode() for number in range(4000)]
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb", buffering=0) as writer:
        for line in lines:
            writer.write(line)
        assert console.bound(path, 20_000, 10_000)
        writer.write(b"after\n")
    kept = path.read_bytes()
    assert len(kept) < 20_000
    assert kept.endswith(lines[-1] + b"after\n")
    assert b"".join(lines).endswith(kept.removesuffix(b"after\n"))
    assert len(kept) >= 10_000
    console.remove(path)
    assert not path.exists()
