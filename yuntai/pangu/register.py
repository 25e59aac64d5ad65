"""Registers a host's gateway and chunk servers. ``python -m yuntai.pangu.register`` does it once at host start."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from yuntai import log
from yuntai.config import Config, ConfigError, load
from yuntai.model.cluster import ChunkServer, Gateway
from yuntai.state import Absent, EtcdStore, StateError, Unchanged

if TYPE_CHECKING:
    from yuntai.state import Store

ATTEMPTS = 10
RETRY_S = 1.0

_log = log.get("register")


class RegistrationError(Exception):
    """This host's configuration contradicts what another host registered; the text says what to change."""


async def register(store: Store, config: Config) -> None:
    """Write the records of this host's gateway and chunk servers; leave what others know of them.

    Doing it again changes nothing. Raise :class:`RegistrationError` if another host has a chunk server of the same id.
    """
    gateway = Gateway(
        id=config.host, address=f"{config.address}:{config.gateway_port}", nbd_dir=str(Path(config.run_dir) / "nbd")
    )
    found = await store.get(Gateway, gateway.id)
    if found is None or found.value != gateway:
        await store.put(gateway)
    for server in config.chunkservers:
        await _register_server(
            store,
            ChunkServer(
                id=f"cs-{server.id}",
                number=server.id,
                rack=server.rack,
                host=config.host,
                address=f"{config.address}:{server.port}",
            ),
        )


async def _register_server(store: Store, wanted: ChunkServer) -> None:
    for _ in range(ATTEMPTS):
        found = await store.get(ChunkServer, wanted.id)
        if found is None:
            if await store.txn(compare=[Absent(ChunkServer, wanted.id)], put=[wanted]):
                return
            continue
        known = found.value
        if known.host != wanted.host and known.state != "down":
            raise RegistrationError(
                f"chunk server id {wanted.number} belongs to host {known.host}, which runs it at {known.address}; "
                f"give the one of {wanted.host} another id in `chunkservers`"
            )
        moved = replace(known, rack=wanted.rack, host=wanted.host, address=wanted.address)
        if moved == known or await store.txn(compare=[Unchanged(found)], put=[moved]):
            return
    raise RegistrationError(f"the record of {wanted.id} kept changing; try again")


async def main() -> int:
    """Register this host, waiting a while for etcd; return the exit status."""
    log.setup("register")
    try:
        config = load()
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 — a command's error
        return 2
    async with EtcdStore(config.etcd) as store:
        for _ in range(ATTEMPTS):
            try:
                await register(store, config)
            except StateError as error:
                _log.info("waiting for etcd", error=str(error))
                await asyncio.sleep(RETRY_S)
            except RegistrationError as error:
                _log.error("cannot register", error=str(error))
                return 1
            else:
                return 0
    _log.error("cannot register: etcd did not answer", etcd=config.etcd)
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
