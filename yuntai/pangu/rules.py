"""Who may write, and which servers count: the rules of generations and of the in-sync set. Pure.

Each rule takes the volume's record as it is and returns the record as it is to be, or raises a
:class:`~yuntai.pangu.errors.PanguError`. The master writes the result by compare-and-swap, so a rule holds even when
two masters believe to lead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from yuntai.model.cluster import Volume
from yuntai.pangu.errors import Conflict, NotFound
from yuntai.pangu.units import IN_SYNC_MIN, chunk_count

Replicas = tuple[int, ...]

SNAPSHOTS_MAX = 4096
LAYERS_MAX = 32_768
"""Nodes are never numbered anew, so this bounds the snapshots and rollbacks of a volume's whole life, and its record
to a third of what etcd takes."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a caller of attach asks for."""

    host: str
    read_only: bool = False
    read_node: int = -1
    if_generation: int = -1  # only if nobody has had it since this generation; -1 = whoever had it


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway is told about its event, and the record that makes it true (``None``: nothing to write)."""

    kind: Literal["ok", "stale", "placed", "refused", "fenced"]
    volume: Volume | None = None
    reason: str = ""


def attach(volume: Volume, want: Want, open_generation: int) -> Volume:
    """Return the record of the volume attached as wanted.

    ``open_generation`` is what the wanted host's gateway serves of this volume now (0 = nothing). When that is what
    is recorded the record stays as it is; else the generation grows, which fences whoever had the volume before.
    """
    if volume.state == "deleting":
        raise Conflict(f"volume {volume.id} is being deleted and cannot be attached")
    if want.read_node != -1:
        if not want.read_only:
            raise Conflict(
                f"node {want.read_node} of {volume.id} is frozen: attach it read-only, or make a clone of it"
            )
        require_snapshot(volume, want.read_node)
    same = (volume.host, volume.read_only, volume.read_node) == (want.host, want.read_only, want.read_node)
    if volume.state == "attached" and same and 0 < volume.generation == open_generation:
        return volume
    if want.if_generation not in (-1, volume.generation):
        raise Conflict(
            f"volume {volume.id} has generation {volume.generation} by now, not {want.if_generation}: "
            f"{holder(volume) or 'somebody'} got it meanwhile; look again whose it is to be"
        )
    if volume.state == "attached" and want.read_only and (volume.host, volume.read_only) != (want.host, True):
        # A reader never takes a volume from a writer: only another writer does, which fences it.
        raise Conflict(
            f"volume {volume.id} is attached to {volume.host}; detach it there, or read a clone of a snapshot"
        )
    if volume.state == "attached" and want.read_only and volume.read_node != want.read_node:
        raise Conflict(f"volume {volume.id} shows node {volume.read_node} on {volume.host}; detach it there first")
    return replace(
        volume,
        state="attached",
        tended_by="",
        host=want.host,
        read_only=want.read_only,
        read_node=want.read_node,
        unwritten=volume.unwritten and want.read_only,
        generation=volume.generation + 1,
        # Where it is attached elsewhere, a migration of the guest from here has nothing to hand over any more.
        handover_to=volume.handover_to if volume.host == want.host else "",
        handover_ticket=volume.handover_ticket if volume.host == want.host else "",
    )


def holder(volume: Volume) -> str:
    """Return the host whose gateway has the volume open under the present generation, "" if none has."""
    return volume.host if volume.state == "attached" else volume.tended_by


def tend(volume: Volume, host: str) -> Volume:
    """Return the record of an unattached volume opened at ``host`` for the store's own work, without an export.

    It is a new generation: whoever had the volume before is fenced, and so is the tender by the next attachment.
    """
    if volume.state != "available" or volume.tended_by == host:
        return volume
    return replace(volume, tended_by=host, generation=volume.generation + 1)


def untended(volume: Volume) -> Volume:
    """Return the record with nobody tending: what the tender still says is answered "fenced"."""
    return replace(volume, tended_by="") if volume.tended_by else volume


def reopen(volume: Volume) -> Volume:
    """Return the record for opening again on the same host: the old session may have claimed its generation."""
    return replace(volume, generation=volume.generation + 1)


def keep(volume: Volume, until: str) -> Volume:
    """Return the record of an auxiliary volume that is kept until then, "" = for good; other ones are anyway."""
    if volume.state == "deleting":
        raise Conflict(f"volume {volume.id} is being deleted: nobody has asked to keep it for too long")
    if not volume.kept_until:
        return volume
    return replace(volume, kept_until=max(volume.kept_until, until) if until else "")


def detach(volume: Volume, host: str, *, forced: bool) -> Volume:
    """Return the record of the volume detached from ``host``; unchanged if it is not attached at all.

    ``forced`` leaves a mark: a writer may still be at work until the next attachment fences it.
    """
    if volume.state != "attached":
        return volume
    if volume.host != host:
        raise Conflict(f"volume {volume.id} is attached to {volume.host}, not to {host}; detach it there")
    writer_left = forced and not volume.read_only
    return replace(
        volume,
        state="available",
        host="",
        read_only=False,
        read_node=-1,
        unfenced=volume.unfenced or writer_left,
        handover_to="",
        handover_ticket="",
    )


def snapshot(volume: Volume, name: str, group: tuple[str, ...] = ()) -> tuple[Volume, int]:
    """Return the record with the head frozen and a new head, and the frozen node.

    A ``name`` that was used before gives the node it named, and the record unchanged. ``group`` names the volumes
    that are to be frozen at the same moment.
    """
    for node, known in volume.snapshot_names.items():
        if name and known == name:
            return volume, int(node)
    if volume.state == "deleting":
        raise Conflict(f"volume {volume.id} is being deleted; no snapshot can be taken")
    if volume.unfenced:
        raise Conflict(
            f"volume {volume.id} was detached by force, so its old writer may still be at work; "
            "attach it once, then take the snapshot"
        )
    frozen, head = volume.head, len(volume.parents)
    if head >= LAYERS_MAX or len(volume.snapshots) >= SNAPSHOTS_MAX:
        raise Conflict(
            f"volume {volume.id} has {len(volume.snapshots)} snapshots and {head} layers so far; at most "
            f"{SNAPSHOTS_MAX} and {LAYERS_MAX} are possible: delete some, or go on with a clone"
        )
    # Only a gateway that writes needs a barrier; what is detached or read-only stands still already.
    writing = volume.state == "attached" and not volume.read_only
    return (
        replace(
            volume,
            parents=(*volume.parents, frozen),
            head=head,
            snapshots={**volume.snapshots, str(frozen): "pending" if writing else "done"},
            snapshot_bytes={**volume.snapshot_bytes, str(frozen): volume.size_bytes},
            snapshot_names={**volume.snapshot_names, str(frozen): name} if name else volume.snapshot_names,
            group=group if writing else volume.group,
        ),
        frozen,
    )


def snapshots_done(volume: Volume, head: int) -> Volume:
    """Return the record with every pending snapshot below ``head`` done: a gateway writes to ``head`` now."""
    states = {node: "done" if int(node) < head else state for node, state in volume.snapshots.items()}
    return replace(volume, snapshots=states, group=volume.group if "pending" in states.values() else ())


def require_snapshot(volume: Volume, node: int) -> None:
    """Raise unless ``node`` is a finished snapshot of the volume."""
    state = volume.snapshots.get(str(node))
    if state is None:
        known = ", ".join(sorted(volume.snapshots, key=int)) or "none"
        raise NotFound(f"volume {volume.id} has no snapshot node {node}; its nodes: {known}")
    if state != "done":
        raise Conflict(f"snapshot node {node} of {volume.id} is still being taken; try again in a moment")


def in_sync(replicas: Replicas, stale: Iterable[str]) -> list[int]:
    """Return the servers of a chunk that have every acknowledged write."""
    out = {int(number) for number in stale}
    return [number for number in replicas if number not in out]


def degrade(volume: Volume, host: str, generation: int, chunks: Iterable[Replicas], server: int, reason: str) -> Answer:
    """Take ``server`` out of the in-sync set, unless a chunk would be left with fewer than two."""
    if fenced := foreign(volume, host, generation):
        return fenced
    if str(server) in volume.stale:
        return Answer("stale")
    stale = {**volume.stale, str(server): reason or "missed a write"}
    for replicas in set(chunks):
        if server in replicas and len(in_sync(replicas, stale)) < IN_SYNC_MIN:
            out = ", ".join(f"cs-{number} ({stale[str(number)]})" for number in replicas if str(number) in stale)
            return Answer("refused", reason=f"fewer than {IN_SYNC_MIN} replicas would be in sync without {out}")
    return Answer("stale", replace(volume, stale=stale))


def discount(volume: Volume, server: int, reason: str) -> Volume:
    """Take ``server`` out of the in-sync set because what it had is gone.

    Unlike :func:`degrade` it asks not how many are left: counting a replica that is not there helps nobody.
    """
    return replace(volume, stale={**volume.stale, str(server): reason})


def readmit(volume: Volume, host: str, generation: int, server: int) -> Answer:
    """Put ``server`` back into the in-sync set: the gateway has seen it catch up on every chunk."""
    if fenced := foreign(volume, host, generation):
        return fenced
    if str(server) not in volume.stale:
        return Answer("stale")
    return Answer("stale", replace(volume, stale={n: why for n, why in volume.stale.items() if n != str(server)}))


def hydrated(volume: Volume, host: str, generation: int, chunks: int) -> Answer:
    """Note how far the copy from the source has come; it never goes back."""
    if fenced := foreign(volume, host, generation):
        return fenced
    reached = min(chunks, chunk_count(volume.size_bytes))
    if reached <= volume.hydrated_chunks:
        return Answer("ok")
    return Answer("ok", replace(volume, hydrated_chunks=reached))


def users_of(volume_id: str, volumes: Sequence[Volume], pending: Sequence[str]) -> list[str]:
    """Return which of ``pending`` (volumes not hydrated) may still read blocks of ``volume_id``, however far up.

    A source in between counts even when it is hydrated: a gateway that opened the chain before asks all of it.
    """
    by_id = {volume.id: volume for volume in volumes}
    users = []
    for start in pending:
        seen = {start}
        current = by_id.get(start)
        while current is not None and current.source is not None and current.source.volume not in seen:
            seen.add(current.source.volume)
            current = by_id.get(current.source.volume)
        if volume_id in seen and volume_id != start:
            users.append(start)
    return sorted(users)


def foreign(volume: Volume, host: str, generation: int) -> Answer | None:
    """Return the answer to an event that does not come from the gateway with the present generation."""
    if volume.state != "deleting" and volume.generation == generation and holder(volume) == host != "":
        return None
    return Answer("fenced", reason=f"{volume.id} is {volume.state} under generation {volume.generation}")
