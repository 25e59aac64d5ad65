"""``yuntai host …``: the servers of the cloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from yuntai import tls
from yuntai.cli.client import YUNTAI, Api, CliError
from yuntai.cli.output import Format, Output, Timeout, Wait, made, one, rows, wait_for

app = typer.Typer(no_args_is_help=True, help="hosts of the cloud (operator)")
HostId = Annotated[str, typer.Argument(metavar="HOST", help="the host's id")]
DRAIN_TIMEOUT_S = 3600.0
_MARKS = (("awaited", "AwaitedUntil"), ("jailed", "JailedUntil"), ("unfit", "Unfit"))


def status_of(host: dict[str, Any]) -> str:
    """Return a host's state in one word or two."""
    words = [host["Status"], host["Maintenance"]]
    words += [word for word, field in _MARKS if host[field]]
    return " ".join(word for word in words if word)


def describe(api: Api, host_id: str) -> dict[str, Any]:
    """Return one host; raise :class:`CliError` if there is none."""
    found: list[dict[str, Any]] = api.operator("DescribeHosts", HostId=[host_id])["Hosts"]["Host"]
    if not found:
        raise CliError(f"there is no host {host_id}; `yuntai host list` names them")
    return found[0]


@app.command("list")
def list_(output: Output = Format.table) -> None:
    """List hosts with what runs on them."""
    rows(
        Api().every(YUNTAI, "DescribeHosts", "Hosts", "Host"),
        {
            "ID": lambda h: h["HostId"],
            "STATUS": status_of,
            "ADDRESS": lambda h: h["Address"],
            "RACK": lambda h: h["Rack"],
            "POOL": lambda h: h["Pool"],
            "ACCELERATOR": lambda h: h["Accelerator"],
            "INSTANCES": lambda h: h["InstanceCount"],
            "VCPUS": lambda h: f"{h['Vcpus']}/{h['VcpusMax']}",
            "MEMORY": lambda h: f"{h['MemoryMibUsed']}/{h['MemoryMibMax']} MiB",
            "SEEN": lambda h: h["Seen"],
        },
        output,
    )


@app.command()
def show(host_id: HostId, output: Output = Format.table) -> None:
    """Show a host whole: its CPU, what is on it, and what a drain waits for."""
    host = describe(Api(), host_id)
    if output is Format.json:
        one(host, output)
        return
    host["Versions"] = ", ".join(f"{v['Name']} {v['Version']}" for v in host["Versions"])
    host["Labels"] = ", ".join(f"{label['Key']}={label['Value']}" for label in host["Labels"])
    host["CpuFeatures"] = " ".join(host["CpuFeatures"])
    host["Unfit"] = "; ".join(host["Unfit"])
    host["Instances"] = ", ".join(f"{i['InstanceId']} {i['Status']}" for i in host["Instances"])
    host["ChunkServers"] = ", ".join(f"{s['ChunkServerId']} {s['State']}" for s in host["ChunkServers"])
    host["Waiting"] = "; ".join(f"{w['InstanceId']}: {w['Why']}" for w in host["Waiting"])
    one(host, output)


@app.command()
def pools(output: Output = Format.table) -> None:
    """List pools: hosts among which guests may move, and the CPU that every guest in them gets."""
    rows(
        Api().every(YUNTAI, "DescribeHostPools", "HostPools", "HostPool"),
        {
            "ID": lambda p: p["PoolId"],
            "HOSTS": lambda p: ", ".join(p["Hosts"]),
            "ACCELERATOR": lambda p: p["Accelerator"],
            "CPU": lambda p: f"{p['CpuVendor']} {p['CpuModel']}",
            "FEATURES": lambda p: len(p["CpuFeatures"]),
            "MCE BANKS": lambda p: p["MceBanks"],
            "COMPUTED": lambda p: p["Computed"],
        },
        output,
    )


@app.command()
def token(
    minutes: Annotated[int, typer.Option(help="how long it can be used", min=1)] = 60,
    pool: Annotated[str, typer.Option(help="the pool that the host is to be in")] = "default",
    rack: Annotated[str, typer.Option(help="the host's rack; else whoever joins says it")] = "",
    lower_baseline: Annotated[
        bool, typer.Option("--lower-baseline", help="let it in although guests of the pool get a lesser CPU then")
    ] = False,
    output: Output = Format.table,
) -> None:
    """Make a token with which one server can join, once."""
    answer = Api().operator("CreateHostToken", Minutes=minutes, Pool=pool, Rack=rack, LowerBaseline=lower_baseline)
    text = f"on the server, until {answer['Expires']}:\n  yuntai host join {answer['Token']}"
    made(answer, text, output)


@app.command()
def drain(
    host_id: HostId,
    storage: Annotated[bool, typer.Option("--storage", help="empty its chunk servers too")] = False,
    wait: Wait = False,
    timeout: Timeout = DRAIN_TIMEOUT_S,
    output: Output = Format.table,
) -> None:
    """Move everything away from a host, and place nothing on it."""
    api = Api()
    host = describe(api, host_id)
    api.operator("DrainHost", HostId=host_id)
    if storage:
        _drain_storage(api, host, undo=False)
    if wait:
        wait_for(f"host {host_id}", lambda: _drained(api, host_id, storage), "drained", timeout)
    made(describe(api, host_id), f"host {host_id} is {'drained' if wait else 'draining'}", output)


def _drained(api: Api, host_id: str, storage: bool) -> str:
    host = describe(api, host_id)
    if host["Waiting"]:
        first = host["Waiting"][0]
        return f"draining ({len(host['Waiting'])} instances left; {first['InstanceId']}: {first['Why']})"
    if storage and host["Maintenance"] == "drained":
        work = json.loads(api.operator("DescribePangu", Topic="work")["Report"])["workers"]
        if any(part["name"] == "drain" and part["state"] not in ("idle", "off") for part in work):
            return "draining (its chunk servers are being emptied)"
    return str(host["Maintenance"])


def _drain_storage(api: Api, host: dict[str, Any], *, undo: bool) -> None:
    servers = [server["ChunkServerId"] for server in host["ChunkServers"]]
    if servers:
        api.operator("OperatePangu", Order="drain", Arguments=json.dumps({"servers": servers, "undo": undo}))


@app.command()
def undrain(host_id: HostId, output: Output = Format.table) -> None:
    """Let a host take instances and chunks again."""
    api = Api()
    host = describe(api, host_id)
    api.operator("DrainHost", HostId=host_id, Undo=True)
    if any(server["State"] == "draining" for server in host["ChunkServers"]):
        _drain_storage(api, host, undo=True)
    made(describe(api, host_id), f"host {host_id} takes instances again", output)


@app.command()
def forgive(host_id: HostId, output: Output = Format.table) -> None:
    """Let a host that failed again and again, and is jailed for it, take instances at once: the cause is mended."""
    answer = Api().operator("ForgiveHost", HostId=host_id)
    made(answer, f"host {host_id}: {answer['Forgiven']} failures count no longer", output)


@app.command("await")
def await_(
    host_id: HostId,
    minutes: Annotated[int, typer.Option(help="from now; 0 = it will not come back: start what it had elsewhere")],
    output: Output = Format.table,
) -> None:
    """Give a host that was off with all others, and is not back yet, more time, or none."""
    answer = Api().operator("AwaitHost", HostId=host_id, Minutes=minutes)
    text = f"awaited until {answer['AwaitedUntil']}" if minutes else "not awaited any longer"
    made(answer, f"host {host_id}: {text}", output)


@app.command()
def label(
    host_id: HostId,
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-…", help="KEY- removes one")],
    output: Output = Format.table,
) -> None:
    """Set and remove labels of a host."""
    given: dict[str, str] = {}
    gone: list[str] = []
    for text in labels:
        key, mark, value = text.partition("=")
        if mark:
            given[key] = value
        elif text.endswith("-"):
            gone.append(text.removesuffix("-"))
        else:
            raise CliError(f"{text!r} is no label: write KEY=VALUE to set one, KEY- to remove it")
    wanted = [{"Key": key, "Value": value} for key, value in given.items()]
    after = Api().operator("LabelHost", HostId=host_id, Label=wanted, Remove=gone)["Labels"]
    made({"labels": after}, ", ".join(f"{one['Key']}={one['Value']}" for one in after) or "no labels", output)


@app.command()
def remove(
    host_id: HostId,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    output: Output = Format.table,
) -> None:
    """Forget a drained host. Refused while anything is on it."""
    if not yes:
        typer.confirm(f"Forget the host {host_id}? It has to join anew to come back.", abort=True)
    Api().operator("RemoveHost", HostId=host_id)
    made({"host": host_id}, f"host {host_id} is removed; stop its services", output)


@app.command("certificate")
def certificate(
    host_id: HostId,
    folder: Annotated[Path, typer.Option(help="where the cluster's authority is; made if there is none")],
    output: Output = Format.table,
) -> None:
    """Issue a certificate for TLS between hosts, and print what goes into the host's configuration."""
    tls.make_authority(folder)
    cert, key = tls.issue(folder, host_id)
    fields = {"cert": str(cert), "key": str(key), "ca": str(folder / tls.CA)}
    made({"tls": fields}, json.dumps({"tls": fields}, indent=2), output)
