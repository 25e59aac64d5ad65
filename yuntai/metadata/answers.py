"""From a request to an answer: paths, versions, both dialects. Pure but for the clock that the caller passes in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from yuntai.metadata import tree
from yuntai.metadata.tokens import TTL_MAX_S, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yuntai.metadata.tree import Subject

Dialect = Literal["aliyun", "ec2"]
VERSIONS = ("2009-04-04", "2016-01-01", "2016-09-02", "2018-09-24", "2021-03-23", "latest")
_VERSION = re.compile(r"latest|\d{4}-\d{2}-\d{2}|1\.0")
_TTL_HEADERS = ("x-aliyun-ecs-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token-ttl-seconds")
_TOKEN_HEADERS = ("x-aliyun-ecs-metadata-token", "x-aws-ec2-metadata-token")
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body, its type, and further headers."""

    status: int
    body: bytes = b""
    kind: str = TEXT
    headers: dict[str, str] = field(default_factory=dict)


def refuse(status: int, text: str) -> Answer:
    """Return an answer that says why not."""
    return Answer(status, text.encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request without its body, which no request here has. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    dialect: Dialect


class Answers:
    """Answers requests of a known subject."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def answer(self, asked: Asked, subject: Subject, now_s: float) -> Answer:
        """Return the answer."""
        parts = tuple(part for part in asked.path.partition("?")[0].split("/") if part)
        if asked.method == "PUT":
            return self._token(asked, parts, subject, now_s)
        if asked.method not in {"GET", "HEAD"}:
            return Answer(405, b"only GET and PUT\n", headers={"Allow": "GET, HEAD, PUT"})
        for name in _TOKEN_HEADERS:
            if name in asked.headers and not self._tokens.valid(asked.headers[name], subject.port.id, now_s):
                return refuse(401, "the token is not valid (any more); PUT /latest/api/token for a new one")
        if not parts:
            return Answer(200, "\n".join(VERSIONS).encode())
        if not _VERSION.fullmatch(parts[0]):
            return refuse(404, f"there is no version {parts[0]!r}; use latest")
        return _read(parts[1:], subject, asked.dialect)

    def _token(self, asked: Asked, parts: tuple[str, ...], subject: Subject, now_s: float) -> Answer:
        if parts[1:] != ("api", "token"):
            return refuse(405, "PUT is for /latest/api/token")
        if "x-forwarded-for" in asked.headers:
            # A proxy that forwards for others must not fetch this instance's token for them.
            return refuse(403, "a token is not given through a proxy")
        text = next((asked.headers[name] for name in _TTL_HEADERS if name in asked.headers), "")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= TTL_MAX_S:
            return refuse(400, f"{_TTL_HEADERS[0]} is {text[:32]!r}; give 1 to {TTL_MAX_S} seconds")
        token = self._tokens.make(subject.port.id, int(text), now_s)
        ttl_header = next(name for name in _TTL_HEADERS if name in asked.headers)
        return Answer(200, token.encode(), headers={ttl_header: text})


def _read(parts: tuple[str, ...], subject: Subject, dialect: Dialect) -> Answer:
    match parts:
        case ():
            return Answer(200, _top(subject).encode())
        case ("user-data",):
            return _data(tree.user_data(subject), "user-data")
        case ("vendor-data",):
            return _data(tree.vendor_data(subject), "vendor-data")
        case ("meta-data", "all"):
            return Answer(200, json.dumps(tree.meta_data(subject)).encode(), JSON)
        case ("meta-data", *below):
            return _branch(tree.meta_data(subject), tuple(below), subject, dialect)
        case ("dynamic", *below):
            identity: tree.Tree = {"instance-identity": {"document": tree.identity_document(subject)}}
            return _branch(identity, tuple(below), subject, dialect)
    return refuse(404, f"there is no {'/'.join(parts)!r}")


def _top(subject: Subject) -> str:
    names = ["dynamic/", "meta-data/"]
    if tree.user_data(subject) is not None:
        names.append("user-data")
    return "\n".join(names)


def _data(found: bytes | None, name: str) -> Answer:
    return refuse(404, f"this instance has no {name}") if found is None else Answer(200, found, BYTES)


def _branch(root: tree.Tree, path: tuple[str, ...], subject: Subject, dialect: Dialect) -> Answer:
    found = tree.find(root, path)
    if found is None:
        return refuse(404, f"there is no {'/'.join(path)!r}")
    if isinstance(found, str):
        return Answer(200, found.encode())
    if path == ("public-keys",) and dialect == "ec2":
        return Answer(200, f"0={tree.key_name(subject)}".encode())
    return Answer(200, tree.listing(found).encode())
