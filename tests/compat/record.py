"""Write down what this tree's processes store and send: ``python -m tests.compat.record > tests/compat/older.json``.

Run it in the tree of the release that has just become the one before (with the present file, if that tree has none), so
that the tests compare the present tree with it. Of every record and every body of the master's HTTP API it keeps one
example in which each field has a value of its own, the names of the fields, and the texts that a field is limited to.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

import yuntai
from yuntai.model.base import Record

WIRE = ("yuntai.pangu.requests",)


def records() -> dict[str, type[Record]]:
    """Return every type of record by its kind."""
    root = Path(yuntai.__file__).parent
    for file in sorted(root.rglob("*.py")):
        if "(Record, " in file.read_text():
            importlib.import_module(".".join(("yuntai", *file.relative_to(root).with_suffix("").parts)))
    found: dict[str, type[Record]] = {}
    todo = [Record]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.KIND and kind.__module__.startswith("yuntai."):
            found[kind.KIND] = kind
    return dict(sorted(found.items()))


def messages() -> dict[str, type[msgspec.Struct]]:
    """Return every body of the master's HTTP API by its name."""
    return {
        name: kind
        for module in WIRE
        for name, kind in sorted(vars(importlib.import_module(module)).items())
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module
    }


def example(kind: inspect.Type, name: str) -> Any:
    """Return a value of a type that is not its default: numbers and texts made from the field's name."""
    match kind:
        case inspect.LiteralType(values=values):
            return values[-1]
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return [example(item, name)]
        case inspect.TupleType(item_types=items):
            return [example(item, name) for item in items]
        case inspect.DictType(key_type=key, value_type=value):
            return {"17" if isinstance(key, inspect.IntType) else f"<{name}>": example(value, name)}
        case inspect.UnionType(types=types):
            return example(next(one for one in types if not isinstance(one, inspect.NoneType)), name)
        case inspect.StructType(cls=cls):
            return struct_example(cls)
    text = f"<{name}>"
    plain: dict[type[inspect.Type], Any] = {
        inspect.BoolType: True,
        inspect.IntType: 1000 + len(name),
        inspect.FloatType: 0.5,
        inspect.StrType: text,
        inspect.AnyType: text,
    }
    if type(kind) not in plain:
        raise TypeError(f"{name} is a {kind}; say here what an example of that is")
    return plain[type(kind)]


def struct_example(kind: type) -> dict[str, Any]:
    """Return an example of each field."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType), kind
    return {one.encode_name: 1 if one.name == "v" else example(one.type, one.name) for one in info.fields}


def choices(kind: type) -> dict[str, list[Any]]:
    """Return the values of the fields that are limited to some."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType), kind
    return {
        one.encode_name: sorted(one.type.values) for one in info.fields if isinstance(one.type, inspect.LiteralType)
    }


def recorded() -> dict[str, Any]:
    """Return everything that is kept."""
    return {
        "records": {
            name: {"example": struct_example(kind), "choices": choices(kind)} for name, kind in records().items()
        },
        "messages": {name: struct_example(kind) for name, kind in messages().items()},
    }


if __name__ == "__main__":
    json.dump(recorded(), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
