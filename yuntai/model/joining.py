"""How a host comes into the cluster and leaves it: tokens, and what is remembered of one that was removed."""

from __future__ import annotations

from typing import ClassVar

from yuntai.model.base import Record


class HostToken(Record, frozen=True, kw_only=True):
    """Lets one host in, once, until it expires. ``id`` is the public part; of the secret only a hash is kept."""

    KIND: ClassVar[str] = "host_token"

    secret_sha256: str
    created: str
    expires: str
    pool: str = "default"
    rack: str = ""  # "" = whoever joins says it
    lower_baseline: bool = False
    used: str = ""  # when
    used_by: str = ""  # the machine's own id: the same machine may come again with the same token
    host: str = ""  # the host that it became


class RemovedHost(Record, frozen=True, kw_only=True):
    """A host that was removed: its agent, should it still run, does not enter it again. Joining anew forgets this."""

    KIND: ClassVar[str] = "removed_host"

    removed: str
    forgotten_by_network: bool = False  # its place in the virtual network has been cleared
