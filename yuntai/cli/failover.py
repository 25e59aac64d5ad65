"""``yuntai failover show``: which hosts failed, why they were called so, and what became of what was on them."""

from __future__ import annotations

from typing import Any

import typer

from yuntai.cli.client import Api
from yuntai.cli.output import Format, Output, out, rows

app = typer.Typer(no_args_is_help=True, help="hosts that failed, and what was done (operator)")


@app.callback()
def _group() -> None:
    """Keep `show` a command of its own."""


@app.command()
def show(output: Output = Format.table) -> None:
    """Show the last failure of each host: what was moved, what waits for room and why, how long it took."""
    answer: dict[str, Any] = Api().operator("DescribeFailovers")
    found = answer["Failovers"]["Failover"]
    rows(
        found,
        {
            "HOST": lambda one: one["HostId"],
            "NOW": lambda one: one["Status"],
            "FAILOVER": lambda one: one["State"],
            "MOVED": lambda one: one["Moved"],
            "WAITING": lambda one: one["Waiting"] or "",
            "BEGAN": lambda one: one["Began"],
            "STAGES": lambda one: ", ".join(f"{part['Stage']} {part['Ms'] / 1000:.1f} s" for part in one["Stages"]),
            "BACK": lambda one: one["Back"],
            "JAILED UNTIL": lambda one: one["JailedUntil"],
            "WHY": lambda one: one["Why"],
        },
        output,
    )
    left = [{**waiting, "HostId": one["HostId"]} for one in found for waiting in one["Left"]]
    if output is Format.table and left:
        out.print("\nThese wait for room: add a host, or stop something of less priority.")
        columns = {
            "INSTANCE": lambda one: one["InstanceId"],
            "OF HOST": lambda one: one["HostId"],
            "WHY": lambda one: one["Why"],
        }
        rows(left, columns, output)
