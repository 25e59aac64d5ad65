"""The service of one host: a listener in each vSwitch's namespace, and whose address a request comes from."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from yuntai import log
from yuntai.metadata import http, netns
from yuntai.metadata.answers import Answer, Answers, Asked, refuse
from yuntai.metadata.limits import Limits
from yuntai.metadata.tokens import Tokens
from yuntai.metadata.tree import Subject
from yuntai.model.compute import Disk, Instance, KeyPair
from yuntai.model.network import Port, Vpc, VSwitch
from yuntai.network import names
from yuntai.network.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yuntai.config import Config
    from yuntai.state import Store

R = TypeVar("R")

CHECK_S = 2.0
_LOG = log.get("metadata.service")


class Directory:
    """Finds the instance behind a vSwitch and an address. The index is rebuilt when records changed."""

    def __init__(self, cache: Cache, region: str) -> None:
        self._cache = cache
        self._region = region
        self._ports: dict[tuple[str, str], Port] = {}
        self._by_id: dict[type, dict[str, object]] = {}

    def refresh(self) -> None:
        """Read the cache anew."""
        self._ports = {(port.vswitch, port.ip): port for port in self._cache.all(Port)}
        for kind in (Instance, VSwitch, Vpc, KeyPair, Disk):
            self._by_id[kind] = {record.id: record for record in self._cache.all(kind)}

    def subject(self, vswitch_id: str, address: str) -> Subject | None:
        """Return who has the address in the vSwitch, or ``None`` if nobody has that runs as an instance."""
        port = self._ports.get((vswitch_id, address))
        if port is None:
            return None
        instance, vswitch = self._get(Instance, port.instance), self._get(VSwitch, port.vswitch)
        if instance is None or vswitch is None:
            return None
        key_id = f"{instance.account}:{instance.key_pair}" if instance.key_pair else ""
        disks = tuple(disk for disk in (self._get(Disk, name) for name in instance.disks) if disk is not None)
        return Subject(
            instance=instance,
            port=port,
            vswitch=vswitch,
            vpc=self._get(Vpc, port.vpc),
            key_pair=self._get(KeyPair, key_id),
            disks=disks,
            region=self._region,
        )

    def wanted(self, host: str) -> set[str]:
        """Return the vSwitches that have a port on the host."""
        return {port.vswitch for port in self._cache.all(Port) if host in {port.host, port.destination}}

    def _get(self, kind: type[R], record_id: str) -> R | None:
        found = self._by_id.get(kind, {}).get(record_id)
        return found if isinstance(found, kind) else None


@dataclass(frozen=True, slots=True)
class _Listener:
    inode: int
    server: asyncio.Server


class Service:
    """Keeps the listeners in step with the namespaces that the network part makes."""

    def __init__(
        self, config: Config, store: Store, path_of: Callable[[str], Path] = names.netns_path, port: int = netns.PORT
    ) -> None:
        self._config = config
        self._store = store
        self._path_of = path_of
        self._port = port
        self._cache = Cache(Port, VSwitch, Vpc, Instance, KeyPair, Disk)
        self._directory = Directory(self._cache, config.region)
        self._answers = Answers(Tokens(config.secret("cluster")))
        self._listeners: dict[str, _Listener] = {}

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._cache.follow(self._store))
                await self._cache.ready()
                while True:
                    self._cache.changed.clear()
                    self._directory.refresh()
                    await self._sync()
                    try:
                        await asyncio.wait_for(self._cache.changed.wait(), CHECK_S)
                    except TimeoutError:
                        _LOG.debug("namespaces looked at by period")
        finally:
            for listener in self._listeners.values():
                listener.server.close()

    def respond(self, vswitch_id: str, source: str, asked: Asked) -> Answer:
        """Answer one request."""
        subject = self._directory.subject(vswitch_id, source)
        if subject is None:
            return refuse(404, f"no instance has the address {source} in this vSwitch")
        answer = self._answers.answer(asked, subject, time.time())
        _LOG.debug("answered", instance=subject.instance.id, path=asked.path, status=answer.status)
        return answer

    async def _sync(self) -> None:
        wanted = self._directory.wanted(self._config.host)
        for vswitch_id in [one for one in self._listeners if one not in wanted]:
            self._close(vswitch_id, "no ports of it are here any more")
        for vswitch_id in sorted(wanted):
            inode = _inode(self._path_of(vswitch_id))
            listener = self._listeners.get(vswitch_id)
            if listener is not None and listener.inode == inode:
                continue
            if listener is not None:
                self._close(vswitch_id, "its namespace was made anew" if inode else "its namespace is gone")
            if inode:
                await self._open(vswitch_id, inode)

    async def _open(self, vswitch_id: str, inode: int) -> None:
        def respond(source: str, asked: Asked) -> Answer:
            return self.respond(vswitch_id, source, asked)

        try:
            made = await netns.listen(self._path_of(vswitch_id), self._port)
            server = await http.serve(made, respond, Limits())
        except (OSError, TimeoutError) as error:
            _LOG.warning("not listening", vswitch=vswitch_id, error=str(error), again_s=CHECK_S)
            return
        self._listeners[vswitch_id] = _Listener(inode, server)
        _LOG.info("listening", vswitch=vswitch_id)

    def _close(self, vswitch_id: str, why: str) -> None:
        self._listeners.pop(vswitch_id).server.close()
        _LOG.info("stopped listening", vswitch=vswitch_id, why=why)


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 — the namespace file itself
    except OSError:
        return 0
