"""``yuntai pangu …``: the block store as a whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from yuntai.cli.client import Api, CliError
from yuntai.cli.output import PIPE_COLUMNS, Format, Output, made, out, rows

app = typer.Typer(no_args_is_help=True, help="the block store as a whole (operator)")
server = typer.Typer(no_args_is_help=True, help="its chunk servers")
app.add_typer(server, name="server")

Servers = Annotated[list[str], typer.Argument(metavar="CS-N…", help="chunk servers")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="show it anew until interrupted")]
EVERY_S = 1.0
BAR_COLUMNS = 24
COLOURS = {"well": "green", "note": "cyan", "warning": "yellow", "danger": "bold red"}


def _describe(api: Api, topic: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(api.operator("DescribePangu", Topic=topic)["Report"])
    return report


def _order(order: str, **arguments: Any) -> dict[str, Any]:
    answer = Api().operator("OperatePangu", Order=order, Arguments=json.dumps(arguments))
    report: dict[str, Any] = json.loads(answer["Report"])
    return report


def _show(look: Callable[[], dict[str, Any]], draw: Callable[[dict[str, Any]], RenderableType], watch: bool) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_COLUMNS)
    if not watch:
        console.print(draw(look()))
        return
    with Live(draw(look()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_S)
            live.update(draw(look()), refresh=True)


@app.command()
def work(
    everything: Annotated[bool, typer.Option("--all", "-a", help="also what has nothing to do")] = False,
    watch: Watch = False,
    output: Output = Format.table,
) -> None:
    """Show every background work: repair, drain, balance, scrub, hydration, garbage."""
    api = Api()
    if output is Format.json:
        out.print_json(json.dumps(_describe(api, "work")["workers"]))
        return

    def draw(report: dict[str, Any]) -> RenderableType:
        shown = [one for one in report["workers"] if everything or one["state"] not in ("idle", "off")]
        return _workers(shown) if shown else "nothing to do"

    _show(lambda: _describe(api, "work"), draw, watch)


def _workers(workers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("WORK", "WHERE", "VOLUME", "STATE", "PROGRESS", "", "RATE", "NOTE"):
        table.add_column(heading, overflow="fold")
    for one in workers:
        done, total = one.get("done", 0), one.get("total", 0)
        bar = ProgressBar(total=total, completed=done, width=BAR_COLUMNS) if total else ""
        table.add_row(
            one["name"],
            one["where"],
            one["volume"],
            one["state"],
            bar,
            _amount(done, total, one.get("unit", "")),
            _rate(one),
            one.get("note", ""),
        )
    return table


def _amount(done: int, total: int, unit: str) -> str:
    if not total:
        return ""
    if unit == "bytes":
        return f"{done / (1 << 20):,.0f}/{total / (1 << 20):,.0f} MiB"
    return f"{done:,}/{total:,} {unit}"


def _rate(worker: dict[str, Any]) -> str:
    rate, limit = worker.get("bytes_per_s", 0), worker.get("limit_bytes_per_s", 0)
    text = f"{rate / (1 << 20):.1f} MiB/s" if rate else ""
    return f"{text or '0'} of {limit / (1 << 20):.0f}" if limit else text


@app.command()
def health(watch: Watch = False, output: Output = Format.table) -> None:
    """Say what is wrong, what it means for the data, and when it will be over. Exit code 1 if something is."""
    api = Api()
    report = _describe(api, "health")
    if output is Format.json:
        out.print_json(json.dumps(report))
    else:
        _show(lambda: _describe(api, "health") if watch else report, _health, watch)
    if not report["healthy"]:
        raise typer.Exit(1)


def _health(report: dict[str, Any]) -> Group:
    lines = [f"[{COLOURS[report['level']]}]{report['level']}[/]  {report['chunks']:,} chunks"]
    shown = [check for check in report["checks"] if check["level"] != "well" or check["name"] == "data"]
    lines += [f"[{COLOURS[check['level']]}]{check['name']}[/]: {check['detail']}" for check in shown]
    down = [url for url, role in report.get("masters", {}).items() if role == "down"]
    lines += [f"[yellow]masters[/]: {url} does not answer" for url in down]
    left = report["seconds_left"]
    if left is None:
        lines.append("when it will be over cannot be told yet")
    elif left:
        lines.append(f"over in about {left // 60} min {left % 60} s")
    return Group(*lines)


@app.command()
def drain(
    servers: Servers, wait: Annotated[bool, typer.Option("--wait", help="return when they are empty")] = False
) -> None:
    """Move everything away from chunk servers; no new chunks go there."""
    _drained(_order("drain", servers=servers)["servers"], wait)


@app.command("drain-rack")
def drain_rack(
    rack: Annotated[str, typer.Argument(metavar="RACK", help="the rack's name")],
    wait: Annotated[bool, typer.Option("--wait", help="return when it is empty")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="let them stay")] = False,
) -> None:
    """Move everything away from all chunk servers of a rack."""
    _drained(_order("drain", rack=rack, undo=undo)["servers"], wait and not undo)


def _drained(servers: list[str], wait: bool) -> None:
    api = Api()
    while wait and any(
        one["name"] == "drain" and one["state"] not in ("idle", "off") for one in _describe(api, "work")["workers"]
    ):
        time.sleep(EVERY_S)
    out.print(", ".join(servers))


@app.command()
def undrain(servers: Servers) -> None:
    """Let chunk servers take chunks again."""
    out.print(", ".join(_order("drain", servers=servers, undo=True)["servers"]))


@app.command()
def balance(
    stop: Annotated[bool, typer.Option("--stop", help="end it")] = False, output: Output = Format.table
) -> None:
    """Move replicas from full disks to empty ones until they are evenly full."""
    answer = _order("balance", stop=stop)
    text = f"from {', '.join(answer['from'])}" if answer["balancing"] else "stopped" if stop else "it is even already"
    made(answer, text, output)


@app.command()
def scrub(
    servers: Annotated[list[str] | None, typer.Argument(metavar="[CS-N…]", help="chunk servers; all, if none")] = None,
    output: Output = Format.table,
) -> None:
    """Read whole disks now to find damage, which is then healed from other replicas."""
    answer = _order("scrub", servers=servers or [])
    made(answer, f"begun on {', '.join(answer['begun']) or 'none'}", output)
    if answer["refused"] and output is Format.table:
        raise CliError("; ".join(f"{name}: {why}" for name, why in answer["refused"].items()))


@app.command()
def settings(output: Output = Format.table) -> None:
    """List what can be tuned, and how it is."""
    rows(
        _describe(Api(), "settings")["settings"],
        {
            "NAME": lambda s: s["name"],
            "VALUE": lambda s: "" if s["value"] is None else s["value"],
            "DEFAULT": lambda s: "the program's" if s["default"] is None else s["default"],
            "FOR": lambda s: s["where"],
            "MEANING": lambda s: s["meaning"],
        },
        output,
    )


@app.command("set")
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="a number, with K, M or G; or default")],
) -> None:
    """Tune something. ``default`` takes it back; programs other than the master have theirs again when restarted."""
    _order("settings", values={name: _number(value)})


def _number(text: str) -> int | None:
    if text == "default":
        return None
    shift = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    digits = text[:-1] if shift else text
    if not digits.isascii() or not digits.isdigit():
        raise CliError(f"{text!r} is no value: give a number such as 600 or 200M, or `default`")
    return int(digits) << shift


@app.command()
def salvage(
    volume: Annotated[str, typer.Argument(metavar="VOLUME")],
    chunk: Annotated[int, typer.Argument(metavar="CHUNK", min=0)],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Accept the loss of what only replicas had that cannot be believed, so that a chunk is served again."""
    if not yes:
        typer.confirm(f"The last writes to chunk {chunk} of {volume} may be lost for good. Go on?", abort=True)
    _order("salvage", volume=volume, chunk=chunk)


@server.command("give-up")
def server_give_up(
    server_id: Annotated[str, typer.Argument(metavar="CS-N")],
    yes: Annotated[bool, typer.Option("--yes-its-data-is-lost", help="do not ask")] = False,
) -> None:
    """Declare that the disk of a chunk server is gone for good: nothing waits any more for what only it had."""
    if not yes:
        typer.confirm(f"What only {server_id} has will be lost, also if it comes back later. Go on?", abort=True)
    volumes = _order("give_up", server=server_id, data_is_lost=True)["volumes"]
    out.print(f"{server_id} is given up; {len(volumes)} volumes go on without it")


@server.command("remove")
def server_remove(server_id: Annotated[str, typer.Argument(metavar="CS-N")]) -> None:
    """Forget a chunk server that was drained or given up, and will not come back."""
    Api().operator("RemoveChunkServer", ChunkServerId=server_id)
