"""The CPU that every guest of a pool gets, and which hosts can give it. Pure: records in, reasons or records out.

A guest reads once, at its start, what its processor can do, and believes it for ever: it patches its code by the
features, and keeps the number of machine-check banks in memory. So a guest may only go where nothing of that is
missing. Each pool therefore has a baseline: the features that all of its hosts have, and the smallest number of banks.
A guest gets the baseline and no more, and what it got stands in its record.

Features are named as libvirt names them. An empty set or the number 0 means "not known", which is never enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from yuntai.model.cluster import HostPool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from yuntai.model.cluster import Host
    from yuntai.model.compute import Instance


def missing(
    host: Host, features: Collection[str], mce_banks: int = 0, *, vendor: str = "", accelerator: str = ""
) -> tuple[str, ...]:
    """Return what ``host`` lacks of what is wanted, each as a few words that follow the host's name; empty = nothing.

    What is not wanted ("", 0, nothing) is not looked at.
    """
    reasons: list[str] = []
    if accelerator and host.accelerator != accelerator:
        reasons.append(f"it runs guests by {host.accelerator}, not by {accelerator}")
    if vendor and host.cpu_vendor != vendor:
        reasons.append(f"its CPU is of {host.cpu_vendor or 'an unknown vendor'}, not of {vendor}")
    if features and not host.cpu_features:
        reasons.append("it has not reported yet what its CPU can do")
    elif lacking := sorted(set(features).difference(host.cpu_features)):
        reasons.append(f"its CPU lacks {', '.join(lacking)}")
    if mce_banks > host.mce_banks:
        has = f"it has {host.mce_banks}" if host.mce_banks else "it has not reported its"
        reasons.append(f"{has} machine-check banks, {mce_banks} are needed")
    return tuple(reasons)


def missing_for_pool(host: Host, pool: HostPool | None) -> tuple[str, ...]:
    """Return why no guest of ``pool`` may be started on ``host``: a host that lost something since it joined, say.

    ``pool`` is the pool that the host names; one that was never computed wants nothing.
    """
    if pool is None:
        return ()
    return missing(host, pool.cpu_features, pool.mce_banks, vendor=pool.cpu_vendor, accelerator=pool.accelerator)


def missing_for_guest(host: Host, instance: Instance, source: Host) -> tuple[str, ...]:
    """Return why the running guest of ``instance`` must not be moved from ``source`` to ``host`` while it runs."""
    if not instance.cpu_features or not instance.mce_banks:
        return ("what CPU the guest was started with is not known; stop and start the instance once",)
    reasons = missing(
        host,
        instance.cpu_features,
        instance.mce_banks,
        vendor=source.cpu_vendor,
        accelerator=source.accelerator,
    )
    if host.pool != source.pool:
        reasons = (f"it is in the pool {host.pool}, the guest in {source.pool}", *reasons)
    return reasons


def first(pool_id: str, host: Host, now: str) -> HostPool:
    """Return the pool that its first host makes: all that this host has."""
    return HostPool(
        id=pool_id,
        cpu_model=host.cpu_model,
        cpu_vendor=host.cpu_vendor,
        cpu_features=tuple(sorted(host.cpu_features)),
        mce_banks=host.mce_banks,
        accelerator=host.accelerator,
        computed=now,
    )


def lowered(pool: HostPool, host: Host, now: str) -> HostPool:
    """Return the pool as it is with ``host`` in it too: what both have.

    Guests that run keep what they have, and do not go to the new host before they are stopped and started.
    """
    return replace(
        pool,
        cpu_features=tuple(sorted(set(pool.cpu_features).intersection(host.cpu_features))),
        mce_banks=min(pool.mce_banks, host.mce_banks),
        computed=now,
    )


def impossible(pool: HostPool, host: Host) -> tuple[str, ...]:
    """Return what keeps ``host`` out of the pool even where the baseline may be lowered; empty = nothing."""
    reasons = list(missing(host, (), vendor=pool.cpu_vendor, accelerator=pool.accelerator))
    if not host.cpu_features or not host.mce_banks:
        reasons.append("what its CPU can do is not known")
    return tuple(reasons)


def raised(pool: HostPool, hosts: Iterable[Host], now: str) -> HostPool:
    """Return the pool after the weakest host left: what all of ``hosts`` have, if that is more than before.

    It is never less: a host that lost a feature is left out of placing instead.
    """
    there = [host for host in hosts if host.pool == pool.id]
    if not there:
        return pool
    common = set(there[0].cpu_features).intersection(*(host.cpu_features for host in there[1:]))
    banks = min(host.mce_banks for host in there)
    if not common.issuperset(pool.cpu_features) or banks < pool.mce_banks:
        return pool
    if common == set(pool.cpu_features) and banks == pool.mce_banks:
        return pool
    return replace(pool, cpu_features=tuple(sorted(common)), mce_banks=banks, computed=now)
