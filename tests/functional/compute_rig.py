"""Runs inside a lab host: the real agent, network and metadata service over qemu-nbd disks, and a scenario on them.

Each step prints one line of JSON: ``{"step": …, "seconds": …}``; a failed one ends the program with its traceback.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from yuntai import config as configuration
from yuntai import log
from yuntai.compute import console
from yuntai.compute.agent import Agent
from yuntai.compute.libvirt_driver import LibvirtHypervisor
from yuntai.compute.volumes import Export
from yuntai.metadata.service import Service
from yuntai.model.base import now_utc
from yuntai.model.compute import Disk, Instance, KeyPair, ObservedInstance
from yuntai.model.network import Port, Rule, SecurityGroup, Vpc, VSwitch
from yuntai.network import addresses, local, syncer
from yuntai.state import EtcdStore

ID = "i-00000000000c0de1"
ACCOUNT = "1000000000000001"
USER_DATA = "#!/bin/sh\necho USER-DATA-RAN\n"
BOOT_TIMEOUT_S = 120.0
SSH = Rule(id="r-1", direction="ingress", protocol="tcp", port_range="22/22", cidr="0.0.0.0/0")


class NbdVolumes:
    """Volumes that are files behind one qemu-nbd each: the seam's contract without the block store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    async def attach(self, volume: str, host: str, if_generation: int = -1) -> Export:
        socket = self._folder / f"{volume}.sock"
        if volume not in self._servers or self._servers[volume].poll() is not None:
            socket.unlink(missing_ok=True)
            args = ["-f", "qcow2", "-t", "-e", "4", "-x", volume, "--discard=unmap", "-k", str(socket)]
            self._servers[volume] = spawn("qemu-nbd", *args, str(self._folder / f"{volume}.qcow2"))
            await eventually(socket.exists, 10.0)
        return Export(socket=str(socket), name=volume, generation=1)

    async def detach(self, volume: str, host: str) -> None:
        server = self._servers.pop(volume, None)
        if server is not None:
            server.terminate()
            await asyncio.to_thread(server.wait, 10.0)

    async def renew(self, volume: str) -> None:
        """Nothing grows here."""

    def held(self) -> set[str]:
        return set(self._servers)


def spawn(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_disks(folder: Path, image: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, args in {"vol-1": ["-F", "qcow2", "-b", image], "vol-2": []}.items():
        size = [] if args else ["64M"]
        target = str(folder / f"{name}.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *args, target, *size], check=True)


def kill_libvirtd() -> None:
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # others end meanwhile
            if folder.name.isdigit() and (folder / "comm").read_text().strip() == "libvirtd":
                os.kill(int(folder.name), signal.SIGKILL)


async def eventually(look: Callable[[], object], limit_s: float) -> object:
    async with asyncio.timeout(limit_s):
        while True:
            found = look()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.05)


@asynccontextmanager
async def step(name: str) -> AsyncIterator[None]:
    began = time.monotonic()
    yield
    sys.stdout.write(json.dumps({"step": name, "seconds": round(time.monotonic() - began, 2)}) + "\n")
    sys.stdout.flush()


class Rig:
    def __init__(self, image: Path, key: Path, memory_mib: int, folder: Path) -> None:
        self.config = configuration.load()
        self.image = image
        self.key = key
        self.memory_mib = memory_mib
        self.folder = folder
        self.volumes = NbdVolumes(folder)
        self.port_id = str(uuid.uuid4())
        self.tasks: list[asyncio.Task[None]] = []

    async def records(self, store: EtcdStore) -> None:
        now, host = now_utc(), self.config.host
        cidr = "10.9.1.0/24"
        ip = next(iter(addresses.usable(cidr)))
        make = {"account": ACCOUNT, "created": now}
        rows = [
            Vpc(id="vpc-c0de", cidr="10.9.0.0/16", route_table="rt", router="vr", ext_ip="100.64.0.20", **make),
            VSwitch(id="vsw-c0de", vpc="vpc-c0de", zone="cn-local-a", cidr=cidr, **make),
            SecurityGroup(id="sg-c0de", vpc="vpc-c0de", rules=(SSH,), **make),
            Port(
                id=self.port_id, eni="eni-c0de", vpc="vpc-c0de", vswitch="vsw-c0de", mac=addresses.guest_mac(ip), ip=ip,
                security_groups=("sg-c0de",), instance=ID, hostname="rig", host=host, **make,
            ),
            KeyPair(
                id=f"{ACCOUNT}:lab", name="lab", fingerprint="",
                public_key=self.key.with_suffix(".pub").read_text(), **make,
            ),
            disk("d-00000000000c0de1", "system", "vol-1", **make),
            Instance(
                id=ID, name="rig", hostname="rig", zone="cn-local-a", instance_type="ecs.yt1.nano", cpu=1,
                memory_mib=self.memory_mib, image="m-1", host=host, vpc="vpc-c0de", vswitch="vsw-c0de", key_pair="lab",
                port=self.port_id, security_groups=("sg-c0de",), system_disk="d-00000000000c0de1",
                disks=("d-00000000000c0de1",), user_data=base64.b64encode(USER_DATA.encode()).decode(), **make,
            ),
        ]  # fmt: skip
        for row in rows:
            await store.put(row)

    async def start_agent(self, store: EtcdStore) -> None:
        hypervisor = LibvirtHypervisor()
        agent = Agent(store, hypervisor, self.volumes, self.config, "tcg")
        self.tasks = [
            asyncio.create_task(agent.run()),
            asyncio.create_task(local.run(store, self.config)),
            asyncio.create_task(syncer.run(store, self.config)),
            asyncio.create_task(Service(self.config, store).run()),
        ]

    async def stop_agent(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def log_text(self) -> str:
        return console.tail(console.log_path(self.config.log_dir, ID), 1 << 20).decode(errors="replace")

    def boots(self) -> int:
        return self.log_text().count(f"YUNTAI-BOOT-OK {ID}")

    async def booted(self, times: int) -> None:
        try:
            await eventually(lambda: self.boots() >= times, BOOT_TIMEOUT_S)
        except TimeoutError:
            sys.stdout.write(self.log_text()[-3000:])
            raise

    async def ssh(self, command: str) -> str:
        ip = next(iter(addresses.usable("10.9.1.0/24")))
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10"]
        args = ["ip", "netns", "exec", "vsw-vsw-c0de", "ssh", *options, "-i", str(self.key), f"root@{ip}", command]
        done = await asyncio.to_thread(subprocess.run, args, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout


def disk(disk_id: str, kind: str, volume: str, **more: str) -> Disk:
    return Disk(id=disk_id, kind=kind, volume=volume, instance=ID, zone="cn-local-a", size_gib=1, **more)  # type: ignore[arg-type]


async def observed(
    store: EtcdStore, want: Callable[[ObservedInstance], bool], limit_s: float = 90.0
) -> ObservedInstance:
    async def look() -> ObservedInstance | None:
        found = await store.get(ObservedInstance, ID)
        return found.value if found is not None and want(found.value) else None

    found = await eventually(look, limit_s)
    assert isinstance(found, ObservedInstance)
    return found


async def change(store: EtcdStore, **changes: object) -> None:
    await store.update(Instance, ID, lambda old: replace(old, **changes))


def guest_pid() -> int:
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and f"guest={ID}".encode() in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError("no QEMU process of the instance")


async def scenario(rig: Rig, store: EtcdStore) -> None:
    async with step("start"):
        await rig.start_agent(store)
        await observed(store, lambda one: one.state == "running")
    async with step("boot"):
        await rig.booted(1)
    assert "USER-DATA-RAN" in rig.log_text()
    async with step("ssh"):
        assert (await rig.ssh("hostname")).strip() == "rig"
        await rig.ssh("echo kept > /root/kept; sync")

    async with step("agent restarted"):
        pid = guest_pid()
        await rig.stop_agent()
        await rig.start_agent(store)
        await asyncio.sleep(2.0)
        assert guest_pid() == pid
    async with step("libvirtd killed, guest adopted"):
        kill_libvirtd()
        await asyncio.sleep(3.0)
        assert guest_pid() == pid
        assert (await observed(store, lambda one: one.state == "running")).boot_seq == 1

    async with step("disk plugged"):
        await store.put(disk("d-00000000000c0de2", "data", "vol-2", account=ACCOUNT, created=now_utc()))
        await change(store, disks=("d-00000000000c0de1", "d-00000000000c0de2"))
        await observed(store, lambda one: "d-00000000000c0de2" in one.attached)
    async with step("disk seen, written, read"):
        assert "vdb" in await rig.ssh("for i in $(seq 30); do test -b /dev/vdb && break; sleep 1; done; ls /dev")
        assert (await rig.ssh("cat /sys/block/vdb/serial")).strip() == "d-00000000000c0de2"
        await rig.ssh("echo hello | dd of=/dev/vdb bs=512 conv=sync,fsync count=1 2>/dev/null")
        assert (await rig.ssh("dd if=/dev/vdb bs=5 count=1 2>/dev/null")) == "hello"
    async with step("disk unplugged"):
        await change(store, disks=("d-00000000000c0de1",))
        await observed(store, lambda one: "d-00000000000c0de2" not in one.attached)
        assert rig.volumes.held() == {"vol-1"}

    async with step("guest killed, back by itself"):
        os.kill(guest_pid(), signal.SIGKILL)
        await observed(store, lambda one: one.state == "crashed")
        await observed(store, lambda one: one.state == "running" and one.boot_seq == 2)
    async with step("booted again"):
        await rig.booted(2)
        assert (await rig.ssh("cat /root/kept")).strip() == "kept"
    async with step("reboot"):
        await change(store, reboot_seq=1)
        await observed(store, lambda one: one.reboot_seq == 1)
        await rig.booted(3)
        assert (await observed(store, lambda one: one.state == "running")).boot_seq == 2
    async with step("stop"):
        await change(store, desired="stopped")
        await observed(store, lambda one: one.state == "stopped")
        assert rig.volumes.held() == set()
    async with step("start again"):
        await change(store, desired="running")
        await rig.booted(4)
    async with step("shut down from inside"):
        await rig.ssh("(sleep 1; poweroff) >/dev/null 2>&1 &")
        await observed(store, lambda one: one.state == "stopped")
    async with step("delete"):
        await change(store, desired="deleted")
        await observed(store, lambda one: one.state == "absent")
        assert rig.volumes.held() == set()
        assert not console.log_path(rig.config.log_dir, ID).exists()
        await store.delete(Instance, ID)
        await store.delete(Port, rig.port_id)


async def main(image: str, key: str, memory_mib: str) -> None:
    log.setup("rig")
    folder = Path(configuration.load().data_dir) / "rig"
    make_disks(folder, image)
    rig = Rig(Path(image), Path(key), int(memory_mib), folder)
    async with EtcdStore(rig.config.etcd) as store:
        await rig.records(store)
        try:
            await scenario(rig, store)
        finally:
            await rig.stop_agent()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
