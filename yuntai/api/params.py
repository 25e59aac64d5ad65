"""The parameters of requests: what an action takes, and reading it from flat wire parameters.

One line of text per action, in the same spirit as :mod:`yuntai.api.shape`:

    ``Name`` text, ``Name:t`` text where the empty text says "clear it", ``Name:i`` integer,
    ``Name:f`` number, ``Name:b`` boolean, ``Name:j`` list of texts sent as one JSON
    array (``["a","b"]``), ``Name[]`` list (``Name.1``, ``Name.2``), ``Name[]{...}`` list of structures
    (``Name.1.Key``), ``Name{...}`` structure (``Name.Key``); a ``!`` after the name makes it mandatory

Parameters that an action does not take are ignored, as the public API does: clients send many. A parameter given as
the empty text counts as not given, but for ``:t``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from yuntai.api.errors import invalid_parameter, missing_parameter

LIST_MAX = 200
"""The longest list that a request may give."""
VALUE_MAX = 64 * 1024
"""The longest single value, in characters; user data in base64 is the longest that a real client sends."""

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z0-9_]+)(?P<need>!)?(?P<kind>:[tifbj])?(?P<list>\[\])?(?P<open>\{)?|(?P<close>\}))"
)
_BOOLEANS = {"true": True, "false": False}
_INTEGER = re.compile(r"[+-]?\d{1,18}")

Tree = dict[str, Any]
"""Wire parameters split at the dots: leaves are texts."""


class Param:
    """One parameter that an action takes."""

    __slots__ = ("children", "kind", "listed", "name", "needed")

    def __init__(self, name: str, kind: str, *, listed: bool, needed: bool, children: tuple[Param, ...] | None) -> None:
        self.name = name
        self.kind = kind
        self.listed = listed
        self.needed = needed
        self.children = children


class Params:
    """The parameters of one action."""

    __slots__ = ("clearable", "members", "roots", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.members, _ = _parse(text, 0, nested=False)
        self.roots = {param.name for param in self.members}
        self.clearable = {param.name for param in self.members if param.kind == "t"}

    def read(self, wire: Mapping[str, str]) -> dict[str, Any]:
        """Return the typed arguments of a request, without those that it does not give; raise an API error."""
        tree: Tree = {}
        for key, value in wire.items():
            root, dot, _ = key.partition(".")
            if root not in self.roots:
                continue
            if len(value) > VALUE_MAX:
                raise invalid_parameter(key, f"it has {len(value)} characters, at most {VALUE_MAX} are allowed")
            if dot:
                _insert(tree, key, value)
            elif value != "" or root in self.clearable:
                tree[key] = value
        return _structure(self.members, tree, "")


def _insert(tree: Tree, key: str, value: str) -> None:
    """Put ``Tag.1.Key`` into the tree; the depth is bounded by what any action takes."""
    parts = key.split(".")
    if len(parts) > 6:
        raise invalid_parameter(key, "it has too many parts")
    node: Any = tree
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise invalid_parameter(key, "another parameter gives its parent a plain value")
    if isinstance(node.get(parts[-1]), dict):
        raise invalid_parameter(key, "another parameter gives it parts")
    if value != "":
        node[parts[-1]] = value


def _structure(members: tuple[Param, ...], tree: Tree, path: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for param in members:
        where = f"{path}{param.name}"
        value = _value(param, tree[param.name], where) if param.name in tree else None
        if value is None or value == []:
            if param.needed:
                raise missing_parameter(where)
            continue
        out[param.name] = value
    return out


def _value(param: Param, node: Any, path: str) -> Any:
    if param.listed:
        return _list(param, node, path)
    if param.children is not None:
        if not isinstance(node, dict):
            raise invalid_parameter(path, "it is a structure; give its parts, such as Name.Key=value")
        return _structure(param.children, node, f"{path}.") or None
    if isinstance(node, dict):
        if param.kind == "j":
            return _list(param, node, path)
        raise invalid_parameter(path, "it takes one value")
    return _scalar(param.kind, node, path)


def _list(param: Param, node: Any, path: str) -> list[Any]:
    """Read ``{"1": …, "2": …}`` in the order of the numbers; gaps are closed, as the public API does."""
    if not isinstance(node, dict):
        if param.children is None and param.kind != "j":
            # A list given as one JSON array, or one plain value: some older clients do either.
            return _json_list(node, path) if node.startswith("[") else [_scalar(param.kind, node, path)]
        raise invalid_parameter(path, "it is a list; give Name.1, Name.2 and so on")
    if len(node) > LIST_MAX:
        raise invalid_parameter(path, f"it has {len(node)} items, at most {LIST_MAX} are allowed")
    if not all(index.isascii() and index.isdigit() and 1 <= len(index) <= 4 for index in node):
        raise invalid_parameter(path, "the items of a list are numbered 1, 2, 3")
    out: list[Any] = []
    for index in sorted(node, key=int):
        item, where = node[index], f"{path}.{index}"
        if param.children is not None:
            if not isinstance(item, dict):
                raise invalid_parameter(where, "it is a structure; give its parts, such as Name.1.Key=value")
            out.append(_structure(param.children, item, f"{where}."))
        elif isinstance(item, dict):
            raise invalid_parameter(where, "it takes one value")
        else:
            out.append(_scalar("s" if param.kind == "j" else param.kind, item, where))
    return out


def _scalar(kind: str, text: str, path: str) -> Any:
    if kind == "i":
        if not _INTEGER.fullmatch(text):
            raise invalid_parameter(path, f"{_shown(text)} is not a whole number")
        return int(text)
    if kind == "f":
        try:
            return float(text)
        except ValueError as error:
            raise invalid_parameter(path, f"{_shown(text)} is not a number") from error
    if kind == "b":
        if text.lower() not in _BOOLEANS:
            raise invalid_parameter(path, f"{_shown(text)} is neither true nor false")
        return _BOOLEANS[text.lower()]
    return _json_list(text, path) if kind == "j" else text


def _json_list(text: str, path: str) -> list[str]:
    """Read ``["a","b"]``; a bare value without brackets is a list of one, or of several between commas."""
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()][:LIST_MAX]
    try:
        items = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as error:
        raise invalid_parameter(path, 'it takes a JSON array of texts, such as ["a","b"]') from error
    if len(items) > LIST_MAX:
        raise invalid_parameter(path, f"it has {len(items)} items, at most {LIST_MAX} are allowed")
    return items


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _parse(text: str, start: int, *, nested: bool) -> tuple[tuple[Param, ...], int]:
    members: list[Param] = []
    at = start
    while at < len(text) and text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"parameters are malformed at {text[at : at + 40]!r}")
        at = match.end()
        if match["close"]:
            if not nested:
                raise ValueError(f"parameters have a closing brace too many before {text[at : at + 40]!r}")
            return tuple(members), at
        children: tuple[Param, ...] | None = None
        if match["open"]:
            children, at = _parse(text, at, nested=True)
        kind = (match["kind"] or ":s")[1:]
        members.append(
            Param(match["name"], kind, listed=bool(match["list"]), needed=bool(match["need"]), children=children)
        )
    if nested:
        raise ValueError(f"parameters have no closing brace after {text[start : start + 40]!r}")
    return tuple(members), at
