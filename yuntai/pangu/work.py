"""Every background work of the store in one list: the chunk servers', the gateways', and the master's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from yuntai.pangu import planner
from yuntai.pangu.units import volume_id

if TYPE_CHECKING:
    from yuntai.pangu.session import Session

NAMES = {planner.LOST: "repair", planner.DRAIN: "drain", planner.RACK: "spread", planner.BALANCE: "balance"}


def workers(session: Session) -> list[dict[str, Any]]:
    """Return each as ``WorkerStatus`` in crates/proto has it, with ``where`` it runs, and the volume by its id."""
    found = [("master", one) for one in (*_own(session), *session.sweeper.workers())]
    for number, status in sorted(session.servers.statuses().items()):
        found += [(f"cs-{number}", msgspec.to_builtins(one)) for one in status.workers]
    for host, stats in session.gateways.stats():
        found += [(f"gateway {host}", {**one, "volume": stats.get("volume")}) for one in stats.get("workers", ())]
    return [{"where": where, **worker, "volume": _volume(worker.get("volume"))} for where, worker in found]


def _volume(number: Any) -> str:
    return volume_id(number) if isinstance(number, int) and number else ""


def _own(session: Session) -> list[dict[str, Any]]:
    """Return what the leading master works on."""
    mover, plan = session.mover, session.mover.plan
    moving = sum(len(moves) for moves in plan.wanted.values())
    rate, limit = session.mover.bytes_per_s(), session.tuning.of("repair_bytes_per_s")
    own = []
    for why, name in NAMES.items():
        left, most = mover.reasons[why], mover.most[why]
        note = ""
        if left:
            note = f"{moving} moves under way, {len(plan.closed)} volumes to be opened"
            note += f", {sum(plan.stuck.values())} replicas have nowhere to go" if plan.stuck else ""
        state = ("running" if moving else "waiting") if left else "idle"
        own.append(_worker(name, state if limit else "off", most - left, most, "replicas", int(rate), limit, note))
    deleting = sum(volume.state == "deleting" for volume in session.atlas.volumes.values())
    waiting = session.tending.waiting
    tended = sum(bool(volume.tended_by) for volume in session.atlas.volumes.values())
    note = f"{session.holdings.dropped} replicas that nothing named were dropped since this master leads"
    own.append(_worker("garbage", "running" if deleting else "idle", 0, deleting, "volumes", 0, 0, note))
    note = f"{tended} volumes are open for the store's own work, {len(waiting)} wait for it"
    state = "running" if tended else "waiting" if waiting else "idle"
    own.append(_worker("tend", state, tended, tended + len(waiting), "volumes", 0, 0, note))
    damaged = session.healing.damaged()
    chunks = sum(len(found) for found in damaged.values())
    note = f"{session.healing.sent} times a gateway was asked since this master leads"
    own.append(_worker("heal", "running" if chunks else "idle", 0, chunks, "chunks", 0, 0, note))
    return own


def _worker(
    name: str, state: str, done: int, total: int, unit: str, rate: int, limit: int, note: str
) -> dict[str, Any]:
    return {
        "name": name,
        "volume": None,
        "state": state,
        "done": done,
        "total": total,
        "unit": unit,
        "bytes_per_s": rate,
        "limit_bytes_per_s": limit,
        "note": note,
    }
