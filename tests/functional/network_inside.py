"""Runs inside a lab host for the network's tests: the syncer and the host's part, and one JSON command a line on stdin.

Ends at the end of stdin, and takes what it started with it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import msgspec

from yuntai import config as configuration
from yuntai import log
from yuntai.model.base import Record
from yuntai.model.cluster import Host
from yuntai.model.network import Port, SecurityGroup, Vpc, VSwitch
from yuntai.network import hostlinks, local, syncer
from yuntai.state.etcd import EtcdStore

KINDS: dict[str, type[Record]] = {kind.KIND: kind for kind in (Host, Vpc, VSwitch, SecurityGroup, Port)}


class Inside:
    """The commands; each method is one, its arguments the JSON object's members."""

    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    async def put(self, kind: str, record: dict[str, Any]) -> None:
        await self._store.put(msgspec.convert(record, KINDS[kind]))

    async def delete(self, kind: str, id: str) -> bool:  # noqa: A002
        return await self._store.delete(KINDS[kind], id)

    async def guest(self, netns: str, port: str, mac: str) -> None:
        """Make a namespace that is to OVS what a guest is: a link in br-int with the port's id."""
        outer = f"g{port[:8]}"
        for line in (
            f"ip netns add {netns}",
            f"ip link add {outer} type veth peer name p{outer}",
        ):
            await run(*line.split())
        hostlinks._offloads_off(outer)
        hostlinks._offloads_off(f"p{outer}")
        for line in (
            f"ip link set p{outer} netns {netns} name eth0",
            f"ip -n {netns} link set eth0 address {mac} up",
            f"ip -n {netns} link set lo up",
            f"ip link set {outer} up",
            f"ovs-vsctl --timeout=5 add-port br-int {outer} -- set Interface {outer} external_ids:iface-id={port}",
        ):
            await run(*line.split())

    async def bridge(self, netns: list[str], addresses: list[str]) -> None:
        """Join new namespaces by a bridge of the kernel's, offloads off as for guests: for comparisons."""
        await run("ip", "link", "add", "bench-br", "type", "bridge")
        await run("ip", "link", "set", "bench-br", "up")
        for number, (name, address) in enumerate(zip(netns, addresses, strict=True)):
            outer, inner = f"bench-o{number}", f"bench-i{number}"
            for line in (f"ip netns add {name}", f"ip link add {outer} type veth peer name {inner}"):
                await run(*line.split())
            hostlinks._offloads_off(outer)
            hostlinks._offloads_off(inner)
            for line in (
                f"ip link set {inner} netns {name} name eth0",
                f"ip -n {name} link set eth0 mtu 1400 up",
                f"ip -n {name} address add {address} dev eth0",
                f"ip link set {outer} master bench-br up",
            ):
                await run(*line.split())

    async def remove_guest(self, netns: str, port: str) -> None:
        outer = f"g{port[:8]}"
        await run("ovs-vsctl", "--timeout=5", "--if-exists", "del-port", outer)
        await run("ip", "link", "delete", outer)
        await run("ip", "netns", "delete", netns)

    async def run(self, command: list[str], timeout_s: float = 20) -> dict[str, Any]:
        started_s = time.monotonic()
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        elapsed_s = time.monotonic() - started_s
        return {"code": done.returncode, "out": done.stdout, "err": done.stderr, "elapsed_s": elapsed_s}

    async def spawn(self, command: list[str]) -> int:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr)  # noqa: ASYNC220
        self._children[child.pid] = child
        return child.pid

    async def kill(self, pid: int) -> None:
        child = self._children.pop(pid)
        child.kill()
        await asyncio.to_thread(child.wait, 5)

    async def close(self) -> None:
        for pid in list(self._children):
            await self.kill(pid)


async def run(*command: str) -> None:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")


async def main() -> None:
    log.setup("network-test")
    config = configuration.load()
    store = EtcdStore(config.etcd)
    inside = Inside(store)
    tasks = [asyncio.create_task(local.run(store, config))]
    if "central" in sys.argv:
        tasks.append(asyncio.create_task(syncer.run(store, config)))
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            try:
                answer = {"ok": await getattr(inside, request.pop("op"))(**request)}
            except Exception as error:  # noqa: BLE001
                answer = {"error": f"{type(error).__name__}: {error}"}
            dead = [task for task in tasks if task.done()]
            if dead:
                answer = {"error": f"a loop has ended: {[task.exception() for task in dead]!r}"}
            print(json.dumps(answer), flush=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await inside.close()
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
