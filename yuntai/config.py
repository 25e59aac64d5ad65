"""The one configuration file of a host: every Python process of Yuntai reads it and nothing else.

It is written by whoever sets up the host (``yuntai.lab`` for a lab host, the operator for a real one) and read once at
start. A field that cannot be used stops the process with the field, its value and the way out.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

DEFAULT_PATH = "/etc/yuntai/yuntai.json"
PATH_VARIABLE = "YUNTAI_CONFIG"
SECRET_BYTES = 32


class ConfigError(Exception):
    """The configuration cannot be used; the text says which field, what it holds, and what to do."""


class ChunkServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One chunk server that this host runs: one process for one disk."""

    id: int
    rack: str
    port: int
    path: str


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificates in PEM, for TLS between hosts: this host's own with its key, and the cluster's authority."""

    cert: str
    key: str
    ca: str


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process must know before it can reach etcd; everything else it reads there."""

    cluster: str
    host: str
    address: str
    etcd: list[str]
    region: str = "cn-local"
    zone: str = "cn-local-a"
    data_dir: str = "/var/lib/yuntai"
    run_dir: str = "/run/yuntai"
    log_dir: str = "/var/log/yuntai"
    secrets_dir: str = "/etc/yuntai/secrets"
    ovn_nb: str = "unix:/run/ovn/ovnnb_db.sock"
    ovn_sb: str = "unix:/run/ovn/ovnsb_db.sock"
    api_port: int = 8080
    master_port: int = 7300
    gateway_port: int = 7200
    agent_port: int = 7400
    join_port: int = 8443  # where the API lets hosts in, by TLS
    chunkservers: list[ChunkServer] = msgspec.field(default_factory=list)
    account: str = "1000000000000001"
    tls: Tls | None = None
    mce_banks: int = 0  # reported in place of what is found; 0 = what is found. For trying unequal hosts.

    def secret(self, name: str) -> bytes:
        """Return the 32 bytes of the secret ``name`` (``cluster`` or ``token``) from :attr:`secrets_dir`."""
        return read_secret(Path(self.secrets_dir) / name)


def config_path() -> Path:
    """Return the path that :func:`load` reads when it is given none."""
    return Path(os.environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path | str | None = None) -> Config:
    """Read and check the configuration; raise :class:`ConfigError` where it is missing or wrong."""
    where = Path(path) if path is not None else config_path()
    try:
        raw = where.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {where}: {error.strerror}; write it, or name another in {PATH_VARIABLE}"
        ) from error
    try:
        config = msgspec.json.decode(raw, type=Config)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the configuration {where} is wrong: {error}; correct the field named there") from error
    _check(config, where)
    return config


def encode(config: Config) -> bytes:
    """Return the file's bytes for ``config``, indented for a human reader."""
    return msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"


def read_secret(path: Path) -> bytes:
    """Read a secret written as 64 hexadecimal digits; refuse one that other users of the machine can read."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the secret {path}: {error}; copy it from another host of the cluster"
        ) from error
    if mode & 0o077:
        raise ConfigError(f"the secret {path} has mode {mode:04o}, so other users can read it; run: chmod 600 {path}")
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise ConfigError(f"the secret {path} is not {2 * SECRET_BYTES} hexadecimal digits; copy it from another host")
    return secret


def _check(config: Config, where: Path) -> None:
    for field in ("cluster", "host", "address", "region", "zone"):
        if not getattr(config, field):
            raise ConfigError(f"{where}: `{field}` is empty; give it a value")
    if not config.etcd:
        raise ConfigError(f'{where}: `etcd` is empty; list at least one endpoint, such as "10.0.0.1:2379"')
    for endpoint in config.etcd:
        address, _, port = endpoint.rpartition(":")
        if not address or not port.isdigit():
            raise ConfigError(f'{where}: `etcd` has {endpoint!r}; write it as "address:port" without a scheme')
    for field in ("api_port", "master_port", "gateway_port", "agent_port", "join_port"):
        if not 0 < getattr(config, field) < 65536:
            raise ConfigError(f"{where}: `{field}` is {getattr(config, field)}; choose a port from 1 to 65535")
    ids = [server.id for server in config.chunkservers]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{where}: `chunkservers` has the same id twice in {ids}; give each server its own")
