"""The API's own process for the ``api`` figure: the real front on a loopback port, with records made up beforehand.

Prints the port when it serves, and ends when its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import uuid
from typing import TYPE_CHECKING, Any, NoReturn

from yuntai import log
from yuntai.api.__main__ import fill
from yuntai.api.collector import calm
from yuntai.api.console import LocalConsoleReader
from yuntai.api.registry import Context
from yuntai.api.server import ApiServer
from yuntai.api.throttle import Throttle
from yuntai.model.base import new_id, now_utc
from yuntai.model.cluster import AccessKey, Account
from yuntai.model.compute import Disk, Image, Instance, ObservedInstance
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.network import addresses
from yuntai.state import EtcdStore, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yuntai.model.base import Record
    from yuntai.state import Store

ACCOUNT = "1000000000000001"
KEY, SECRET = "YTBENCHMARKKEY01", "only-for-benchmarks-on-loopback"
ZONE = "cn-local-a"
_BATCH = 100


class NoVolumes:
    """The figure asks for no volumes."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name} needs a block store, which this server does not have")


def records(instances: int) -> Iterator[Record]:
    """Yield a cloud with this many running instances."""
    created = now_utc()
    common: dict[str, Any] = {"account": ACCOUNT, "created": created}
    yield Account(id=ACCOUNT, name="bench", created=created)
    yield AccessKey(id=KEY, account=ACCOUNT, secret=SECRET, operator=True, created=created)
    vpc = Vpc(id=new_id("vpc"), cidr="10.0.0.0/8", route_table="vtb-1", router="vrt-1", ext_ip="100.64.0.16", **common)
    vswitch = VSwitch(id=new_id("vsw"), vpc=vpc.id, zone=ZONE, cidr="10.0.0.0/16", **common)
    group = SecurityGroup(id=new_id("sg"), vpc=vpc.id, **common)
    image = Image(id="m-bench", name="bench", size_gib=1, status="Available", created=created)
    yield from (vpc, vswitch, group, image)
    free = addresses.usable(vswitch.cidr)
    for number in range(instances):
        instance_id, disk_id, port_id, ip = new_id("i"), new_id("d"), str(uuid.uuid4()), next(free)
        yield Port(
            id=port_id, eni=new_id("eni"), vpc=vpc.id, vswitch=vswitch.id, ip=ip, mac=addresses.guest_mac(ip),
            security_groups=(group.id,), instance=instance_id, host="h1", **common,
        )  # fmt: skip
        yield Disk(
            id=disk_id, zone=ZONE, kind="system", size_gib=1, status="In_use", volume=new_id("vol"),
            instance=instance_id, device="/dev/xvda", source_image=image.id, **common,
        )  # fmt: skip
        yield ObservedInstance(id=instance_id, host="h1", state="running", since=created, boot_seq=1)
        yield Instance(
            id=instance_id, name=f"bench-{number}", hostname=f"bench-{number}", zone=ZONE,
            instance_type="ecs.yt1.nano", cpu=1, memory_mib=256, image=image.id, status="Running", host="h1",
            vpc=vpc.id, vswitch=vswitch.id, port=port_id, security_groups=(group.id,), system_disk=disk_id,
            disks=(disk_id,), started=created, tags={"purpose": "bench"}, **common,
        )  # fmt: skip


async def serve(endpoint: str, instances: int) -> None:
    """Serve until standard input ends."""
    store: Store = EtcdStore([endpoint]) if endpoint else MemoryStore()
    batch: list[Record] = []
    for record in records(instances):
        batch.append(record)
        if len(batch) == _BATCH:
            await store.txn(put=batch)
            batch.clear()
    await store.txn(put=batch)
    cached = await fill(store)
    calm()
    context = Context(
        region="cn-local", zone=ZONE, cluster="bench", reads=cached, writes=cached.writer(),
        console=LocalConsoleReader("h1", "/nonexistent"), volumes=NoVolumes(),
    )  # fmt: skip
    server = ApiServer(context, throttle=Throttle(rate_per_s=1e9, burst=1e9))
    print(await server.start("127.0.0.1", 0), flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    await server.close()
    await cached.stop()
    await store.close()


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--etcd", default="", help="an endpoint; default: records in memory only")
    parser.add_argument("--instances", type=int, required=True)
    options = parser.parse_args()
    log.setup("bench-api", "warning")
    asyncio.run(serve(options.etcd, options.instances))


if __name__ == "__main__":
    main()
