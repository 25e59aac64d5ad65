"""The probe of the accelerator: a guest that must really run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from yuntai.compute import probe

needs_qemu = pytest.mark.skipif(shutil.which(probe.QEMU) is None, reason="QEMU is not installed; run: make test")


def test_firmware_begins_where_a_processor_begins() -> None:
    image = probe.rom()
    assert len(image) == 65536
    assert image[0xFFF0:0xFFF5] == b"\xea\x00\x00\x00\xf0"


@needs_qemu
async def test_the_probe_guest_runs_under_emulation() -> None:
    assert await probe.runs("tcg", timeout_s=30.0)


@needs_qemu
async def test_a_probe_that_does_not_end_in_time_is_a_no() -> None:
    assert not await probe.runs("tcg", timeout_s=0.0)


async def test_without_the_device_nothing_is_started_and_the_answer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "run" / "accelerator.json"
    monkeypatch.setattr(probe, "QEMU", "no-such-program-of-ours")
    assert await probe.accelerator(cache, tmp_path / "no-kvm") == "tcg"
    cache.write_text('{"accelerator": "kvm"}')
    assert await probe.accelerator(cache, tmp_path / "no-kvm") == "kvm"
    cache.write_text("nonsense")
    assert await probe.accelerator(cache, tmp_path / "no-kvm") == "tcg"
