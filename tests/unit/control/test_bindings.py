"""A host that is down has no port beside another host, on a store in memory and a network that is played."""

from __future__ import annotations

from msgspec.structs import replace

from yuntai.control import bindings
from yuntai.model.cluster import Host
from yuntai.model.compute import Migration
from yuntai.network.southbound import SouthboundError
from yuntai.state import MemoryStore

NOW = "2026-11-23T10:00:00Z"


class Network:
    """Takes note of who is to leave ports."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses = False

    async def leave(self, southbound: str, host: str) -> int:
        assert southbound == "tcp:a:1"
        self.asked.append(host)
        if self.refuses:
            raise SouthboundError("no answer")
        return 1


async def test_a_host_that_is_down_leaves_ports_once_and_again_when_it_is_down_again() -> None:
    store, network = MemoryStore(), Network()
    for name in ("h1", "h2"):
        await store.put(
            Host(
                id=name, address="10.0.0.1", cpus=2, memory_mib=4096, accelerator="tcg", seen=NOW, vcpus_max=16,
                memory_mib_max=3000,
            )
        )  # fmt: skip
    cleared: set[str] = set()

    async def turn() -> list[str]:
        nonlocal cleared
        cleared = await bindings.clear(store, "tcp:a:1", cleared, leave=network.leave)
        asked, network.asked = network.asked, []
        return asked

    async def status(status: str) -> None:
        await store.update(Host, "h2", lambda host: replace(host, status=status))

    assert await turn() == []
    await status("down")
    # As long as a guest is being moved there, nobody takes the port from it: the network would put it back.
    await store.put(
        Migration(
            id="i-1", job="job-1", source="h1", destination="h2", address="10.0.0.2", phase="undo", created=NOW
        )
    )  # fmt: skip
    assert await turn() == []
    await store.delete(Migration, "i-1")
    network.refuses = True
    assert await turn() == ["h2"]
    network.refuses = False
    assert [await turn() for _ in range(3)] == [["h2"], [], []]
    await status("up")
    assert await turn() == []
    await status("down")
    assert await turn() == ["h2"]
