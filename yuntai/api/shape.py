"""The shapes of answers, in a small language, and filling them.

A client written in Go, or one that walks XML, wants every key of the model to be there with the right type, also where
we have nothing to say. So each answer has a shape, and a handler gives only the values it knows:

    ``Name`` text, ``Name:i`` integer, ``Name:f`` number, ``Name:b`` boolean, ``Name[]`` list of texts,
    ``Name{...}`` structure, ``Name[]{...}`` list of structures; ``?Name`` is left out when it has no value

Keys come out in alphabetical order, because some clients depend on it. A value that the shape does not name is a fault
of ours and raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_TOKEN = re.compile(r"\s*(?:(?P<name>\??[A-Za-z0-9_]+(?::[ifb])?(?:\[\])?)(?P<open>\{)?|(?P<close>\}))")
_EMPTY: Final[dict[str, Any]] = {"s": "", "i": 0, "f": 0.0, "b": False}
_ABSENT: Final = object()


class Field:
    """One key of a structure: a plain value, a structure (``child``), or a list of either."""

    __slots__ = ("child", "empty", "kind", "listed", "name", "optional")

    def __init__(self, name: str, *, kind: str, listed: bool, optional: bool, child: Shape | None) -> None:
        self.name = name
        self.kind = kind
        self.listed = listed
        self.optional = optional
        self.child = child
        self.empty: Any = [] if listed else child.fill({}) if child is not None else _EMPTY[kind]


class Shape:
    """A structure of an answer; made once when a module is imported."""

    __slots__ = ("fields", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.fields, _ = _parse(text, 0, nested=False)

    def fill(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the complete structure, in order, with typed empties for what ``values`` does not give."""
        out: dict[str, Any] = {}
        used = 0
        for field in self.fields:
            value = values.get(field.name, _ABSENT)
            if value is _ABSENT:
                if not field.optional:
                    out[field.name] = field.empty
                continue
            used += 1
            child = field.child
            if child is None:
                out[field.name] = list(value) if field.listed else value
            elif field.listed:
                out[field.name] = [child.fill(item) for item in value]
            else:
                out[field.name] = child.fill(value)
        if used != len(values):
            extra = sorted(set(values) - {field.name for field in self.fields})
            raise ValueError(f"the shape has no {', '.join(extra)}")
        return out


def _parse(text: str, start: int, *, nested: bool) -> tuple[tuple[Field, ...], int]:
    """Parse fields from ``start`` to the closing brace or the end; return them sorted, and where they end."""
    fields: list[Field] = []
    at = start
    while at < len(text) and text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"shape is malformed at {text[at : at + 40]!r}")
        at = match.end()
        if match["close"]:
            if not nested:
                raise ValueError(f"shape has a closing brace too many before {text[at : at + 40]!r}")
            return _ordered(fields), at
        raw = match["name"]
        child: Shape | None = None
        if match["open"]:
            child = Shape.__new__(Shape)
            begin = at
            child.fields, at = _parse(text, at, nested=True)
            child.text = text[begin : at - 1]
        listed = raw.endswith("[]")
        name, _, kind = raw.removesuffix("[]").removeprefix("?").partition(":")
        fields.append(Field(name, kind=kind or "s", listed=listed, optional=raw.startswith("?"), child=child))
    if nested:
        raise ValueError(f"shape has no closing brace after {text[start : start + 40]!r}")
    return _ordered(fields), at


def _ordered(fields: Sequence[Field]) -> tuple[Field, ...]:
    names = [field.name for field in fields]
    if len(set(names)) != len(names):
        raise ValueError(f"shape names a key twice: {names}")
    return tuple(sorted(fields, key=lambda field: field.name))
