"""``yuntai volume stats``: where the time of a volume's requests goes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from yuntai.cli.client import Api, CliError
from yuntai.cli.output import Format, Output, one, rows

VolumeId = Annotated[str, typer.Argument(metavar="VOLUME", help="the volume's id, vol-…")]


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:.3f}"


_TIMES = {
    "COUNT": lambda row: row["Count"],
    "MEAN ms": lambda row: _ms(row["MeanUs"]),
    "P50 ms <": lambda row: _ms(row["P50Us"]),
    "P99 ms <": lambda row: _ms(row["P99Us"]),
    "MAX ms": lambda row: _ms(row["MaxUs"]),
}


def stats(volume_id: VolumeId, output: Output = Format.table) -> None:
    """Show how long a volume's requests take, stage by stage and server by server, since it was opened."""
    answer: dict[str, Any] = Api().operator("DescribeVolumeStats", VolumeId=volume_id)
    if output == Format.json:
        one(answer, output)
        return
    if answer["Phase"] == "closed":
        raise CliError(f"{volume_id} is not open on any host; figures are kept while it is: `yuntai volume connect`")
    rows(answer["Stages"], {"STAGE": lambda row: row["Description"], **_TIMES}, output)
    servers = {
        "SERVER": lambda row: f"cs-{row['ChunkServer']}",
        "LINK": lambda row: row["Link"],
        "IN SYNC": lambda row: "yes" if row["InSync"] else "no",
        "BEHIND": lambda row: row["BehindChunks"],
        "UNANSWERED": lambda row: row["Unanswered"],
    }
    rows(answer["Servers"], {**servers, **_TIMES}, output)
    rows(answer["Counters"], {"COUNTER": lambda row: row["Name"], "VALUE": lambda row: row["Value"]}, output)
