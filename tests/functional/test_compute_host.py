"""The agent in a lab host with the real libvirt, QEMU, OVN and metadata service; disks are files behind qemu-nbd.

The scenario itself is ``compute_rig.py``, which runs inside the host; here the host is made, and its words are read.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES_HOME = Path(os.environ.get("YUNTAI_HOME", ROOT / ".yuntai"))
TINY = IMAGES_HOME / "guest" / "tiny.qcow2"
HOST = [sys.executable, "-m", "yuntai.lab.host"]
RIG = "cd /opt/yuntai/src && exec /opt/yuntai/venv/bin/python -B tests/functional/compute_rig.py"
STEPS = [
    "start", "boot", "ssh", "agent restarted", "libvirtd killed, guest adopted", "disk plugged",
    "disk seen, written, read", "disk unplugged", "guest killed, back by itself", "booted again", "reboot", "stop",
    "start again", "shut down from inside", "delete",
]  # fmt: skip

pytestmark = [
    pytest.mark.functional,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="a lab host needs root"),
    pytest.mark.skipif(not (IMAGES_HOME / "image").is_dir(), reason="the host image is not built; run: make test"),
]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    where = ["--home", str(tmp_path / "cloud")]
    cluster = f"agent{os.getpid()}"
    start = [*HOST, *where, "start", "--cluster", cluster, "--engines-only", "--images", str(IMAGES_HOME)]
    subprocess.run(start, cwd=ROOT, check=True, timeout=180)
    try:
        yield tmp_path / "cloud"
    finally:
        subprocess.run([*HOST, *where, "stop"], cwd=ROOT, check=True, timeout=120)


@pytest.mark.skipif(not TINY.exists(), reason="the guest image tiny is not built; run: make test")
def test_an_instance_lives_through_everything(home: Path) -> None:
    data = home / "hosts" / "h1" / "data"
    shutil.copy(TINY, data / "tiny.qcow2")
    key = data / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=60)
    inside = f"{RIG} /var/lib/yuntai/tiny.qcow2 /var/lib/yuntai/key 256"
    done = subprocess.run(
        [*HOST, "--home", str(home), "exec", "--", "sh", "-c", inside],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    steps = [json.loads(line)["step"] for line in done.stdout.splitlines() if line.startswith('{"step"')]
    assert done.returncode == 0, f"after {steps}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    assert steps == STEPS
