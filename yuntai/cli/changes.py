"""``yuntai instance resize|limit``, ``disk limit``, ``nic …``: what changes of an instance that lives."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from yuntai.cli.client import ECS, Api, CliError
from yuntai.cli.instances import Id, find, settle
from yuntai.cli.output import Format, Output, Timeout, Wait, made, out, rows, wait_for

nic = typer.Typer(no_args_is_help=True, help="secondary network cards")

_LISTING = (ECS, "DescribeNetworkInterfaces", "NetworkInterfaceSets", "NetworkInterfaceSet")
NicId = Annotated[str, typer.Argument(metavar="NIC", help="the card's id, eni-…")]


def resize(
    instance: Id,
    type_: Annotated[str, typer.Option("--type", help="the new instance type")],
    restart: Annotated[bool, typer.Option("--restart", help="stop it first if it runs, and start it again")] = False,
    timeout: Timeout = 300,
) -> None:
    """Give an instance another type; it must be stopped, or be restarted."""
    api = Api()
    found = find(api, instance)
    one, runs = found["InstanceId"], found["Status"] == "Running"
    if restart and runs:
        api.ecs("StopInstance", InstanceId=one)
        settle(api, one, "Stopped", timeout)
    try:
        api.ecs("ModifyInstanceSpec", InstanceId=one, InstanceType=type_)
    finally:
        if restart and runs:
            api.ecs("StartInstance", InstanceId=one)
            settle(api, one, "Running", timeout)
    out.print(f"{one}: {type_}")


def limit_instance(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="the instance's id, i-…, of any account")],
    vcpu_percent: Annotated[int, typer.Option(help="of one CPU for each vCPU; 0 = no limit", min=0, max=100)],
) -> None:
    """Limit the vCPUs of an instance, running or not (operator)."""
    Api().operator("LimitInstance", InstanceId=instance, VcpuPercent=vcpu_percent)
    out.print(f"{instance}: {f'{vcpu_percent} % of a CPU for each vCPU' if vcpu_percent else 'no limit'}")


def limit_disk(
    disk: Annotated[str, typer.Argument(metavar="DISK", help="the disk's id, d-…, of any account")],
    iops: Annotated[int | None, typer.Option(help="operations in a second; 0 = no limit", min=0)] = None,
    mib_per_s: Annotated[int | None, typer.Option(help="MiB in a second; 0 = no limit", min=0)] = None,
) -> None:
    """Limit a disk, attached or not (operator)."""
    Api().operator("LimitDisk", DiskId=disk, Iops=iops, MibPerS=mib_per_s)
    out.print(f"{disk}: limited")


@nic.command("list")
def list_(
    instance: Annotated[str, typer.Option(help="only those of this instance")] = "", output: Output = Format.table
) -> None:
    """List network cards."""
    rows(
        Api().every(
            ECS, "DescribeNetworkInterfaces", "NetworkInterfaceSets", "NetworkInterfaceSet", InstanceId=instance
        ),
        {
            "ID": lambda n: n["NetworkInterfaceId"],
            "NAME": lambda n: n["NetworkInterfaceName"],
            "TYPE": lambda n: n["Type"],
            "STATUS": lambda n: n["Status"],
            "ADDRESS": lambda n: n["PrivateIpAddress"],
            "MAC": lambda n: n["MacAddress"],
            "INSTANCE": lambda n: n["InstanceId"],
        },
        output,
    )


def _find(api: Api, card: str) -> dict[str, Any]:
    found = list(api.every(*_LISTING, NetworkInterfaceId=[card]))
    if not found:
        raise CliError(f"there is no network card {card!r}; `yuntai nic list` shows all")
    return found[0]


@nic.command("create")
def create(
    vswitch: Annotated[str, typer.Option(help="vSwitch id")],
    group: Annotated[list[str] | None, typer.Option(help="security group id; may be given again")] = None,
    ip: Annotated[str, typer.Option(help="its address; else a free one")] = "",
    name: Annotated[str, typer.Option(help="its name")] = "",
    output: Output = Format.table,
) -> None:
    """Create a network card that no instance has yet."""
    answer = Api().ecs(
        "CreateNetworkInterface",
        VSwitchId=vswitch,
        SecurityGroupIds=group or [],
        PrimaryIpAddress=ip,
        NetworkInterfaceName=name,
    )
    made(answer, answer["NetworkInterfaceId"], output)


@nic.command("attach")
def attach(card: NicId, instance: Id, wait: Wait = False, timeout: Timeout = 120) -> None:
    """Plug a card into an instance, running or stopped."""
    api = Api()
    api.ecs("AttachNetworkInterface", NetworkInterfaceId=card, InstanceId=find(api, instance)["InstanceId"])
    _settle(api, card, "InUse", wait, timeout)


@nic.command("detach")
def detach(card: NicId, wait: Wait = False, timeout: Timeout = 120) -> None:
    """Unplug a card from its instance."""
    api = Api()
    api.ecs("DetachNetworkInterface", NetworkInterfaceId=card, InstanceId=_find(api, card)["InstanceId"])
    _settle(api, card, "Available", wait, timeout)


@nic.command("delete")
def delete(card: NicId) -> None:
    """Delete a card that no instance has."""
    Api().ecs("DeleteNetworkInterface", NetworkInterfaceId=card)
    out.print(f"{card}: deleted")


def _settle(api: Api, card: str, wanted: str, wait: bool, timeout_s: float) -> None:
    if wait:
        wait_for(card, lambda: str(_find(api, card)["Status"]), wanted, timeout_s)
    out.print(f"{card}: {wanted}" if wait else f"{card}: asked to")
