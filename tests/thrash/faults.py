"""The faults of processes, links and disks. Each makes one, holds it for a while, and ends it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.thrash.site import ETCDS, HOSTS, RACKS, READS, SYNCS

if TYPE_CHECKING:
    from tests.thrash.world import World


async def kill_server(world: World, target: int, seconds: float) -> None:
    """A chunk server dies and is started again."""
    part = f"cs-{target + 1}"
    world.site.kill(part)
    await asyncio.sleep(seconds)
    world.site.launch(part)


async def stop_server(world: World, target: int, seconds: float) -> None:
    """A chunk server hangs and comes back as if nothing had been."""
    part = f"cs-{target + 1}"
    world.site.signal(part, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    world.site.signal(part, signal.SIGCONT)


async def stutter_server(world: World, target: int, seconds: float) -> None:
    """A chunk server is slow: it hangs for a part of every second."""
    part = f"cs-{target + 1}"
    for _ in range(int(seconds / 0.5)):
        world.site.signal(part, signal.SIGSTOP)
        await asyncio.sleep(0.35)
        world.site.signal(part, signal.SIGCONT)
        await asyncio.sleep(0.15)


async def kill_two_servers(world: World, target: int, seconds: float) -> None:
    """Two replicas of a chunk are gone at once: writes stall, and go on when one is back."""
    first, second = f"cs-{target + 1}", f"cs-{(target + 2) % len(RACKS) + 1}"
    world.site.kill(first)
    world.site.kill(second)
    await asyncio.sleep(seconds)
    world.site.launch(second)
    await asyncio.sleep(seconds / 2)
    world.site.launch(first)


async def cut_server_from_gateways(world: World, target: int, seconds: float) -> None:
    """A chunk server and the gateways do not hear each other."""
    await _cut(world, [(host, f"cs-{target + 1}") for host in HOSTS], seconds, both=True)


async def cut_one_way(world: World, target: int, seconds: float) -> None:
    """A gateway's packets reach a chunk server, and its answers do not come back; or the other way round."""
    server = f"cs-{target % len(RACKS) + 1}"
    pairs = [(host, server) for host in HOSTS] if target < len(RACKS) else [(server, host) for host in HOSTS]
    await _cut(world, pairs, seconds, both=False)


async def isolate_server(world: World, target: int, seconds: float) -> None:
    """A chunk server is cut off from everybody."""
    server = f"cs-{target + 1}"
    others = [*HOSTS, *(f"cs-{number}" for number in RACKS if number != target + 1)]
    await _cut(world, [(other, server) for other in others], seconds, both=True)


async def cut_servers_from_each_other(world: World, target: int, seconds: float) -> None:
    """A chunk server dies; when it is back it cannot pull from one of the others."""
    server, other = target + 1, (target + 1) % len(RACKS) + 1
    world.site.kill(f"cs-{server}")
    await asyncio.sleep(1)
    world.site.net.cut(f"cs-{server}", f"cs-{other}")
    world.site.net.cut(f"cs-{other}", f"cs-{server}")
    world.site.launch(f"cs-{server}")
    await asyncio.sleep(seconds)
    world.site.net.mend_all()


async def cut_hosts(world: World, target: int, seconds: float) -> None:
    """The two hosts do not hear each other: a gateway cannot reach a master that leads there."""
    await _cut(world, [HOSTS], seconds, both=True)


async def cut_leader_from_etcd(world: World, target: int, seconds: float) -> None:
    """The leading master cannot reach etcd, and its term ends."""
    leader = await world.site.leader() or HOSTS[0]
    await _cut(world, [(leader, etcd) for etcd in ETCDS], seconds, both=True)


async def _cut(world: World, pairs: list[tuple[str, str]], seconds: float, *, both: bool) -> None:
    pairs = [*pairs, *((b, a) for a, b in pairs)] if both else pairs
    for one in pairs:
        world.site.net.cut(*one)
    await asyncio.sleep(seconds)
    for one in pairs:
        world.site.net.mend(*one)


async def full_disk(world: World, target: int, seconds: float) -> None:
    """A disk fills up to the last byte, or to little more; later there is space again."""
    server = target // 3 + 1
    world.site.forgiven.add(f"cs-{server}")
    world.site.fill(server, (0, 64, 4096)[target % 3])
    await asyncio.sleep(seconds)
    world.site.empty(server)


async def failing_reads(world: World, target: int, seconds: float) -> None:
    """Every third read of a disk fails with EIO."""
    await _failing(world, target + 1, READS, seconds)


async def failing_syncs(world: World, target: int, seconds: float) -> None:
    """Every third sync of a disk fails with EIO."""
    await _failing(world, target + 1, SYNCS, seconds)


async def _failing(world: World, server: int, which: int, seconds: float) -> None:
    # It may well stop its work rather than go on with a disk that it cannot trust.
    world.site.forgiven.add(f"cs-{server}")
    world.site.disk_fails(server, which, 85)
    await asyncio.sleep(seconds)
    world.site.disk_fails(server, which, 0)


async def kill_leader(world: World, target: int, seconds: float) -> None:
    """The leading master dies."""
    leader = await world.site.leader() or HOSTS[0]
    world.site.kill(f"master-{leader}")
    await asyncio.sleep(seconds)
    world.site.launch(f"master-{leader}")


async def stop_leader(world: World, target: int, seconds: float) -> None:
    """The leading master hangs for longer than its term, and wakes up as one that was deposed."""
    leader = await world.site.leader() or HOSTS[0]
    world.site.signal(f"master-{leader}", signal.SIGSTOP)
    await asyncio.sleep(seconds)
    world.site.signal(f"master-{leader}", signal.SIGCONT)


async def kill_leader_and_server(world: World, target: int, seconds: float) -> None:
    """The leading master dies, and a chunk server right after it: the next leader must hear of it."""
    leader = await world.site.leader() or HOSTS[0]
    world.site.kill(f"master-{leader}")
    world.site.kill(f"cs-{target + 1}")
    await asyncio.sleep(seconds)
    world.site.launch(f"master-{leader}")
    world.site.launch(f"cs-{target + 1}")


async def kill_etcd(world: World, target: int, seconds: float) -> None:
    """One etcd of three dies; its turn to lead comes round."""
    world.site.kill(ETCDS[target])
    await asyncio.sleep(seconds)
    world.site.launch(ETCDS[target])


async def no_control(world: World, target: int, seconds: float) -> None:
    """Every etcd and every master is gone; I/O goes on."""
    parts = [*ETCDS, *(f"master-{host}" for host in HOSTS)]
    for part in parts:
        world.site.kill(part)
    await asyncio.sleep(seconds)
    for part in parts:
        world.site.launch(part)


async def kill_gateway(world: World, target: int, seconds: float) -> None:
    """A gateway dies under running guests, which connect again."""
    part = f"gateway-{HOSTS[target]}"
    world.site.kill(part)
    await asyncio.sleep(seconds)
    world.site.launch(part)


async def stop_gateway(world: World, target: int, seconds: float) -> None:
    """A gateway hangs under running guests."""
    part = f"gateway-{HOSTS[target]}"
    world.site.signal(part, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    world.site.signal(part, signal.SIGCONT)


async def take_over(world: World, target: int, seconds: float) -> None:
    """A gateway hangs, its volumes are opened at the other one, and it wakes up as one that was fenced."""
    host, other = HOSTS[target], HOSTS[1 - target]
    world.site.signal(f"gateway-{host}", signal.SIGSTOP)
    await world.move_volumes(host, other)
    await asyncio.sleep(seconds)
    world.site.signal(f"gateway-{host}", signal.SIGCONT)


async def kill_everything(world: World, target: int, seconds: float) -> None:
    """Every process dies at once and is started again."""
    parts = world.site.parts()
    for part in parts:
        world.site.kill(part)
    await asyncio.sleep(seconds)
    for part in parts:
        world.site.launch(part)


async def foreign_write(world: World, target: int, seconds: float) -> None:
    """No fault of the store: somebody writes blocks behind the checker's back, which it must find."""
    await world.volumes[0].write_unknown()
    await asyncio.sleep(seconds)
