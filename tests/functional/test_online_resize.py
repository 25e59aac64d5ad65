"""A disk grows under a running QEMU: the gateway lets it go, it comes back, and the device shows the new size."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.functional.pangu_cluster import CHUNKSERVER, GATEWAY, MIB, PanguCluster
from tests.thrash.nbd import Lost, Nbd
from yuntai.compute import online_resize
from yuntai.compute.driver import HypervisorError

pytestmark = [
    pytest.mark.functional,
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        not (CHUNKSERVER.exists() and GATEWAY.exists()),
        reason="the programs are not built; run: make test",
    ),
]


class Monitor:
    """QEMU with one disk and a halted processor, and its monitor."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: Any) -> None:
        self.process, self.reader, self.writer = process, reader, writer
        self.loop = asyncio.get_running_loop()

    @classmethod
    async def start(cls, folder: Path, socket: str, export: str) -> Monitor:
        path = folder / "qmp.sock"
        server = {"type": "unix", "path": socket}
        node = {
            "driver": "nbd", "node-name": "libvirt-1-storage", "server": server, "export": export,
            "reconnect-delay": 60, "discard": "unmap", "cache": {"direct": True, "no-flush": False},
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *("qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-machine", "q35", "-m", "64"),
            *("-qmp", f"unix:{path},server=on,wait=off", "-blockdev", json.dumps(node)),
            *("-device", f"virtio-blk-pci,drive=libvirt-1-storage,id=virtio-disk0,serial={export}"),
        )
        for _ in range(200):
            if path.exists():
                break
            await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_unix_connection(path)
        made = cls(process, reader, writer)
        await reader.readline()
        await made.ask("qmp_capabilities", {})
        return made

    async def ask(self, name: str, arguments: dict[str, Any]) -> Any:
        self.writer.write(json.dumps({"execute": name, "arguments": arguments}).encode())
        while True:
            answer = json.loads(await self.reader.readline())
            if "error" in answer:
                raise HypervisorError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def qmp(self, name: str, arguments: dict[str, Any]) -> Any:
        """Ask from another thread, as the driver does."""
        return asyncio.run_coroutine_threadsafe(self.ask(name, arguments), self.loop).result(timeout=30)

    async def stop(self) -> None:
        self.writer.close()
        self.process.kill()
        await self.process.wait()


async def test_a_running_guest_sees_a_grown_disk(cluster: PanguCluster, tmp_path: Path) -> None:
    client = cluster.client
    volume = await client.create_volume(128 * MIB)
    attached = await client.attach(volume.id, "h1")
    other = await Nbd.connect(Path(attached.socket), volume.id)
    monitor = await Monitor.start(tmp_path, attached.socket, volume.id)
    try:
        entry = await asyncio.to_thread(online_resize.find, monitor.qmp, volume.id)
        assert online_resize.size_of(entry) == 128 * MIB
        await client.resize(volume.id, 320 * MIB)
        with pytest.raises(HypervisorError, match="Cannot grow NBD nodes"):
            await asyncio.to_thread(online_resize.grow, monitor.qmp, volume.id, 320 * MIB)
        # What is under way when the clients are let go is answered first.
        writes = [asyncio.create_task(other.write(index << 20, b"x" * 65536)) for index in range(64)]
        await asyncio.sleep(0)
        await client.renew(volume.id)
        done = await asyncio.gather(*writes, return_exceptions=True)
        assert not any(isinstance(one, BaseException) and not isinstance(one, Lost) for one in done)
        await asyncio.wait_for(other.lost.wait(), 10)
        await asyncio.to_thread(online_resize.grow, monitor.qmp, volume.id, 320 * MIB)
        entry = await asyncio.to_thread(online_resize.find, monitor.qmp, volume.id)
        assert online_resize.size_of(entry) == 320 * MIB
        await asyncio.to_thread(online_resize.grow, monitor.qmp, volume.id, 320 * MIB)
        line = {"command-line": f'qemu-io -d {entry["qdev"]} "write -P 9 319M 64k"'}
        await monitor.ask("human-monitor-command", line)
        reader = await Nbd.connect(Path(attached.socket), volume.id)
        assert await reader.read(319 << 20, 65536) == b"\x09" * 65536
        await reader.close()
        with pytest.raises(HypervisorError, match="no disk that shows"):
            await asyncio.to_thread(online_resize.find, monitor.qmp, "vol-other")
    finally:
        await monitor.stop()
