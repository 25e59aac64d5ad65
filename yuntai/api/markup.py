"""Answers as bytes: JSON, or the XML of the public API."""

from __future__ import annotations

import re
from typing import Any
from xml.sax.saxutils import escape

import msgspec

JSON_TYPE = "application/json;charset=utf-8"
XML_TYPE = "text/xml;charset=utf-8"
"""Exactly so: the official SDK reads an error as XML only under this very text."""

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that XML 1.0 cannot carry even escaped; a guest's console or a tenant's tag may hold them."""


def to_json(body: dict[str, Any]) -> bytes:
    """Return compact JSON with the keys in the order they have."""
    return msgspec.json.encode(body)


def to_xml(root: str, body: dict[str, Any]) -> bytes:
    """Return an XML document: a structure becomes nested elements, a list its element repeated."""
    parts = ['<?xml version="1.0" encoding="UTF-8"?>']
    _element(root, body, parts)
    return "".join(parts).encode()


def _element(name: str, value: Any, parts: list[str]) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _element(name, item, parts)
        return
    parts.append(f"<{name}>")
    if isinstance(value, dict):
        for key, child in value.items():
            _element(key, child, parts)
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif value is not None:
        parts.append(escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(value))))
    parts.append(f"</{name}>")
