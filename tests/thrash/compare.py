"""Reads every block from each of its replicas in turn, at rest, and holds it to what the checker knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tests.thrash.content import value_of
from tests.thrash.nbd import Nbd
from tests.thrash.register import Violation
from tests.thrash.site import HOSTS
from tests.thrash.writers import CHUNK, Volume
from yuntai.model import cluster
from yuntai.pangu import layout, wire
from yuntai.pangu.tokens import Signer
from yuntai.state import EtcdStore

if TYPE_CHECKING:
    from tests.thrash.site import Site

PIECE = 256 << 10


async def compare(site: Site, volumes: list[Volume]) -> int:
    """Compare volumes that nobody has open; return how many blocks of replicas were read. No master runs then."""
    config = site.configs[HOSTS[0]]
    signer = Signer(config.secret("token"))
    for host in HOSTS:
        site.kill(f"master-{host}")
    compared = 0
    channel = await wire.connect(f"{config.address}:{config.gateway_port}", config.secret("cluster"), "operator")
    try:
        async with EtcdStore(site.etcd) as store:
            servers = {one.value.number: one.value for one in await store.list(cluster.ChunkServer)}
            for volume in volumes:
                record = (await store.need(cluster.Volume, volume.id)).value
                assert record.state == "available", f"{volume.id} is {record.state}"
                read = replace(record, state="attached", read_only=True, host=HOSTS[0])
                # Each time anew under one generation, so without what would let the gateway claim it as a writer does.
                request = {**await layout.open_request(store, read, servers, signer), "upkeep": None}
                for number in servers:
                    opened = await channel.call({**request, "prefer": [number]}, 30)
                    compared += await _compare_one(volume, number, request["placement"], Path(opened["socket"]))
                    await channel.call({"op": "close", "volume": volume.number, "generation": record.generation}, 30)
    finally:
        await channel.close()
    return compared


async def _compare_one(volume: Volume, server: int, placement: list[list[int]], socket: Path) -> int:
    nbd = await Nbd.connect(socket, volume.id)
    compared = 0
    try:
        for zone, registers in volume.registers.items():
            step = PIECE // zone.unit
            for first in range(0, zone.units, step):
                count = min(step, zone.units - first)
                raw = await nbd.read(zone.start + first * zone.unit, count * zone.unit)
                for place in range(count):
                    offset = zone.start + (first + place) * zone.unit
                    if server not in placement[offset // CHUNK]:
                        continue
                    compared += 1
                    piece = raw[place * zone.unit : (place + 1) * zone.unit]
                    value, possible = (
                        value_of(piece, volume.number, offset // zone.unit),
                        registers[first + place].possible(),
                    )
                    if value not in possible:
                        raise Violation(
                            f"{volume.id} {offset:#x}: the replica on cs-{server} has {value:x}, not {possible}"
                        )
    finally:
        await nbd.close()
    return compared
