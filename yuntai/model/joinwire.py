"""What a host that joins and the cluster say to each other, and the text of the token that lets it in.

The token carries the fingerprint of the certificate that the cluster answers with, so that whoever joins needs no
other trust: it speaks to nobody else, and the cluster speaks to nobody without a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

import msgspec

PREFIX = "ytj1."
PATH_HELLO, PATH_JOIN = "/join/v1/hello", "/join/v1/join"
BODY_BYTES_MAX = 256 * 1024


class TokenError(ValueError):
    """The text is no token; the message says what to do."""


class Token(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the text of a token holds."""

    endpoints: tuple[str, ...]  # "10.78.0.1:8443"
    fingerprint: bytes  # SHA-256 of the certificate there, in DER
    id: str
    secret: bytes


class PoolNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """The pool that the host would be in, and the CPU that guests in it get."""

    id: str
    accelerator: str = ""
    cpu_vendor: str = ""
    cpu_features: tuple[str, ...] = ()
    mce_banks: int = 0
    known: bool = True  # false: it has no host yet, so that anything is right


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A host that is there already."""

    id: str
    address: str
    chunk_ports: tuple[int, ...] = ()


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster tells a host that has a token and has not joined: nothing secret."""

    cluster: str
    now_unix_s: float
    pool: PoolNeeds
    lower_baseline: bool
    rack: str
    peers: tuple[Peer, ...]
    versions: dict[str, str]  # the oldest of each in the cluster
    gateway_port: int
    agent_port: int
    tls: bool  # hosts of this cluster have certificates


class ChunkDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A folder on a disk of its own for one chunk server."""

    path: str
    port: int


class Joining(msgspec.Struct, frozen=True, kw_only=True):
    """What a host asks for when its preflight was good. ``machine`` is the machine's own id: it may ask again."""

    machine: str
    host: str
    address: str
    rack: str
    disks: tuple[ChunkDisk, ...]
    cpus: int
    memory_mib: int
    accelerator: str
    cpu_model: str
    cpu_vendor: str
    cpu_features: tuple[str, ...]
    mce_banks: int
    mce_banks_hardware: int = 0
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    tls: dict[str, str] | None = None  # this host's certificate files, where the cluster has them


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What it gets: its configuration file and the cluster's secrets, as the files' text."""

    config: str
    secrets: dict[str, str]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why not, for a person."""

    message: str


def write_token(token: Token) -> str:
    """Return the token as one word."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


def read_token(text: str) -> Token:
    """Read a token's text; raise :class:`TokenError` for anything else."""
    body = text.strip().removeprefix(PREFIX)
    wrong = "this is no host token: copy the whole word that `yuntai host token` printed"
    if body == text.strip():
        raise TokenError(wrong)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.msgpack.decode(raw, type=Token)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise TokenError(wrong) from error
    if len(token.fingerprint) != 32 or not token.endpoints or not token.secret:
        raise TokenError(wrong)
    return token


def secret_hash(secret: bytes) -> str:
    """Return what is stored of a token's secret; it has 256 random bits, so that no slow hash is needed."""
    return hashlib.sha256(b"yuntai host token\0" + secret).hexdigest()


def version_key(version: str) -> tuple[int, ...]:
    """Return what versions are ordered by: their numbers."""
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:4])
