"""The image "tiny" under plain QEMU without KVM: it boots, asks who it is, takes keys and disks, and shuts down."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.ports import free_port
from yuntai.guest import __main__ as guest
from yuntai.metadata import http
from yuntai.metadata.answers import Answer, Answers, Asked
from yuntai.metadata.limits import Limits
from yuntai.metadata.tokens import Tokens
from yuntai.metadata.tree import Subject
from yuntai.model.compute import Instance, KeyPair
from yuntai.model.network import Port, VSwitch

ROOT = Path(__file__).resolve().parents[2]
QEMU = "qemu-system-x86_64"
# Emulated, and on a busy machine: what takes 6 s alone may take a minute.
BOOT_TIMEOUT_S = 180.0
NET = "100.100.100"
CREATED = {"account": "1", "created": "2026-01-01T00:00:00Z"}

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which(QEMU) is None, reason="QEMU is not installed; run: make test"),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = Path(os.environ.get("YUNTAI_HOME", ROOT / ".yuntai")) / "guest" / "tiny.qcow2"
    out = tmp_path_factory.mktemp("guest")
    if built.exists() and os.environ.get("YUNTAI_TEST_REBUILD") != "1":
        shutil.copy(built, out / "tiny.qcow2")
    else:
        assert guest.main(["tiny", str(out)]) == 0
        stamp = json.loads((out / "tiny.json").read_text())
        assert stamp["size_bytes"] == (out / "tiny.qcow2").stat().st_size < 40 << 20
    return out / "tiny.qcow2"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=60)
    return path


@pytest.fixture
def metadata(key: Path) -> Iterator[int]:
    """Serve the real answers on a port of the loopback interface."""
    user_data = base64.b64encode(b"#!/bin/sh\necho USER-DATA-RAN\nip route\n").decode()
    subject = Subject(
        instance=Instance(
            id="i-tiny", name="t", hostname="web1", zone="z", instance_type="t", cpu=1, memory_mib=256, image="m-1",
            vpc="vpc-1", vswitch="vsw-1", port="p-1", security_groups=(), system_disk="d-1", user_data=user_data,
            **CREATED,
        ),
        port=Port(id="p-1", eni="eni-1", vpc="vpc-1", vswitch="vsw-1", mac="52:54:00:12:34:56", ip=f"{NET}.15",
                  security_groups=(), **CREATED),
        vswitch=VSwitch(id="vsw-1", vpc="vpc-1", zone="z", cidr=f"{NET}.0/24", **CREATED),
        vpc=None,
        key_pair=KeyPair(id="1:k", name="k", public_key=key.with_suffix(".pub").read_text(), fingerprint="", **CREATED),
        disks=(),
        region="cn-local",
    )  # fmt: skip
    answers = Answers(Tokens(b"x" * 32))

    def respond(_source: str, asked: Asked) -> Answer:
        return answers.answer(asked, subject, time.time())

    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(http.serve(listener, respond, Limits()), loop).result(10)
    yield listener.getsockname()[1]
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


class Guest:
    """QEMU with one guest: its console as text, its monitor, and ssh."""

    def __init__(self, image: Path, metadata: int, key: Path, folder: Path) -> None:
        self.key = key
        self.qmp_path = folder / "qmp.sock"
        self.text = ""
        self.began = time.monotonic()
        self.port = free_port()
        relay = folder / "relay.py"
        relay.write_text(RELAY.format(port=metadata))
        net = (
            f"user,id=n0,net={NET}.0/24,host={NET}.2,dns={NET}.3,dhcpstart={NET}.15,"
            f"hostfwd=tcp:127.0.0.1:{self.port}-:22,guestfwd=tcp:{NET}.200:80-cmd:{sys.executable} {relay}"
        )
        args = [
            "-machine", "q35", "-accel", "tcg,tb-size=32", "-cpu", "qemu64", "-m", "256", "-display", "none",
            "-nodefaults", "-serial", "stdio", "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-drive", f"file={image},if=none,id=d0,format=qcow2", "-device", "virtio-blk-pci,drive=d0,bootindex=1",
            "-device", "virtio-rng-pci", "-device", "pcie-root-port,id=spare,chassis=1",
            "-netdev", net, "-device", "virtio-net-pci,netdev=n0,romfile=",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [QEMU, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while block := os.read(self.process.stdout.fileno(), 4096):
            self.text += block.decode(errors="replace")

    def wait(self, text: str, limit_s: float = BOOT_TIMEOUT_S) -> float:
        end = time.monotonic() + limit_s
        while text not in self.text:
            assert self.process.poll() is None, f"QEMU ended:\n{self.text[-3000:]}"
            assert time.monotonic() < end, f"no {text!r} within {limit_s} s:\n{self.text[-3000:]}"
            time.sleep(0.05)
        return time.monotonic() - self.began

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def ssh(self, command: str) -> str:
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60"]
        args = ["ssh", *options, "-i", str(self.key), "-p", str(self.port), "root@127.0.0.1", command]
        done = subprocess.run(args, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def qmp(self, *commands: dict[str, object]) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.qmp_path))
            lines = connection.makefile("rwb")
            lines.readline()
            for command in ({"execute": "qmp_capabilities"}, *commands):
                lines.write(json.dumps(command).encode() + b"\n")
                lines.flush()
                while "return" not in (answer := json.loads(lines.readline())):
                    assert "event" in answer, answer

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(30)


RELAY = """import os, socket, sys, threading
link = socket.create_connection(("127.0.0.1", {port}))
def up():
    while data := os.read(0, 65536):
        link.sendall(data)
    link.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := link.recv(65536):
    os.write(1, data)
"""


@pytest.fixture
def booted(image: Path, metadata: int, key: Path, tmp_path: Path) -> Iterator[Guest]:
    made = Guest(image, metadata, key, tmp_path)
    try:
        made.wait("YUNTAI-BOOT-OK i-tiny")
        yield made
    finally:
        made.stop()


def test_it_boots_and_does_what_the_metadata_says(booted: Guest, tmp_path: Path) -> None:
    assert booted.text.count("USER-DATA-RAN") == 1
    assert booted.ssh("hostname").strip() == "web1"

    # A person at the serial console.
    booted.wait("login: ")
    booted.type("root\n")
    booted.wait("# ")
    booted.type("echo con''sole; sha256sum /etc/rc.network\n")
    booted.wait("console\r\n")

    # A disk that is plugged into the running guest.
    data = tmp_path / "data.raw"
    with data.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(data)], check=True, timeout=60)
    node = {"driver": "raw", "node-name": "d1", "file": {"driver": "file", "filename": str(data)}}
    booted.qmp(
        {"execute": "blockdev-add", "arguments": node},
        {
            "execute": "device_add",
            "arguments": {"driver": "virtio-blk-pci", "id": "disk1", "drive": "d1", "bus": "spare", "serial": "d-data"},
        },
    )
    booted.ssh("for i in $(seq 60); do test -b /dev/vdb && break; sleep 1; done; test -b /dev/vdb")
    assert booted.ssh("cat /sys/block/vdb/serial").strip() == "d-data"
    booted.ssh("mount /dev/vdb /mnt && echo here > /mnt/file && umount /mnt && sync")

    # The power button.
    booted.qmp({"execute": "system_powerdown"})
    assert booted.process.wait(BOOT_TIMEOUT_S) == 0


def test_what_root_wrote_and_the_host_key_outlive_a_restart(
    booted: Guest, image: Path, metadata: int, key: Path, tmp_path: Path
) -> None:
    before = booted.ssh("echo kept > kept; sync; sha256sum /etc/dropbear/ed25519")
    booted.stop()
    again = Guest(image, metadata, key, tmp_path)
    try:
        again.wait("YUNTAI-BOOT-OK i-tiny")
        assert again.ssh("cat kept").strip() == "kept"
        assert again.ssh("sha256sum /etc/dropbear/ed25519") == before
        assert "USER-DATA-RAN" not in again.text  # once for each instance
    finally:
        again.stop()
