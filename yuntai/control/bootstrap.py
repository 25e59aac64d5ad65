"""The first account and its access key, from a file that whoever set up the cluster wrote beside the secrets.

``<secrets_dir>/credentials.json``, mode 0600:
``{"account": "1000000000000001", "access_key_id": "…", "access_key_secret": "…"}``, and optionally ``"name"`` and
``"operator"`` (true unless it says otherwise). Records that exist are left as they are.
"""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from yuntai import log
from yuntai.config import ConfigError
from yuntai.model.base import now_utc
from yuntai.model.cluster import AccessKey, Account
from yuntai.state import Exists

if TYPE_CHECKING:
    from yuntai.model.base import Record
    from yuntai.state import Store

FILE_NAME = "credentials.json"
PERIOD_S = 5.0

_log = log.get("bootstrap")


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    account: str
    access_key_id: str
    access_key_secret: str
    name: str = "default"
    operator: bool = True


def read(path: Path) -> Credentials | None:
    """Return the file's contents, or ``None`` if there is no file; raise :class:`ConfigError` if it cannot be used."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; let the control process read it") from error
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:04o}, so other users can read the key; run: chmod 600 {path}")
    try:
        return msgspec.json.decode(raw, type=Credentials)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is wrong: {error}; correct the field named there") from error


async def ensure(store: Store, credentials: Credentials) -> None:
    """Write the account and the key if they are not there."""
    now = now_utc()
    wanted: tuple[Record, ...] = (
        Account(id=credentials.account, name=credentials.name, created=now),
        AccessKey(
            id=credentials.access_key_id,
            account=credentials.account,
            secret=credentials.access_key_secret,
            operator=credentials.operator,
            created=now,
        ),
    )
    for record in wanted:
        try:
            await store.create(record)
        except Exists:
            continue
        _log.info("created", kind=record.KIND, id=record.id)


async def run(store: Store, path: Path) -> None:
    """Wait for the file, and ensure what it says; once."""
    while True:
        credentials = await asyncio.to_thread(read, path)
        if credentials is not None:
            await ensure(store, credentials)
            return
        await asyncio.sleep(PERIOD_S)
