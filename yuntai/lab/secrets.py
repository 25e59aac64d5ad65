"""The secrets of a lab cluster and its first access key: made once, kept in the data folder, copied into each host."""

from __future__ import annotations

import os
import secrets
import string
from pathlib import Path

import msgspec

from yuntai.lab.layout import Home
from yuntai.lab.spec import HostSpec

# Beside these 32-byte secrets lies the first account's key, for the control process.
CLUSTER_SECRETS = ("cluster", "token")
FIRST_KEY = "credentials.json"
KEY_ID_DIGITS, KEY_SECRET_DIGITS = 20, 30
_ALPHABET = string.ascii_letters + string.digits


class FirstKey(msgspec.Struct, frozen=True, kw_only=True):
    """The first account and its access key, as the control process reads them."""

    account: str
    access_key_id: str
    access_key_secret: str


class UserCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """What the user's command line reads: the same key, and where the API is."""

    endpoint: str
    access_key_id: str
    access_key_secret: str
    region: str


def make_secrets(spec: HostSpec, home: Home) -> None:
    """Make the cluster's secrets where they are missing, and write the user's credentials anew.

    Secrets are never changed afterwards; the credentials' endpoint follows the cluster's port.
    """
    home.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.secrets.chmod(0o700)
    for name in CLUSTER_SECRETS:
        if not (home.secrets / name).exists():
            write_private(home.secrets / name, secrets.token_hex(32).encode() + b"\n")
    path = home.secrets / FIRST_KEY
    if not path.exists():
        key = FirstKey(
            account=spec.config().account,
            access_key_id="LTAI" + _random(KEY_ID_DIGITS),
            access_key_secret=_random(KEY_SECRET_DIGITS),
        )
        write_private(path, msgspec.json.encode(key))
    if spec.cluster.api_port:
        key = msgspec.json.decode(path.read_bytes(), type=FirstKey)
        mine = UserCredentials(
            endpoint=f"http://127.0.0.1:{spec.cluster.api_port}",
            access_key_id=key.access_key_id,
            access_key_secret=key.access_key_secret,
            region=spec.cluster.region,
        )
        write_private(home.credentials, msgspec.json.format(msgspec.json.encode(mine), indent=2) + b"\n")


def _random(digits: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(digits))


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` as a whole by a file that only its owner can read, from its first byte on."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)
