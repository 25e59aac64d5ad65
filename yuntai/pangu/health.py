"""What is wrong with the store, what it means for the data, and when it will be over."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from yuntai.pangu import rules
from yuntai.pangu.units import BLOCK_BYTES, CHUNK_BYTES, IN_SYNC_MIN, REPLICAS, volume_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from yuntai.model.cluster import Volume
    from yuntai.pangu.healing import Lost
    from yuntai.pangu.rules import Replicas
    from yuntai.pangu.servers import Status
    from yuntai.pangu.session import Session

WELL, NOTE, WARNING, DANGER = "well", "note", "warning", "danger"
LEVELS = (WELL, NOTE, WARNING, DANGER)
FULL_SOON = 0.80
NAMED_MAX = 10
VOLUMES_PER_BREATH = 50


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    level: str
    detail: str


class Data(NamedTuple):
    """Chunks by how many of their replicas have everything and answer."""

    chunks: int
    by_live: Counter[int]
    worst: dict[str, int]
    """Volumes with a chunk below the full number → the fewest live replicas of one."""


async def report(session: Session) -> dict[str, Any]:
    """Return every check, the state of the data in figures, and in how many seconds the repair will be over."""
    await session.atlas.ready()
    await session.servers.ready()
    statuses = session.servers.statuses()  # once: counting takes turns, and a report must not contradict itself
    data = await count(session, frozenset(statuses))
    checks = [
        _data(data),
        *_servers(session, statuses),
        *_disks(session),
        *_volumes(session),
        *_gateways(session),
        *_work(session),
    ]
    worst = max((LEVELS.index(check.level) for check in checks), default=0)
    short = {str(live): count for live, count in sorted(data.by_live.items()) if live < REPLICAS}
    return {
        "healthy": worst <= LEVELS.index(NOTE),
        "level": LEVELS[worst],
        "checks": [check._asdict() for check in checks],
        "chunks": data.chunks,
        "chunks_by_live_replicas": {**short, str(REPLICAS): data.chunks - sum(short.values())},
        "seconds_left": seconds_left(session),
    }


async def count(session: Session, answering: frozenset[int]) -> Data:
    """Count the replicas of every chunk on the servers that answer."""
    by_live: Counter[int] = Counter()
    worst: dict[str, int] = {}
    chunks = 0
    for turn, volume in enumerate(list(session.atlas.volumes.values())):
        if turn % VOLUMES_PER_BREATH == 0:
            await asyncio.sleep(0)
        if volume.state == "deleting":
            continue
        sets = Counter(session.atlas.chunks(volume.id))
        chunks += sets.total()
        for replicas, many in sets.items():
            live = _live(replicas, volume, answering)
            if live < REPLICAS:
                by_live[live] += many
                worst[volume.id] = min(live, worst.get(volume.id, REPLICAS))
    return Data(chunks, by_live, worst)


def _live(replicas: Replicas, volume: Volume, answering: frozenset[int]) -> int:
    return sum(number in answering for number in rules.in_sync(replicas, volume.stale))


def seconds_left(session: Session) -> int | None:
    """Return about how long moving and rebuilding will take at the present rate; ``None`` if that cannot be told."""
    times: list[float] = []
    left = sum(session.mover.reasons.values())
    if left:
        rate = session.mover.moves_per_s()
        if rate <= 0:
            return None
        times.append(left / rate)
    for _, stats in session.gateways.stats():
        for worker in stats.get("workers", ()):
            if worker.get("name") != "rebuild" or worker.get("state") in ("idle", "off") or not worker.get("total"):
                continue
            if not worker.get("bytes_per_s"):
                return None
            size = {"bytes": 1, "blocks": BLOCK_BYTES, "chunks": CHUNK_BYTES}.get(worker.get("unit", ""), 1)
            times.append(size * (worker["total"] - worker["done"]) / worker["bytes_per_s"])
    behind = any(volume.stale for volume in session.atlas.volumes.values())
    if not times:
        return None if behind else 0
    return round(max(times))


def _data(data: Data) -> Check:
    """Say what it means for the data."""
    if not data.by_live:
        return Check("data", WELL, f"all {data.chunks} chunks have {REPLICAS} live replicas")
    parts = []
    for live, many in sorted(data.by_live.items()):
        if live == 0:
            parts.append(f"{many} chunks have no live replica: they cannot be read until a server comes back")
        elif live < IN_SYNC_MIN:
            parts.append(
                f"{many} chunks have {live} live replica: writes to them wait, and the loss of that server loses data"
            )
        else:
            parts.append(f"{many} chunks have {live} live replicas: one more lost server stops writes to them")
    fewest = min(data.by_live)
    return Check("data", WARNING if fewest >= IN_SYNC_MIN else DANGER, f"of {data.chunks} chunks, {'; '.join(parts)}")


def _servers(session: Session, statuses: dict[int, Status]) -> Iterator[Check]:
    wrong: list[str] = []
    notes: list[str] = []
    given_up: list[str] = []
    grace_s = session.tuning.of("repair_after_s")
    for one in session.servers.records():
        away_s = 0.0 if one.number in statuses else session.servers.away_s(one)
        left = session.mover.left.get(one.number, 0)
        if one.given_up and away_s:
            rest = f"{left} replicas have to be rebuilt elsewhere" if left else "nothing has its place there any more"
            given_up.append(f"{one.id} was given up at {one.given_up}: {rest}")
            continue
        if away_s > grace_s:
            wrong.append(f"{one.id} is lost since {one.down_since}; {left} replicas have to be rebuilt elsewhere")
        elif away_s:
            wrong.append(f"{one.id} does not answer since {away_s:.0f} s; repair begins in {grace_s - away_s:.0f} s")
        if one.state == "draining":
            rest = f"{left} replicas have yet to leave" if left else "nothing of any volume is there any more"
            notes.append(f"{one.id} is being drained: {rest}")
        if not one.admitted:
            wrong.append(f"{one.id} has a new disk and is not let in yet")
        if one.number in statuses and statuses[one.number].lost_durable:
            wrong.append(f"the disk of {one.id} had lost what it had promised to keep when it was last started")
    yield _check("chunk servers", WARNING, wrong)
    yield _check("drain", NOTE, notes)
    yield _check("given up", NOTE, given_up)
    racks = {one.rack for one in session.servers.records() if one.state == "up"}
    if len(racks) < REPLICAS:
        yield Check("racks", WARNING, f"servers are up in {len(racks)} racks; new chunks need {REPLICAS}")
    stuck = session.mover.plan.stuck
    nowhere = [f"{many} replicas on cs-{number}" for number, many in sorted(stuck.items())]
    yield _check("places", WARNING, [f"no other rack has room for {one}" for one in nowhere])


def _disks(session: Session) -> Iterator[Check]:
    full = []
    level = WARNING
    for one in session.servers.records():
        used = 1 - one.free_bytes / one.total_bytes if one.total_bytes else 0.0
        status = session.servers.statuses().get(one.number)
        if status is not None and status.full:
            level = DANGER
            full.append(f"{one.id} is {100 * used:.0f} % full and refuses new chunks")
        elif used >= FULL_SOON:
            full.append(f"{one.id} is {100 * used:.0f} % full; new volumes avoid it from 85 % on")
    yield _check("space", level, full)
    damaged = [
        f"{len(chunks)} chunks of {volume} on cs-{number}"
        for (volume, number), chunks in sorted(session.healing.damaged().items())
    ]
    yield _check("damage", WARNING, [f"damaged, and to be healed from the others: {one}" for one in damaged])
    yield _check("lost blocks", DANGER, [_lost(one) for one in session.healing.lost()])


def _lost(one: Lost) -> str:
    at = one.chunk * CHUNK_BYTES + one.block * BLOCK_BYTES
    where = f"{one.volume}: block {one.block} of chunk {one.chunk} (bytes {at} to {at + BLOCK_BYTES})"
    if not one.others:
        return f"{where} is damaged on every replica: reading it is an error until it is written anew"
    others = ", ".join(f"cs-{number}" for number in one.others)
    return (
        f"{where} is damaged on every replica that counts and answers; {others} may have it, and whoever reads it "
        "waits: bring it back; if its disk is gone for good, start it with an empty one, or say so: "
        f"`yuntai pangu server give-up cs-{one.others[0]}`"
    )


def _volumes(session: Session) -> Iterator[Check]:
    volumes = [volume for volume in session.atlas.volumes.values() if volume.state != "deleting"]
    stale = []
    for volume in volumes:
        if volume.stale:
            out = ", ".join(f"cs-{number} ({why})" for number, why in sorted(volume.stale.items()))
            who = "" if rules.holder(volume) else "; it is opened for repair soon" if _tended(session, volume) else ""
            stale.append(f"{volume.id} does without {out}{who}")
    yield _check("in-sync sets", WARNING, stale)
    pending = [
        f"{volume.id} has a snapshot that its gateway has not taken yet"
        for volume in volumes
        if "pending" in volume.snapshots.values()
    ]
    yield _check("snapshots", NOTE, pending)
    closed = [
        f"{volume.id} is attached to {volume.host} and not open there"
        for volume in volumes
        if volume.state == "attached" and not session.serving.is_open(volume)
    ]
    yield _check("attachments", WARNING, closed)
    unfenced = [volume.id for volume in volumes if volume.unfenced]
    yield _check("writers", NOTE, [f"{one} was detached by force; its old writer may be at work" for one in unfenced])


def _tended(session: Session, volume: Volume) -> bool:
    return volume.id in session.tending.waiting


def _gateways(session: Session) -> Iterator[Check]:
    states = session.gateways.states()
    down = [f"the gateway of {one['id']} at {one['address']} does not answer" for one in states if one["state"] != "up"]
    yield _check("gateways", WARNING, down)
    names = {volume_number(name): name for name in session.atlas.volumes}
    waiting, barred = [], []
    for host, stats in session.gateways.stats():
        name = names.get(int(stats.get("volume", 0)), "")
        if stats.get("waiting"):
            waiting.append(f"{name} on {host}: {stats['waiting']}")
        for one in stats.get("barred", ()):
            servers = ", ".join(f"cs-{number}" for number in one.get("servers", ()))
            barred.append(
                f"chunk {one.get('chunk')} of {name}: only {servers} could have the last writes, and may not be "
                "believed; bring back the others, or accept the loss: "
                f"`yuntai pangu salvage {name} {one.get('chunk')}`"
            )
    yield _check("writes", DANGER, waiting)
    yield _check("barred", DANGER, barred)


def _work(session: Session) -> Iterator[Check]:
    unknown = [
        f"{volume} on {', '.join(f'cs-{number}' for number in sorted(servers))}"
        for volume, servers in sorted(session.holdings.unknown.items())
        if servers
    ]
    wait_s = session.tuning.of("unknown_volume_after_s")
    told = [f"no record knows {one}; it is deleted after {wait_s} s" for one in unknown]
    yield _check("unknown volumes", WARNING, told)
    deleting = sum(volume.state == "deleting" for volume in session.atlas.volumes.values())
    yield _check("deletion", NOTE, [f"{deleting} volumes are being deleted"] if deleting else [])


def _check(name: str, level: str, wrong: Iterable[str]) -> Check:
    found = list(wrong)
    more = f"; and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return Check(name, level if found else WELL, "; ".join(found[:NAMED_MAX]) + more)
