"""The bodies of the master's HTTP API: what clients send and what they get."""

from __future__ import annotations

import msgspec

from yuntai.model.cluster import VolumeSource


class CreateVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes``. With the same ``id``, or the same ``client_token``, it is the same volume."""

    size_bytes: int
    id: str = ""
    source: VolumeSource | None = None
    client_token: str = ""
    keep_s: int = 0  # above 0: an auxiliary volume, deleted after so long unless it is asked for by `Keep` in time


class Keep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/keep``: an auxiliary volume is still needed, for this long at least; 0 = for good."""

    keep_s: int


class Attach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/attach``. ``node`` (read-only) shows a snapshot in place of the head.

    ``if_generation``: refuse if the volume was given to anybody since it had this generation.
    """

    host: str
    read_only: bool = False
    node: int = -1
    if_generation: int = -1


class HandOver(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/announce`` and ``…/take``: the guest moves to ``host``, in this migration."""

    host: str
    ticket: str


class CallOff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/handovers/call-off``: ``host`` is not to take any of these volumes any more."""

    volumes: tuple[str, ...]
    host: str
    ticket: str


class CalledOff(msgspec.Struct, frozen=True, kw_only=True):
    """Answer: ``taken`` if it is too late because ``host`` has one of them."""

    taken: bool


class Detach(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/detach``. ``force`` goes on when the gateway does not answer."""

    host: str
    force: bool = False


class Resize(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/resize``."""

    size_bytes: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/snapshot``. With the same ``name`` it is the same snapshot."""

    name: str = ""


class WhatChanged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/changes``: from node ``since`` (-1: from nothing) to snapshot ``node``."""

    node: int
    since: int = -1
    first_chunk: int = 0
    chunks: int = 64


class SnapshotGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/snapshot-groups``: volume → its snapshot's name. With the same names it is the same group."""

    volumes: dict[str, str]


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/volumes/{id}/rollback``: to a snapshot, by node or name. With the same ``token`` it is done once."""

    snapshot: str
    token: str = ""


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attached volume is served: ``uri`` is for QEMU and libnbd on the volume's host."""

    volume: str
    generation: int
    socket: str
    uri: str


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that was taken."""

    node: int


class GroupTaken(msgspec.Struct, frozen=True, kw_only=True):
    """A group that was taken: volume → node."""

    nodes: dict[str, int]


def nbd_uri(export: str, socket: str) -> str:
    """Return the NBD URI of an export on a unix socket."""
    return f"nbd+unix:///{export}?socket={socket}"


class Set(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/pangu/settings``. ``null`` takes a value back."""

    values: dict[str, int | None]


class Drain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/pangu/drain``. Servers (``cs-2``), or all of a rack."""

    servers: tuple[str, ...] = ()
    rack: str = ""
    undo: bool = False


class Balance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/pangu/balance``."""

    stop: bool = False


class Scrub(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/pangu/scrub``. No servers: all."""

    servers: tuple[str, ...] = ()


class GiveUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/pangu/give_up``. ``data_is_lost`` must be said."""

    server: str
    data_is_lost: bool = False


class Salvage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/pangu/salvage``."""

    volume: str
    chunk: int
