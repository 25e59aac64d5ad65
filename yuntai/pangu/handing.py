"""The client's side of handing volumes over while their guest moves; what it means is in :mod:`takeover_rules`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yuntai.pangu.answers import convert
from yuntai.pangu.requests import Attached, CalledOff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yuntai.pangu.client import PanguClient


async def announce(client: PanguClient, volume: str, host: str, ticket: str) -> Attached:
    """Have ``host`` keep a place for the volume, which it may take when its guest runs there."""
    body = {"host": host, "ticket": ticket}
    return convert(await client.request("POST", f"/v1/volumes/{volume}/announce", body), Attached)


async def take(client: PanguClient, volume: str, host: str, ticket: str) -> Attached:
    """Give an announced volume to ``host``; raise :class:`~yuntai.pangu.errors.Conflict` if it was called off."""
    body = {"host": host, "ticket": ticket}
    return convert(await client.request("POST", f"/v1/volumes/{volume}/take", body), Attached)


async def call_off(client: PanguClient, volumes: Sequence[str], host: str, ticket: str) -> bool:
    """End a migration that was not made; return whether it is too late because ``host`` has taken a volume."""
    body = {"volumes": list(volumes), "host": host, "ticket": ticket}
    return convert(await client.request("POST", "/v1/handovers/call-off", body), CalledOff).taken
