"""``fio --verify`` on a volume, behind QEMU's own NBD client, which connects again as it does under a guest."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.thrash.net import start_logged
from tests.thrash.register import Violation

RECONNECT_DELAY_S = 300
SIZE = "24m"
END_S = 120


class Fio:
    """One job after another; each writes at random, then reads everything and compares."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say
        self.rounds = 0
        self._socket = folder / "fio.sock"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._stopping = False

    async def start(self, socket: Path, export: str) -> None:
        node = {
            "driver": "nbd",
            "node-name": "disk",
            "server": {"type": "unix", "path": str(socket)},
            "export": export,
            "reconnect-delay": RECONNECT_DELAY_S,
        }
        exported = {"type": "nbd", "id": "out", "node-name": "disk", "name": "disk", "writable": True}
        command = [
            *("qemu-storage-daemon", "--blockdev", json.dumps(node), "--nbd-server"),
            *(f"addr.type=unix,addr.path={self._socket}", "--export", json.dumps(exported)),
        ]
        self._daemon = start_logged(command, self.folder / "log" / "fio-disk.log")
        for _ in range(100):
            if self._socket.exists():
                return
            await asyncio.sleep(0.1)
        raise AssertionError("qemu-storage-daemon does not listen")

    async def run(self) -> None:
        """Write and compare until :meth:`finish`; raise what does not compare."""
        while not self._stopping:
            await self._round()
            self.rounds += 1

    async def _round(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *("fio", "--name=verify", "--ioengine=nbd", f"--uri=nbd+unix:///disk?socket={self._socket}"),
            *("--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=0", "--iodepth=8", f"--size={SIZE}"),
            *("--verify=crc32c", "--verify_fatal=1", "--fsync=100", "--rate=6m", "--randrepeat=0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
        )
        try:
            out, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise Violation(f"fio: exit {process.returncode}\n{out.decode(errors='replace')[-3000:]}")

    def finish(self) -> None:
        """Begin no more."""
        self._stopping = True

    async def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(timeout=10)
