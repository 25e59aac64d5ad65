"""The table of actions: what each takes, what it answers, and the function behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from yuntai.api.cache import CachedStore
from yuntai.api.errors import unknown_action, unknown_version
from yuntai.api.params import Params
from yuntai.api.shape import Shape
from yuntai.control.requests.types import Caller, Paging
from yuntai.model.cluster import AccessKey, Volume, VolumeSource
from yuntai.pangu.requests import Attached
from yuntai.pangu.tree import Tree

ECS = "2014-05-26"
VPC = "2016-04-28"
STS = "2015-04-01"
LOCATION = "2015-06-12"
YUNTAI = "2026-11-23"
"""The operator's own product."""

READ_PREFIXES = ("Describe", "List", "Get")


class ConsoleReader(Protocol):
    """Where the text that a guest printed on its serial console comes from."""

    async def read(self, host: str, instance_id: str, path: str) -> tuple[bytes, str]:
        """Return the end of the log and the time of its last change, both empty where there is none."""


class Volumes(Protocol):
    """What the operator's actions ask of the block store; :class:`yuntai.pangu.client.PanguClient` is one."""

    async def create_volume(
        self, size_bytes: int, *, source: VolumeSource | None = None, client_token: str = "", keep_s: int = 0
    ) -> Volume:
        """Create a volume, empty or on a snapshot of another one; one that is kept for a time only, with ``keep_s``."""

    async def keep(self, volume_id: str, keep_s: int) -> None:
        """Say that such a volume is still needed."""

    async def delete_volume(self, volume_id: str) -> None:
        """Delete a volume; fine if it is gone."""

    async def resize(self, volume_id: str, size_bytes: int) -> Volume:
        """Make a volume larger."""

    async def attach(self, volume_id: str, host: str, *, read_only: bool = False, node: int = -1) -> Attached:
        """Have a host serve a volume."""

    async def detach(self, volume_id: str, host: str) -> Volume:
        """Have a host let go of a volume."""

    async def operate(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the store for a report, or with a body tell it to do something."""

    async def masters(self) -> dict[str, str]:
        """Return every master's URL and its role."""

    async def remove_server(self, server_id: str) -> None:
        """Forget a chunk server that was drained."""

    async def stats(self, volume_id: str) -> dict[str, Any]:
        """Return what the volume's gateway counts of it; empty when no host has it open."""

    async def snapshot(self, volume_id: str, name: str = "") -> int:
        """Freeze a volume as it is now and return the node; the same name gives the same node."""

    async def changes(
        self, volume_id: str, node: int, *, since: int = -1, first_chunk: int = 0, chunks: int = 64
    ) -> list[tuple[int, int, bool]]:
        """Return what may differ between two nodes: first block from the first chunk on, blocks, whether data."""

    async def tree(self, volume_id: str, *, fresh: bool = False) -> Tree:
        """Return the tree of a volume's snapshots."""


@dataclass(frozen=True, slots=True)
class Context:
    """What handlers work with; one per process. ``reads`` is the cached view of the records, ``writes`` the fresh."""

    region: str
    zone: str
    cluster: str
    reads: CachedStore
    writes: CachedStore
    console: ConsoleReader
    volumes: Volumes
    join_endpoints: tuple[str, ...] = ()  # where hosts are let in
    join_fingerprint: bytes = b""  # of the certificate there


@dataclass(frozen=True, slots=True)
class Call:
    """One request whose sender is known and whose arguments are typed."""

    context: Context
    caller: Caller
    key: AccessKey
    args: dict[str, Any]
    endpoint: str  # how the client reached us: the Host header

    def text(self, name: str) -> str:
        """Return a text argument, "" where it is not given."""
        value: str = self.args.get(name, "")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list argument, empty where it is not given."""
        return tuple(self.args.get(name, ()))

    def paging(self) -> Paging:
        """Return the page that the caller wants, clamped to what the API allows."""
        return Paging(
            page_number=max(1, self.args.get("PageNumber", 1)),
            page_size=min(100, max(1, self.args.get("PageSize", 10))),
            next_token=self.text("NextToken"),
            max_results=min(100, max(1, self.args["MaxResults"])) if "MaxResults" in self.args else None,
        )

    def tags(self) -> dict[str, str]:
        """Return ``Tag.N.Key``/``Tag.N.Value`` for a create."""
        return {tag["Key"]: tag.get("Value", "") for tag in self.args.get("Tag", ())}

    def tag_filter(self) -> dict[str, str | None]:
        """Return ``Tag.N.Key``/``Tag.N.Value`` for a filter; a tag without a value matches any."""
        return {tag["Key"]: tag.get("Value") for tag in self.args.get("Tag", ())}


Handler: TypeAlias = Callable[[Call], Awaitable[dict[str, Any]]]

TAGS = " Tag[]{Key! Value}"
"""Parameters of everything that has tags."""
PAGES = " PageNumber:i PageSize:i"
TOKENS = " NextToken MaxResults:i"


@dataclass(frozen=True, slots=True)
class Action:
    """One action of one product."""

    version: str
    name: str
    params: Params
    answer: Shape
    handler: Handler
    writes: bool
    operator: bool


ACTIONS: dict[str, dict[str, Action]] = {}


def action(
    version: str, name: str, params: str = "", answer: str = "", *, operator: bool = False
) -> Callable[[Handler], Handler]:
    """Enter the decorated function into the table; ``RequestId`` and the sent ``RegionId`` need not be written."""

    def enter(handler: Handler) -> Handler:
        table = ACTIONS.setdefault(version, {})
        if name in table:
            raise ValueError(f"action {name} of {version} is defined twice")
        table[name] = Action(
            version=version,
            name=name,
            params=Params(params),
            answer=Shape(f"{answer} RequestId"),
            handler=handler,
            writes=not name.startswith(READ_PREFIXES),
            operator=operator,
        )
        return handler

    return enter


def find(version: str, name: str) -> Action:
    """Return the action that a request names, or raise the 404 that clients print well."""
    table = ACTIONS.get(version)
    if table is None:
        raise unknown_version(version, sorted(ACTIONS))
    found = table.get(name)
    if found is None:
        raise unknown_action(name)
    return found
