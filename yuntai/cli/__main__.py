"""Entry of the command line: the tree of commands, and errors as sentences with exit codes.

Exit codes: 0 done, 1 refused or unhealthy, 2 wrong usage, 3 the API does not answer.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from yuntai import __version__
from yuntai.cli import (
    archive,
    changes,
    cloud,
    failover,
    hosts,
    images,
    instances,
    join,
    lab,
    migrating,
    networks,
    pangu,
    placing,
    snapshots,
    storage,
    volume_stats,
)
from yuntai.cli.client import CliError
from yuntai.cli.output import fail

app = typer.Typer(no_args_is_help=True, help="Yuntai: an elastic compute cloud.", pretty_exceptions_enable=False)
app.add_typer(instances.app, name="instance")
app.add_typer(storage.disk, name="disk")
app.add_typer(snapshots.app, name="snapshot")
snapshots.app.command("export")(archive.export)
snapshots.app.command("import")(archive.import_)
snapshots.app.add_typer(archive.app, name="archive")
app.add_typer(images.app, name="image")
app.add_typer(networks.vpc, name="vpc")
app.add_typer(networks.vswitch, name="vswitch")
app.add_typer(networks.security_group, name="security-group")
app.add_typer(networks.keypair, name="keypair")
app.add_typer(storage.volume, name="volume")
storage.volume.command("stats")(volume_stats.stats)
app.add_typer(storage.chunkserver, name="chunkserver")
app.add_typer(pangu.app, name="pangu")
app.add_typer(hosts.app, name="host")
app.add_typer(failover.app, name="failover")
hosts.app.command("join")(join.join)
app.add_typer(lab.app, name="lab")
app.add_typer(cloud.job, name="job")
instances.app.command("explain")(placing.explain)
instances.app.command("resize")(changes.resize)
instances.app.command("limit")(changes.limit_instance)
storage.disk.command("limit")(changes.limit_disk)
app.add_typer(changes.nic, name="nic")
instances.app.command("migrate")(migrating.migrate)
instances.app.command("cancel-migration")(migrating.cancel)
app.add_typer(placing.types, name="instance-type")
app.add_typer(placing.quota, name="quota")
app.add_typer(placing.scheduler, name="scheduler")
app.add_typer(placing.sets, name="deployment-set")
app.add_typer(placing.dedicated, name="dedicated-host")
app.command()(cloud.status)
app.command()(cloud.health)
app.command(hidden=True)(cloud.pipe)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"yuntai {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Do what the subcommand says."""
    del version


def main() -> None:
    """Run the command line."""
    try:
        app(standalone_mode=True)
    except CliError as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
