"""What an operator does to hosts: empty them, label them, remove them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from yuntai.control import cpu_baseline, errors
from yuntai.control.errors import ApiError
from yuntai.control.requests.base import transact
from yuntai.control.unit import Unit
from yuntai.model.base import ago_utc, now_utc
from yuntai.model.cluster import ChunkServer, Gateway, Host, HostPool, Volume
from yuntai.model.compute import Instance
from yuntai.model.joining import RemovedHost
from yuntai.model.placement import DedicatedHost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yuntai.control.requests.types import Caller
    from yuntai.state import Store

DOMAIN = "hosts"
"""What changes who is a host, or what a pool promises, passes here one after the other."""
LABELS_MAX = 32
AWAIT_MINUTES_MAX = 24 * 60
NAMED_MAX = 5
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_VALUE = re.compile(r"[ -~]{0,63}")


async def need_host(unit: Unit, host_id: str) -> Host:
    """Return the host or the API's error."""
    found = await unit.get(Host, host_id) if host_id and host_id.isprintable() else None
    if found is None:
        raise errors.not_found("host", host_id, "InvalidHostId.NotFound")
    return found


async def drain(store: Store, caller: Caller, host_id: str, *, undo: bool = False) -> None:
    """Have everything moved away from a host, and nothing placed on it; ``undo``: let it take instances again."""

    async def body(unit: Unit) -> None:
        host = await need_host(unit, host_id)
        if undo:
            unit.put(msgspec.structs.replace(host, maintenance="", waiting={}))
        elif not host.maintenance:
            unit.put(msgspec.structs.replace(host, maintenance="draining", waiting={}))

    await transact(store, caller, body, type(None))


async def forgive(store: Store, caller: Caller, host_id: str) -> int:
    """Let a host take instances again that failed too often lately; return how many failures count no longer."""

    async def body(unit: Unit) -> int:
        host = await need_host(unit, host_id)
        if host.downs or host.jailed_until:
            unit.put(msgspec.structs.replace(host, downs=(), jailed_until=""))
        return len(host.downs)

    return await transact(store, caller, body, int)


async def wait_for(store: Store, caller: Caller, host_id: str, minutes: int) -> str:
    """Set how long from now a host is awaited that was off with all others; return until when that is."""
    if not 0 <= minutes <= AWAIT_MINUTES_MAX:
        raise errors.invalid("Minutes", minutes, f"choose 0 (it is failed now) to {AWAIT_MINUTES_MAX}")

    async def body(unit: Unit) -> str:
        host = await need_host(unit, host_id)
        if host.awaited_until <= now_utc():
            raise ApiError(
                "IncorrectHostStatus",
                f"The host {host_id} is not awaited: that is only one that was off with all others and is not back "
                "yet; `yuntai host list` shows which are.",
                errors.CONFLICT,
            )
        until = ago_utc(-60.0 * minutes)
        unit.put(msgspec.structs.replace(host, awaited_since=now_utc(), awaited_until=until))
        return until

    return await transact(store, caller, body, str)


async def label(
    store: Store, caller: Caller, host_id: str, labels: Mapping[str, str], remove: Sequence[str] = ()
) -> dict[str, str]:
    """Set and remove labels of a host; return all that it has then."""
    for key, value in labels.items():
        if not _KEY.fullmatch(key):
            raise errors.invalid("Label.Key", key, "use 1 to 63 letters, digits and . _ / -, a letter or digit first")
        if not _VALUE.fullmatch(value):
            raise errors.invalid("Label.Value", value, "use up to 63 printable ASCII characters")

    async def body(unit: Unit) -> dict[str, str]:
        host = await need_host(unit, host_id)
        after = {key: value for key, value in {**host.labels, **labels}.items() if key not in remove}
        if len(after) > LABELS_MAX:
            raise errors.invalid("Label", f"{len(after)} labels", f"a host has at most {LABELS_MAX}; remove some")
        unit.put(msgspec.structs.replace(host, labels=after))
        return after

    return await transact(store, caller, body, dict[str, str])


async def remove(store: Store, caller: Caller, host_id: str) -> None:
    """Forget a host on which nothing is any more. Its chunk servers are removed before, one by one.

    The pool's baseline rises if this host was what kept it low.
    """

    async def body(unit: Unit) -> None:
        await unit.guard(DOMAIN)
        host = await need_host(unit, host_id)
        await _nothing_left(unit, host)
        unit.delete(Host, host.id)
        unit.delete(Gateway, host.id)
        await unit.get(RemovedHost, host.id)
        unit.put(RemovedHost(id=host.id, removed=now_utc()))
        pool = await unit.get(HostPool, host.pool)
        others = [one for one in await unit.list(Host) if one.id != host.id]
        if pool is not None:
            after = cpu_baseline.raised(pool, others, now_utc())
            if after != pool:
                unit.put(after)

    await transact(store, caller, body, type(None))


async def check_drained(store: Store, host_id: str) -> None:
    """Raise the API's error for a host that is not drained."""
    _need_drained(await need_host(Unit(store), host_id))


def _need_drained(host: Host) -> None:
    if host.maintenance != "drained":
        raise ApiError(
            "IncorrectHostStatus",
            f"The host {host.id} is not drained; run `yuntai host drain {host.id}` first.",
            errors.CONFLICT,
        )


async def _nothing_left(unit: Unit, host: Host) -> None:
    _need_drained(host)
    guests = sorted(i.id for i in await unit.list(Instance) if host.id in (i.host, i.migrating_to))
    servers = sorted(s.id for s in await unit.list(ChunkServer) if s.host == host.id)
    volumes = sorted(v.id for v in await unit.list(Volume) if v.host == host.id and v.state == "attached")
    dedicated = sorted(d.id for d in await unit.list(DedicatedHost) if d.host == host.id)
    ways_out = (
        ("instances", guests, "they are moved by `yuntai host drain`, or delete them"),
        ("chunk servers", servers, "empty and remove them first: `yuntai host drain --storage`, `host remove` again"),
        ("open volumes", volumes, "detach them"),
        ("dedicated hosts", dedicated, "have their owner release them"),
    )
    left = [
        f"{what} {', '.join(ids[:NAMED_MAX])}{' …' if len(ids) > NAMED_MAX else ''} ({way_out})"
        for what, ids, way_out in ways_out
        if ids
    ]
    if left:
        raise errors.dependency("DependencyViolation", f"The host {host.id} still has {'; '.join(left)}.")
