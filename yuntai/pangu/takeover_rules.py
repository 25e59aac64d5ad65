"""Who gets a volume whose guest is being moved to another host: one record decides, whatever dies. Pure.

A live migration announces where it goes (``handover_to``, and as ``handover_ticket`` which migration it is). From then
on exactly one of two things can happen to the record, and each is one etcd transaction: the destination takes the
volume, or the migration is called off. A migration of several volumes is called off for all of them in one
transaction, which fails if any of them was taken; so source and destination can never each have some of them for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from yuntai.pangu.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.model.cluster import Volume


def announce(volume: Volume, host: str, ticket: str) -> Volume:
    """Return the record of a volume that ``host`` may take when it first needs it; the holder goes on writing."""
    if volume.state != "attached" or volume.read_only:
        raise Conflict(
            f"volume {volume.id} is {volume.state}{' read-only' if volume.read_only else ''}: only a volume that is "
            "attached to be written can be handed over; attach it where it is needed"
        )
    if volume.host == host:
        raise Conflict(f"volume {volume.id} is attached to {host} already; there is nothing to hand over")
    return replace(volume, handover_to=host, handover_ticket=ticket)


def take(volume: Volume, host: str, ticket: str) -> Volume:
    """Return the record of the volume taken by the destination; the new generation fences the source."""
    if volume.state == "attached" and volume.host == host and not volume.handover_to:
        return volume  # taken already
    if (volume.state, volume.handover_to, volume.handover_ticket) != ("attached", host, ticket):
        raise Conflict(f"volume {volume.id} is not to be handed over to {host}: that migration was called off")
    return replace(settled(volume), host=host, generation=volume.generation + 1)


def call_off(volumes: Sequence[Volume], host: str, ticket: str) -> list[Volume] | None:
    """Return the records of a migration to ``host`` that will not be, or ``None`` if it has taken a volume."""
    if any(volume.state == "attached" and volume.host == host for volume in volumes):
        return None
    return [settled(volume) if volume.handover_ticket == ticket else volume for volume in volumes]


def settled(volume: Volume) -> Volume:
    """Return the record with no hand-over announced."""
    return replace(volume, handover_to="", handover_ticket="")
