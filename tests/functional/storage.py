"""Three chunk servers and a gateway on loopback in a temporary folder, and a master of one page that acts for them.

Every process is known by its own process object and stopped through it; nothing is found or killed by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.ports import free_port
from yuntai import _native
from yuntai.config import Tls
from yuntai.pangu.wire import Channel, WireError, connect
from yuntai.tls import client_context

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("YUNTAI_PROGRAMS") or ROOT / "target" / "release")
CHUNKSERVER = PROGRAMS / "yuntai-chunkserver"
GATEWAY = PROGRAMS / "yuntai-gateway"
MIB = 1 << 20
CHUNK_BYTES = 64 * MIB
SERVERS = (1, 2, 3)


class Volume:
    """What a master's record of a volume holds."""

    def __init__(self, number: int, size_bytes: int) -> None:
        self.number = number
        self.size_bytes = size_bytes
        self.generation = 0
        self.parents = [0, 0]
        self.head = 1
        self.stale: set[int] = set()
        self.sources: list[dict[str, Any]] = []
        self.hydrated_chunks = 0
        self.history: list[str] = []

    @property
    def chunks(self) -> int:
        return -(-self.size_bytes // CHUNK_BYTES)

    @property
    def export(self) -> str:
        return f"vol-{self.number:016x}"


class Storage:
    """The programs and the master."""

    def __init__(self, folder: Path, programs: Path = PROGRAMS, **gateway: Any) -> None:
        self.folder = folder
        self.programs = programs
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {number: free_port() for number in SERVERS}
        self.gateway_port = free_port()
        self.gateway_settings = gateway
        self.secret = secrets.token_bytes(32)
        self.token_secret = secrets.token_bytes(32)
        self.tls: Tls | None = None
        """Set before the start: every connection between processes is encrypted."""
        self.volumes: dict[int, Volume] = {}
        self.channel: Channel
        self._events: asyncio.Task[None] | None = None
        self.refuse_degrade = False

    # -- processes -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        for name, value in (("cluster", self.secret), ("token", self.token_secret)):
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(value.hex())
        for number in SERVERS:
            self.start_server(number)
        await self.start_gateway()

    def start_server(self, number: int) -> None:
        config = {
            "server": number,
            "path": str(self.folder / f"chunks-{number}"),
            "listen": f"127.0.0.1:{self.ports[number]}",
            "cluster_secret_file": str(self.folder / "cluster"),
            "token_secret_file": str(self.folder / "token"),
        }
        self._start(f"cs-{number}", self.programs / CHUNKSERVER.name, config)

    async def start_gateway(self) -> None:
        config = {
            "host": "h1",
            "listen": f"127.0.0.1:{self.gateway_port}",
            "nbd_dir": str(self.folder / "nbd"),
            "cluster_secret_file": str(self.folder / "cluster"),
            **self.gateway_settings,
        }
        self._start("gateway", self.programs / GATEWAY.name, config)
        await self.dial()

    def _start(self, name: str, program: Path, config: dict[str, Any]) -> None:
        if self.tls is not None:
            config = {**config, "tls": msgspec.to_builtins(self.tls)}
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(config))
        with (self.folder / f"{name}.log").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [program, path], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder
            )

    def send(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        process = self.processes.pop(name)
        process.send_signal(how)
        return process.wait(timeout=20)

    async def stop(self, *, gently: bool = True) -> None:
        """End all of it; not ``gently``: at once, where nobody looks at what is left on the disks."""
        if self._events is not None:
            self._events.cancel()
            await asyncio.gather(self._events, return_exceptions=True)
            await self.channel.close()
        if not gently:
            for process in self.processes.values():
                process.kill()
        # The gateway first: one that is told to stop flushes to its servers, and waits for those that are gone. Then
        # the servers together: each of them may have much to write before it ends.
        gateway = [self.processes[name] for name in self.processes if name == "gateway"]
        servers = [self.processes[name] for name in self.processes if name != "gateway"]
        for together in (gateway, servers):
            for process in together:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            for process in together:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(timeout=10)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    # -- the master ----------------------------------------------------------------------------------------------

    async def dial(self, name: str = "master:test") -> None:
        """Connect to the gateway and answer its events from now on."""
        if self._events is not None:
            self._events.cancel()
            await asyncio.gather(self._events, return_exceptions=True)
            await self.channel.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                context = client_context(self.tls) if self.tls else None
                self.channel = await connect(f"127.0.0.1:{self.gateway_port}", self.secret, name, context=context)
                break
            except WireError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        self._events = asyncio.create_task(self._answer_events(self.channel))

    async def _answer_events(self, channel: Channel) -> None:
        with contextlib.suppress(WireError):
            while True:
                number, event = await channel.next_event()
                await channel.answer(number, self.decide(event))

    def decide(self, event: dict[str, Any]) -> dict[str, Any]:
        volume = self.volumes[event["volume"]]
        what = f"{event['op']} {event.get('server', event.get('chunks', ''))}".strip()
        volume.history.append(what)
        if event["generation"] < volume.generation:
            return {"answer": "fenced"}
        match event["op"]:
            case "degrade":
                if self.refuse_degrade or len(volume.stale | {event["server"]}) > 1:
                    return {"answer": "refused", "reason": "two must stay in sync"}
                volume.stale.add(event["server"])
            case "readmit":
                volume.stale.discard(event["server"])
            case "hydrated":
                volume.hydrated_chunks = event["chunks"]
                return {"answer": "ok"}
            case _:
                return {"answer": "ok"}
        return {"answer": "stale", "stale": sorted(volume.stale)}

    def create(self, size_bytes: int, source: tuple[Volume, int] | None = None) -> Volume:
        volume = Volume(secrets.randbits(63) | 1, size_bytes)
        if source is not None:
            origin, layer = source
            volume.sources = [
                {
                    "volume": origin.number,
                    "layer": layer,
                    "parents": origin.parents,
                    "token": self.token(origin, 0),
                    "size_bytes": origin.size_bytes,
                    "placement": self.placement(origin),
                    "servers": self.addresses(),
                },
                *origin.sources,
            ]
        self.volumes[volume.number] = volume
        return volume

    def token(self, volume: Volume, generation: int) -> str:
        return _native.sign_token(self.token_secret, volume.number, generation, int(time.time()) + 3600)

    def addresses(self) -> dict[str, str]:
        return {str(number): f"127.0.0.1:{port}" for number, port in self.ports.items()}

    def placement(self, volume: Volume) -> list[list[int]]:
        return [[(chunk + step) % 3 + 1 for step in range(3)] for chunk in range(volume.chunks)]

    def open_request(self, volume: Volume, **changes: Any) -> dict[str, Any]:
        return {
            "op": "open",
            "volume": volume.number,
            "generation": volume.generation,
            "token": self.token(volume, volume.generation),
            "read_token": self.token(volume, 0),
            "size_bytes": volume.size_bytes,
            "read_only": False,
            "parents": volume.parents,
            "head": volume.head,
            "placement": self.placement(volume),
            "servers": self.addresses(),
            "stale": sorted(volume.stale),
            "sources": volume.sources,
            "hydrated_chunks": volume.hydrated_chunks,
            "export": volume.export,
            "prefer": [],
            **changes,
        }

    async def open(self, volume: Volume, timeout_s: float = 60.0, **changes: Any) -> str:
        """Grant the next generation, open, and return the NBD URI."""
        volume.generation += 1
        opened = await self.channel.call(self.open_request(volume, **changes), timeout_s)
        return uri(opened["socket"], volume.export)

    async def close(self, volume: Volume) -> Any:
        request = {"op": "close", "volume": volume.number, "generation": volume.generation}
        return await self.channel.call(request)

    async def snapshot(self, volume: Volume) -> tuple[int, dict[str, Any]]:
        """Freeze the head; return the frozen layer and what the gateway said."""
        frozen, head = volume.head, len(volume.parents)
        volume.parents = [*volume.parents, frozen]
        volume.head = head
        request = {
            "op": "snapshot",
            "volume": volume.number,
            "generation": volume.generation,
            "parents": volume.parents,
            "head": head,
        }
        return frozen, await self.channel.call(request)

    async def stats(self, volume: Volume) -> dict[str, Any]:
        status = await self.channel.call({"op": "status"})
        return next(one for one in status["volumes"] if one["volume"] == volume.number)

    async def in_sync(self, volume: Volume, timeout_s: float = 60.0) -> None:
        """Wait until every server is back in the in-sync set."""
        deadline = time.monotonic() + timeout_s
        while True:
            servers = (await self.stats(volume))["servers"]
            if not volume.stale and all(one["in_sync"] and not one["behind_chunks"] for one in servers.values()):
                return
            assert time.monotonic() < deadline, f"not in sync again: {servers}, {volume.history}"
            await asyncio.sleep(0.1)

    async def replicas_are_equal(self, volume: Volume, servers: Sequence[int]) -> None:
        """Read a closed volume once from each of these servers, and compare byte by byte."""
        copies = []
        for number in servers:
            target = await self.open(volume, prefer=[number])
            copies.append(self.folder / f"copy-{number}")
            await run("nbdcopy", target, str(copies[-1]))
            await self.close(volume)
        for copy in copies[1:]:
            await run("cmp", str(copies[0]), str(copy))


def uri(socket: str, export: str) -> str:
    return f"nbd+unix:///{export}?socket={socket}"


async def run(*command: str, timeout_s: float = 300.0, ok: tuple[int, ...] = (0,)) -> str:
    """Run a program, return what it printed; fail with its output otherwise."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    text = out.decode(errors="replace")
    assert process.returncode in ok, f"{command}: exit {process.returncode}\n{text[-3000:]}"
    return text


async def qemu_io(target: str, *commands: str, timeout_s: float = 60.0) -> str:
    options = [part for command in commands for part in ("-c", command)]
    return await run("qemu-io", "-f", "raw", *options, target, timeout_s=timeout_s)
