"""A whole block store of real programs on loopback in a temporary folder: etcd, chunk servers, gateway, masters.

Every process is known by its own process object and stopped through it; nothing is found or killed by name.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from tests.etcd_process import EtcdProcess
from tests.ports import free_port
from yuntai.config import ChunkServer, Config, Tls, encode
from yuntai.pangu.client import RETRY_FOR_S, PanguClient
from yuntai.pangu.register import register
from yuntai.state import EtcdStore
from yuntai.tls import client_context, issue, make_authority

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("YUNTAI_PROGRAMS") or ROOT / "target" / "release")
CHUNKSERVER = PROGRAMS / "yuntai-chunkserver"
GATEWAY = PROGRAMS / "yuntai-gateway"
MIB = 1 << 20
GIB = 1 << 30
WITHIN_S = 120
"""No promise: how long what must come may take on a machine that is several times slower than a laptop."""


class PanguCluster:
    """Chunk servers (three in three racks, if not told otherwise), one gateway (host ``h1``), two masters.

    ``certified``: all of them with certificates, each host with its own.
    """

    def __init__(
        self, folder: Path, racks: tuple[str, ...] = ("rack-1", "rack-2", "rack-3"), *, certified: bool = False
    ) -> None:
        self.folder = folder
        self.certified = certified
        # A unix socket's path ends at 107 bytes, and the folders of pytest's workers are long.
        self._run_dir = TemporaryDirectory(prefix="yuntai-", ignore_cleanup_errors=True)
        run_dir = Path(self._run_dir.name)
        self.etcd = EtcdProcess(folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = [free_port() for _ in range(3 + len(racks))]
        self.config = Config(
            cluster="test",
            host="h1",
            address="127.0.0.1",
            etcd=[self.etcd.endpoint],
            data_dir=str(folder / "data"),
            run_dir=str(run_dir),
            log_dir=str(folder / "log"),
            secrets_dir=str(folder / "secrets"),
            master_port=ports[0],
            gateway_port=ports[1],
            chunkservers=[
                ChunkServer(id=n, rack=rack, port=ports[2 + n], path=str(folder / "chunks" / str(n)))
                for n, rack in enumerate(racks, 1)
            ],
        )
        # The standby differs in its name and port only.
        self.standby = msgspec.structs.replace(
            self.config, host="h2", master_port=ports[2], gateway_port=free_port(), chunkservers=[]
        )
        self.client: PanguClient

    async def start(self) -> None:
        disks = [f"chunks/{server.id}" for server in self.config.chunkservers]
        for name in ("data", "log", "secrets", *disks):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        (Path(self.config.run_dir) / "nbd").mkdir(mode=0o700)
        for name in ("cluster", "token"):
            path = self.folder / "secrets" / name
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        if self.certified:
            self._certify()
        (self.folder / "h1.json").write_bytes(encode(self.config))
        (self.folder / "h2.json").write_bytes(encode(self.standby))
        await asyncio.to_thread(self.etcd.start)
        for server in self.config.chunkservers:
            self.start_chunkserver(server.id)
        self.start_gateway()
        self.start_master("h1")
        self.start_master("h2")
        self.client = self.talking_to(self.config, self.standby)
        await eventually(self._up, "the chunk servers, a gateway and two masters are up")

    def _certify(self) -> None:
        authority = self.folder / "authority"
        make_authority(authority)
        made = {host: issue(authority, host) for host in ("h1", "h2")}
        files = {host: Tls(cert=str(c), key=str(k), ca=str(authority / "ca.pem")) for host, (c, k) in made.items()}
        self.config = msgspec.structs.replace(self.config, tls=files["h1"])
        self.standby = msgspec.structs.replace(self.standby, tls=files["h2"])

    def talking_to(self, *configs: Config, retry_for_s: float = RETRY_FOR_S) -> PanguClient:
        """A client of these masters, with the first one's certificate if they have any."""
        tls = configs[0].tls
        urls = [f"{'https' if tls else 'http'}://127.0.0.1:{config.master_port}" for config in configs]
        context = client_context(tls) if tls else None
        return PanguClient(urls, self.config.secret("cluster"), retry_for_s=retry_for_s, context=context)

    async def _up(self) -> bool:
        if len(await self.roles()) != 2:
            return False
        servers = await self.client.chunkservers()
        gateways = await self.client.gateways()
        up = [g for g in gateways if g["id"] == "h1" and g["state"] == "up"]
        return (
            len(servers) == len(self.config.chunkservers)
            and all(s.state == "up" and s.total_bytes and s.store and s.admitted for s in servers)
            and bool(up)
        )

    def start_chunkserver(self, number: int) -> None:
        server = self.config.chunkservers[number - 1]
        secret = self.folder / "secrets"
        settings = {
            "server": number,
            "path": server.path,
            "listen": f"127.0.0.1:{server.port}",
            "cluster_secret_file": str(secret / "cluster"),
            "token_secret_file": str(secret / "token"),
            "allow_any_address": False,
            "admitted": False,
            **self._tls(self.config),
        }
        self._start(f"cs-{number}", CHUNKSERVER, self._settings(f"cs-{number}", settings))

    async def add_chunkserver(self, number: int, rack: str) -> None:
        """Start and register one more, as the start of another host does."""
        disk = self.folder / "chunks" / str(number)
        server = ChunkServer(id=number, rack=rack, port=free_port(), path=str(disk))
        disk.mkdir(mode=0o700)
        self.config = msgspec.structs.replace(self.config, chunkservers=[*self.config.chunkservers, server])
        self.start_chunkserver(number)
        async with EtcdStore(self.config.etcd) as store:
            await register(store, self.config)

    def start_gateway(self) -> None:
        self._start_gateway("gateway", self.config, Path(self.config.run_dir) / "nbd")

    async def add_gateway(self) -> None:
        """Start the gateway of the other host, ``h2``, and wait until the master has it."""
        nbd = Path(self.config.run_dir) / "nbd-h2"
        nbd.mkdir(mode=0o700, exist_ok=True)
        self._start_gateway("gateway-h2", self.standby, nbd)

        async def up() -> bool:
            return {g["id"] for g in await self.client.gateways() if g["state"] == "up"} >= {"h2"}

        await eventually(up, "the gateway of h2 is up")

    def _start_gateway(self, name: str, config: Config, nbd: Path) -> None:
        settings = {
            "host": config.host,
            "listen": f"127.0.0.1:{config.gateway_port}",
            "nbd_dir": str(nbd),
            "cluster_secret_file": str(self.folder / "secrets" / "cluster"),
            **self._tls(config),
        }
        self._start(name, GATEWAY, self._settings(name, settings))

    @staticmethod
    def _tls(config: Config) -> dict[str, Any]:
        return {"tls": msgspec.to_builtins(config.tls)} if config.tls else {}

    def _settings(self, name: str, settings: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.json"
        path.write_bytes(msgspec.json.encode(settings))
        return path

    def start_master(self, host: str) -> None:
        self._start(f"master-{host}", sys.executable, "-m", "yuntai.pangu", config=self.folder / f"{host}.json")

    def _start(self, name: str, *command: Any, config: Path | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if config is not None:
            environment["YUNTAI_CONFIG"] = str(config)
        with (self.folder / "log" / f"{name}.log").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [str(part) for part in command], stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment
            )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(timeout=20)

    async def roles(self) -> dict[str, str]:
        """Host → "leader" or "standby", of the masters that run; raises while one does not answer yet."""
        found = {}
        for host, config in (("h1", self.config), ("h2", self.standby)):
            if f"master-{host}" in self.processes:
                async with self.talking_to(config, retry_for_s=0.0) as one:
                    found[host] = str((await one.health())["role"])
        return found

    async def leading(self) -> str:
        """The host whose master leads."""

        async def leaders() -> list[str]:
            return [host for host, role in (await self.roles()).items() if role == "leader"]

        (leader,) = await eventually(leaders, "one master leads")
        return str(leader)

    async def stop(self) -> None:
        if hasattr(self, "client"):
            await self.client.close()
        for name in list(self.processes):
            process = self.processes.pop(name)
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(timeout=20)
        self.etcd.stop()
        self._run_dir.cleanup()

    def logs(self, lines: int = 25) -> str:
        """The ends of all logs, for a failure's report."""
        parts = []
        for path in sorted((self.folder / "log").glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)


async def eventually(check: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Ask until it is true; fail with ``what`` after :data:`WITHIN_S`."""
    deadline = time.monotonic() + WITHIN_S
    last: BaseException | None = None
    while time.monotonic() < deadline:
        try:
            if found := await check():
                return found
        except Exception as error:  # noqa: BLE001 — kept for the report
            last = error
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {WITHIN_S} s: {what} (last error: {last!r})")


async def qemu_io(uri: str, *commands: str, within_s: float = 60.0, read_only: bool = False) -> float:
    """Run qemu-io commands on an NBD export; return the seconds it took. A wrong pattern or an error fails."""
    arguments = [part for command in commands for part in ("-c", command)]
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *("qemu-io", "-f", "raw", *(["-r"] if read_only else []), *arguments, uri),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(within_s):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"qemu-io {commands} did not end within {within_s} s") from None
    text = out.decode(errors="replace")
    assert process.returncode == 0, f"qemu-io {commands}: {text}"
    assert "verification failed" not in text, f"qemu-io {commands}: {text}"
    assert "error" not in text.lower(), f"qemu-io {commands}: {text}"
    return time.monotonic() - began


async def fio_verify(uri: str, seconds: int, size_mib: int = 64) -> None:
    """Write at random for a while and read back what was written, with checksums; a wrong one fails."""
    process = await asyncio.create_subprocess_exec(
        *("fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k-64k", "--iodepth=4"),
        *("--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", f"--size={size_mib}M", "--time_based"),
        *(f"--runtime={seconds}", "--rate=4m", "--verify_state_save=0", "--output-format=terse"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds + 40):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError("fio did not end") from None
    assert process.returncode == 0, out.decode(errors="replace")


def disk_bytes(folder: Path) -> int:
    """Bytes that a folder's files occupy on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
