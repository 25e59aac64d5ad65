"""A strict check of answers against the response models of the official SDK.

The SDK itself drops keys that it does not know and does not miss those that are absent, so "it parsed" says little.
This reads each model's own code at test time: the wire names from ``to_map``, the types from ``__init__``.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from types import ModuleType
from typing import Any

PLAIN: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "bool": (bool,), "float": (int, float)}


@functools.cache
def wire_fields(model: type) -> dict[str, str]:
    """Return wire name → annotation for one model class."""
    init = ast.parse(textwrap.dedent(inspect.getsource(model.__init__)))
    signature = next(node for node in ast.walk(init) if isinstance(node, ast.FunctionDef)).args
    types = {arg.arg: ast.unparse(arg.annotation) for arg in signature.args if arg.annotation is not None}
    found: dict[str, str] = {}
    for test in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(model.to_map)))):
        if not isinstance(test, ast.If):
            continue
        attributes = [
            node.attr
            for node in ast.walk(test.test)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        ]
        for node in ast.walk(test):
            written = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "result"
            if attributes and written and isinstance(node.slice, ast.Constant):
                found[node.slice.value] = types.get(attributes[0], "Any")
    return found


def problems(models: ModuleType, action: str, body: dict[str, Any]) -> list[str]:
    """Return what is wrong with the body of an answer: unknown keys, wrong types, missing keys."""
    return list(_object(models, getattr(models, f"{action}ResponseBody"), body, action))


def _object(models: ModuleType, model: type, value: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: {type(value).__name__} instead of a structure"]
    fields = wire_fields(model)
    found = [f"{path}.{key}: unknown to the SDK" for key in value if key not in fields]
    found += [f"{path}.{key}: missing" for key in fields if key not in value]
    if list(value) != sorted(value):
        found.append(f"{path}: keys are not in alphabetical order")
    for key, annotation in fields.items():
        if key in value:
            found += _value(models, annotation, value[key], f"{path}.{key}")
    return found


def _value(models: ModuleType, annotation: str, value: Any, path: str) -> list[str]:
    listed = re.fullmatch(r"List\[(.*)\]", annotation)
    if listed:
        if not isinstance(value, list):
            return [f"{path}: {type(value).__name__} instead of a list"]
        return [
            problem
            for index, item in enumerate(value)
            for problem in _value(models, listed[1], item, f"{path}[{index}]")
        ]
    if annotation.startswith("main_models."):
        return _object(models, getattr(models, annotation.removeprefix("main_models.")), value, path)
    allowed = PLAIN.get(annotation)
    if allowed is None:
        return []
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        return [f"{path}: {type(value).__name__} {value!r} instead of {annotation}"]
    return []
