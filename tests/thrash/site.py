"""A whole block store of real programs, each in a network namespace of its own, supervised as on a host."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.etcd_process import ensure_installed
from tests.thrash.net import Net, run, start_logged
from yuntai.config import Config, encode
from yuntai.model.cluster import ChunkServer
from yuntai.pangu.client import PanguClient
from yuntai.state import EtcdStore, StateError

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("YUNTAI_PROGRAMS") or ROOT / "target" / "release")
RACKS = {1: "r1", 2: "r1", 3: "r2", 4: "r3", 5: "r4"}
"""Chunk server → rack."""
DISK_MIB = 768
"""Each chunk server's disk: a file system in memory of its own, which can be filled without harm to anybody."""
HOSTS = ("h1", "h2")
ETCDS = ("e1", "e2", "e3")
RESTART_AFTER_S = 1.0
ETCD_CLIENT, ETCD_PEER, MASTER, GATEWAY, CHUNKSERVER = 2379, 2380, 7300, 7200, 7101
READS, SYNCS = 0, 1
"""Switches of ``faulty.c``."""


class Site:
    """Three etcds, two hosts with a master and a gateway each, five chunk servers in four racks."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.net = Net()
        self.say = say
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.held: set[str] = set()  # parts that are down on purpose
        self.deaths: list[str] = []  # parts that ended by themselves
        self.forgiven: set[str] = set()  # parts that may end by themselves now: their disk fails
        self._commands: dict[str, tuple[list[str], dict[str, str]]] = {}
        self._switches: dict[int, mmap.mmap] = {}
        self._supervisor: asyncio.Task[None] | None = None
        self._again: set[asyncio.Task[None]] = set()
        self._servers: dict[int, str] = {}
        self.configs: dict[str, Config] = {}
        self.client: PanguClient

    @property
    def servers(self) -> list[int]:
        return list(RACKS)

    def parts(self) -> list[str]:
        """Every process's name."""
        return list(self._commands)

    async def start(self) -> None:
        self.net.start()
        for name in ("data", "log", "secrets", "chunks", "faults"):
            (self.folder / name).mkdir(mode=0o700)
        for name in ("cluster", "token"):
            path = self.folder / "secrets" / name
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        run("gcc", "-O2", "-shared", "-fPIC", "-o", str(self.folder / "faulty.so"), str(ROOT / "tests/thrash/faulty.c"))
        self._plan_etcd()
        for host in HOSTS:
            self._plan_host(host)
        for number in RACKS:
            self._plan_server(number)
        for part in self.parts():
            self.launch(part)
        config = self.configs["h1"]
        urls = [f"http://{one.address}:{one.master_port}" for one in (self.configs[host] for host in HOSTS)]
        self.client = PanguClient(urls, config.secret("cluster"))
        await self._register()
        self._supervisor = asyncio.create_task(self._supervise())

    # -- what each part is ---------------------------------------------------------------------------------------

    def _plan_etcd(self) -> None:
        addresses = {name: self.net.add(name) for name in ETCDS}
        cluster = ",".join(f"{name}=http://{address}:{ETCD_PEER}" for name, address in addresses.items())
        self.etcd = [f"{address}:{ETCD_CLIENT}" for address in addresses.values()]
        for name, address in addresses.items():
            client, peer = f"http://{address}:{ETCD_CLIENT}", f"http://{address}:{ETCD_PEER}"
            command = [
                *(ensure_installed(), f"--name={name}", f"--data-dir={self.folder / 'data' / name}"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                *(f"--initial-cluster={cluster}", "--initial-cluster-token=thrash", "--log-level=warn"),
            ]
            self._plan(name, name, command)

    def _plan_host(self, host: str) -> None:
        config = Config(
            cluster="thrash",
            host=host,
            address=self.net.add(host),
            etcd=self.etcd,
            data_dir=str(self.folder / "data" / host),
            run_dir=str(self.folder / "run" / host),
            log_dir=str(self.folder / "log"),
            secrets_dir=str(self.folder / "secrets"),
            master_port=MASTER,
            gateway_port=GATEWAY,
        )
        self.configs[host] = config
        Path(config.run_dir, "nbd").mkdir(parents=True)
        path = self.folder / f"{host}.json"
        path.write_bytes(encode(config))
        environment = {"YUNTAI_CONFIG": str(path), "PYTHONPATH": str(ROOT)}
        self._plan(f"master-{host}", host, [sys.executable, "-m", "yuntai.pangu"], environment)
        settings = {
            "host": host,
            "listen": f"{config.address}:{GATEWAY}",
            "nbd_dir": f"{config.run_dir}/nbd",
            "cluster_secret_file": f"{config.secrets_dir}/cluster",
        }
        self._plan(
            f"gateway-{host}", host, [str(PROGRAMS / "yuntai-gateway"), self._settings(f"gateway-{host}", settings)]
        )

    def _plan_server(self, number: int) -> None:
        part = f"cs-{number}"
        address = self.net.add(part)
        store = self.disk(number)
        store.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(store))
        self._servers[number] = f"{address}:{CHUNKSERVER}"
        settings = {
            "server": number,
            "path": str(store),
            "listen": f"{address}:{CHUNKSERVER}",
            "cluster_secret_file": str(self.folder / "secrets" / "cluster"),
            "token_secret_file": str(self.folder / "secrets" / "token"),
            "journal_bytes_max": 128 << 20,
            "checkpoint_bytes": 16 << 20,
        }
        faults = self.folder / "faults" / part
        faults.write_bytes(bytes(4096))
        with faults.open("r+b") as file:
            self._switches[number] = mmap.mmap(file.fileno(), 4096)
        environment = {
            "LD_PRELOAD": str(self.folder / "faulty.so"),
            "THRASH_FAULTS": str(faults),
            "THRASH_ROOT": str(store),
        }
        command = [str(PROGRAMS / "yuntai-chunkserver"), self._settings(part, settings)]
        self._plan(part, part, command, environment)

    def _settings(self, name: str, settings: dict[str, object]) -> str:
        path = self.folder / f"{name}.json"
        path.write_bytes(msgspec.json.encode(settings))
        return str(path)

    def _plan(self, part: str, where: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        # The preloaded library is for the program alone, not for what starts it.
        extra = [f"{name}={value}" for name, value in (environment or {}).items()]
        self._commands[part] = ([*self.net.command(where), "env", *extra, *command], dict(os.environ))

    async def _register(self) -> None:
        """Register the chunk servers; the masters register their own hosts' gateways."""
        async with EtcdStore(self.etcd) as store:
            for number, address in self._servers.items():
                record = ChunkServer(
                    id=f"cs-{number}", number=number, rack=RACKS[number], host=f"s{number}", address=address
                )
                await self._put(store, record)

    @staticmethod
    async def _put(store: EtcdStore, record: ChunkServer) -> None:
        for _ in range(100):
            try:
                return await store.put(record)
            except StateError:
                await asyncio.sleep(0.2)
        raise AssertionError("etcd does not answer")

    # -- processes -----------------------------------------------------------------------------------------------

    def launch(self, part: str) -> None:
        """Start a part, unless it runs."""
        self.held.discard(part)
        if part in self.processes:
            return
        command, environment = self._commands[part]
        self.processes[part] = start_logged(command, self.folder / "log" / f"{part}.log", environment)

    def kill(self, part: str) -> None:
        """Kill a part with -9, and keep it down until :meth:`launch`."""
        self.held.add(part)
        process = self.processes.pop(part, None)
        if process is not None:
            process.kill()
            process.wait(timeout=20)

    def signal(self, part: str, number: signal.Signals) -> None:
        if part in self.processes:
            self.processes[part].send_signal(number)

    def disk_fails(self, number: int, which: int, chance: int) -> None:
        """Let a chunk server's reads or syncs fail from now on, with a chance of so many in 255."""
        self._switches[number][which] = chance

    def disk(self, number: int) -> Path:
        return self.folder / "chunks" / str(number)

    def wipe(self, number: int) -> None:
        """Put an empty disk in the place of a chunk server's."""
        run("umount", str(self.disk(number)))
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(self.disk(number)))

    def fill(self, number: int, leave_kib: int) -> None:
        """Fill a chunk server's disk but for so much."""
        store = self.disk(number)
        with (store / "filler").open("wb") as file:
            for _ in range(8):
                stat = os.statvfs(store)
                # The server goes on writing meanwhile, so this may come too late, and is tried again.
                with contextlib.suppress(OSError):
                    size = file.seek(0, os.SEEK_END) + stat.f_bavail * stat.f_frsize - leave_kib * 1024
                    os.posix_fallocate(file.fileno(), 0, max(size, 1))
                    return

    def empty(self, number: int) -> None:
        (self.disk(number) / "filler").unlink(missing_ok=True)

    def heal(self) -> None:
        """End every fault that is still there."""
        self.net.mend_all()
        for number, switches in self._switches.items():
            switches[READS] = switches[SYNCS] = 0
            self.forgiven.discard(f"cs-{number}")
            self.empty(number)
        for part in self.parts():
            if part in self.held:
                self.launch(part)
            self.signal(part, signal.SIGCONT)

    async def _supervise(self) -> None:
        """Start again what ended by itself, as the supervisor of a host does."""
        while True:
            await asyncio.sleep(0.1)
            for part, process in list(self.processes.items()):
                if process.poll() is None:
                    continue
                del self.processes[part]
                if part not in self.forgiven:
                    self.deaths.append(f"{part} ended by itself with {process.returncode}")
                self.say(f"{part} ended by itself with {process.returncode}")
                task = asyncio.create_task(self._later(part))
                self._again.add(task)
                task.add_done_callback(self._again.discard)

    async def _later(self, part: str) -> None:
        await asyncio.sleep(RESTART_AFTER_S)
        if part not in self.held and part not in self.processes:
            self.launch(part)

    async def leader(self) -> str:
        """Return the host whose master leads, or "" if none does."""
        for host in HOSTS:
            config = self.configs[host]
            url = f"http://{config.address}:{config.master_port}"
            try:
                async with asyncio.timeout(1), PanguClient([url], config.secret("cluster"), retry_for_s=0) as one:
                    if (await one.health())["role"] == "leader":
                        return host
            except Exception:  # noqa: BLE001 — it is down, cut off or hung
                continue
        return ""

    async def stop(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
        for task in self._again:
            task.cancel()
        if hasattr(self, "client"):
            await self.client.close()
        for part in list(self.processes):
            self.kill(part)

    def unmount(self) -> None:
        """Give the disks up, so that the folder can be removed."""
        for number in RACKS:
            subprocess.run(["umount", str(self.disk(number))], check=False, capture_output=True)

    def logs(self, lines: int = 15) -> str:
        """The ends of all logs, for a failure's report."""
        parts = []
        for path in sorted((self.folder / "log").glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(line[:400] for line in tail))
        return "\n".join(parts)
