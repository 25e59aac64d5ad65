"""What a person, or a program, gets to see: tables, JSON, a line while something is waited for, errors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from yuntai.cli.client import ApiRefusedError, CliError

POLL_S = 0.5


class Format(StrEnum):
    """How answers are printed."""

    table = "table"
    json = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="return only when it is done")]
Timeout = Annotated[float, typer.Option("--timeout", help="seconds that --wait waits at most", min=1)]

PIPE_COLUMNS = 400
"""Width of a table that no terminal shows: wide enough that nothing is folded in a file or a pipe."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Columns = dict[str, Callable[[dict[str, Any]], Any]]
"""Heading → the cell of a row."""


def rows(items: Iterable[dict[str, Any]], columns: Columns, output: Format) -> None:
    """Print a list."""
    listed = list(items)
    if output is Format.json:
        out.print_json(json.dumps(listed))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading == "ID")
    for item in listed:
        table.add_row(*(_cell(cell(item)) for cell in columns.values()))
    _tables().print(table)


def one(item: dict[str, Any], output: Format) -> None:
    """Print one thing whole."""
    if output is Format.json:
        out.print_json(json.dumps(item))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in item.items():
        if value not in ("", [], {}, None):
            table.add_row(f"[bold]{key}[/]", _cell(value))
    _tables().print(table)


def _tables() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def made(item: dict[str, Any], text: str, output: Format) -> None:
    """Say what was made or done: ``text`` for people, ``item`` for programs."""
    if output is Format.json:
        out.print_json(json.dumps(item))
    else:
        out.print(text)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)


def gib(size_bytes: int) -> str:
    """Return bytes in GiB with one digit after the point."""
    return f"{size_bytes / (1 << 30):.1f} GiB"


def mib(size_bytes: int) -> str:
    """Return bytes in MiB, or in GiB from ten of these on."""
    return gib(size_bytes) if size_bytes >= 10 << 30 else f"{size_bytes / (1 << 20):.1f} MiB"


def wait_for(what: str, look: Callable[[], str], wanted: str, timeout_s: float, failed: tuple[str, ...] = ()) -> None:
    """Wait until ``look()`` gives ``wanted``, showing what it gives; raise :class:`CliError` if it does not come."""
    deadline = time.monotonic() + timeout_s
    with err.status(f"{what}: …", spinner="dots") as status:
        while True:
            state = look()
            if state == wanted:
                return
            if state in failed:
                raise CliError(f"{what} is {state}; `yuntai job list` says why")
            if time.monotonic() > deadline:
                raise CliError(f"{what} is still {state or 'not there'} after {timeout_s:g} s; it goes on: look again")
            status.update(f"{what}: {state}")
            time.sleep(POLL_S)


def fail(error: CliError) -> int:
    """Print an error and return its exit code."""
    err.print(f"[bold red]error:[/] {error}", markup=True)
    if isinstance(error, ApiRefusedError) and error.request_id:
        err.print(f"request id {error.request_id}", style="dim")
    sys.stderr.flush()
    return error.code
