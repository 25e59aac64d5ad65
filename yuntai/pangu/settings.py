"""What the operator may tune: names, meanings, and where each takes effect. Pure.

A value that was never set is left to the program that it is for; the master's own have their defaults here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from yuntai.model.cluster import PanguSettings
from yuntai.pangu.errors import Invalid

SETTINGS_ID = "pangu"


@dataclass(frozen=True, slots=True)
class Tunable:
    """One of them. ``default`` is known here only for the master's own."""

    where: Literal["master", "gateway", "server"]
    meaning: str
    default: int | None = None
    least: int = 0
    most: int = 1 << 50


TUNABLES: dict[str, Tunable] = {
    "repair_after_s": Tunable("master", "a server away for longer is rebuilt elsewhere", 600, 1),
    "repair_bytes_per_s": Tunable("master", "moves of all volumes together; 0 = none", 512 << 20),
    "moves_at_once": Tunable("master", "moves on their way in the whole store", 256, 1, 10_000),
    "moves_per_volume": Tunable("master", "moves on their way in one volume", 32, 1, 256),
    "moves_per_server": Tunable("master", "moves on their way to one server", 16, 1, 1_000),
    "balance_spread_ppm": Tunable("master", "balance begins at this difference of used space", 50_000, 1, 1_000_000),
    "tend_after_s": Tunable("master", "a volume not attached is opened for repair after this", 10),
    "hydrate_after_s": Tunable("master", "a clone not attached is opened to hydrate after this", 60),
    "tended_at_once": Tunable("master", "unattached volumes that are open for repair", 16, 0, 1_000),
    "garbage_every_s": Tunable("master", "servers are asked for replicas that nothing names", 600, 1),
    "unknown_volume_after_s": Tunable(
        "master", "a volume without a record is deleted from disks after this", 86_400, 1
    ),
    "rebuild_bytes_per_s": Tunable("gateway", "rebuilding, all volumes of a gateway, guests quiet; 0 = none"),
    "rebuild_busy_bytes_per_s": Tunable("gateway", "the same while a guest of the gateway is at work; 0 = none"),
    "hydrate_bytes_per_s": Tunable("gateway", "copying from sources, all volumes of a gateway, guests quiet; 0 = none"),
    "hydrate_busy_bytes_per_s": Tunable("gateway", "the same while a guest of the gateway is at work; 0 = none"),
    "scrub_bytes_per_s": Tunable("server", "reading to find damage; 0 = none"),
    "scrub_period_s": Tunable("server", "a whole scrub begins so often"),
    "sweep_bytes_per_s": Tunable("server", "freeing what no snapshot shows any more; 0 = none"),
    "pull_bytes_per_s": Tunable("server", "what a server copies for rebuilding; 0 = none"),
}


def value(settings: PanguSettings, name: str) -> int:
    """Return one of the master's own tunables."""
    default = TUNABLES[name].default
    if default is None:
        raise ValueError(f"{name} is no tunable of the master")
    return settings.tunables.get(name, default)


def changed(settings: PanguSettings, values: Mapping[str, int | None]) -> PanguSettings:
    """Return the record with values set, or taken back (``None``); raise :class:`Invalid` for what cannot be."""
    tunables = dict(settings.tunables)
    for name, wanted in values.items():
        known = TUNABLES.get(name)
        if known is None:
            raise Invalid(f"there is no tunable {name!r}; there are: {', '.join(sorted(TUNABLES))}")
        if wanted is None:
            tunables.pop(name, None)
        elif not known.least <= wanted <= known.most:
            raise Invalid(f"{name} is {wanted}: give a number from {known.least} to {known.most}, or `default`")
        else:
            tunables[name] = wanted
    return PanguSettings(id=settings.id, v=settings.v, tunables=tunables, balancing=settings.balancing)


def pushed(settings: PanguSettings, where: Literal["gateway", "server"]) -> dict[str, int]:
    """Return what is set for the gateways or for the chunk servers."""
    # A name that another version set is not known here, and not told.
    known = {name: number for name, number in sorted(settings.tunables.items()) if name in TUNABLES}
    return {name: number for name, number in known.items() if TUNABLES[name].where == where}
