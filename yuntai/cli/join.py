"""``yuntai host join TOKEN``: run on the server that is to become a host.

``python -m yuntai.cli.join TOKEN`` is the same, and needs no more than a host has.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Annotated

import msgspec
import typer

from yuntai.cli.client import CliError
from yuntai.cli.output import Format, Output, err, fail, made
from yuntai.join import client, findings, look, settle
from yuntai.model.joinwire import ChunkDisk, Joining, Token, TokenError, read_token

CHUNK_PORT = 7101
SEEN_TIMEOUT_S = 120.0


class NotReadyError(CliError):
    """The preflight found something."""


def join(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="what `yuntai host token` printed")],
    name: Annotated[str, typer.Option(help="the host's id; else its host name")] = "",
    address: Annotated[str, typer.Option(help="its address among hosts; else the one that leads to the cluster")] = "",
    rack: Annotated[str, typer.Option(help="the rack it is in")] = "",
    disk: Annotated[list[str] | None, typer.Option(help="folder on a disk of its own, for a chunk server")] = None,
    trial: Annotated[
        bool, typer.Option("--trial", help="folders may share a disk, or be in memory: nothing to keep data in")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="only look whether it could join")] = False,
    cert: Annotated[str, typer.Option(help="this host's certificate, where the cluster has them")] = "",
    key: Annotated[str, typer.Option(help="and its key")] = "",
    ca: Annotated[str, typer.Option(help="and the cluster's authority")] = "",
    mce_banks: Annotated[int, typer.Option(hidden=True, help="pretend, to try unequal hosts")] = 0,
    output: Output = Format.table,
) -> None:
    """Make this server a host. Safe to run again; nothing is changed before everything is found right."""
    try:
        read = read_token(token)
        address = address or _address_towards(read.endpoints[0])
        folders = tuple(ChunkDisk(path=path, port=CHUNK_PORT + index) for index, path in enumerate(disk or ()))
        wish = look.Wish(
            name=name or socket.gethostname().partition(".")[0],
            address=address,
            disks=folders,
            mce_banks=mce_banks,
            certificate=bool(cert),
        )
        tls = {"cert": cert, "key": key, "ca": ca} if cert else None
        asyncio.run(_join(read, wish, rack, tls, trial=trial, check=check, output=output))
    except (TokenError, client.JoinError) as error:
        raise CliError(str(error)) from error


async def _join(
    token: Token,
    wish: look.Wish,
    rack: str,
    tls: dict[str, str] | None,
    *,
    trial: bool,
    check: bool,
    output: Format,
) -> None:
    greeting = await client.hello(token)
    found = await look.look(wish, greeting)
    problems = findings.judge(found, greeting.hello, rack=rack, trial=trial)
    if problems:
        for problem in problems:
            err.print(f"- {problem.text}\n  → {problem.way_out}", markup=False)
        raise NotReadyError(f"{len(problems)} things stand in the way; nothing was changed")
    cpu = found.cpu
    assert cpu is not None  # noqa: S101 — else it would be a problem
    if check:
        made({"ready": True}, f"{wish.name} can join {greeting.hello.cluster}", output)
        return
    joined = await client.join(
        token,
        Joining(
            machine=settle.machine_id(),
            host=wish.name,
            address=wish.address,
            rack=greeting.hello.rack or rack,
            disks=wish.disks,
            cpus=os.cpu_count() or 1,
            memory_mib=found.memory_mib,
            accelerator="kvm" if found.kvm_runs else "tcg",
            cpu_model=cpu.model,
            cpu_vendor=cpu.vendor,
            cpu_features=cpu.features,
            mce_banks=wish.mce_banks or cpu.mce_banks,
            mce_banks_hardware=cpu.mce_banks_hardware,
            versions={name: version for name, version in found.versions.items() if name != "certificate"},
            tls=tls,
        ),
    )
    config = settle.write(joined, mce_banks=wish.mce_banks)
    settle.connect_network(config)
    settle.start_services(config)
    host = await settle.wait_seen(config, SEEN_TIMEOUT_S)
    made(msgspec.to_builtins(host), f"{host.id} is a host of {config.cluster}, in the pool {host.pool}", output)


def _address_towards(endpoint: str) -> str:
    """Return the address by which this machine goes to the cluster; nothing is sent."""
    where, _, port = endpoint.rpartition(":")
    try:
        with socket.socket(socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((where.strip("[]"), int(port)))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise CliError(f"no route leads to the cluster at {endpoint}: {error.strerror}; name --address") from error


def main() -> None:
    """Run this command alone."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(join)
    try:
        app()
    except CliError as error:
        sys.exit(fail(error))


if __name__ == "__main__":
    main()
