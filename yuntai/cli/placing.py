"""``yuntai instance explain``, ``instance-type``, ``quota``, ``scheduler``, ``deployment-set``, ``dedicated-host``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from yuntai.cli.client import ECS, Api
from yuntai.cli.output import Format, Output, made, one, out, rows

types = typer.Typer(no_args_is_help=True, help="the table of instance types")
quota = typer.Typer(no_args_is_help=True, help="what accounts may have")
scheduler = typer.Typer(no_args_is_help=True, help="how instances are placed")
sets = typer.Typer(no_args_is_help=True, help="instances that are to be apart, or close together")
dedicated = typer.Typer(no_args_is_help=True, help="whole machines for one account")

DEDICATED_TYPE = "ddh.yt1"


def explain(
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="the instance's id, i-…, of any account")],
    output: Output = Format.table,
) -> None:
    """Say where an instance is, why there, and what each host says to it now."""
    answer = Api().operator("ExplainInstance", InstanceId=instance)
    if output is Format.json:
        one(answer, output)
        return
    hosts = answer.pop("Hosts")
    best = answer.pop("Best")
    answer["Best now"] = f"{best}: {answer.pop('BestWhy')}" if best else answer.pop("BestWhy")
    answer.pop("RequestId", None)
    one(answer, output)
    out.print()
    rows(
        hosts,
        {
            "HOST": lambda h: h["HostId"] + (" *" if h["HostId"] == answer["Host"] else ""),
            "RACK": lambda h: h["Rack"],
            "STATUS": lambda h: h["Status"],
            "FREE MEMORY": lambda h: f"{h['FreeMemoryMib']} MiB",
            "FREE VCPUS": lambda h: h["FreeVcpus"],
            "SAYS": lambda h: h["Why"],
        },
        output,
    )


@types.command("list")
def list_types(output: Output = Format.table) -> None:
    """List the table, with how many instances have each type."""
    rows(
        Api().operator("ListInstanceTypes")["InstanceTypes"]["InstanceType"],
        {
            "TYPE": lambda t: t["InstanceTypeId"],
            "VCPUS": lambda t: t["Cpu"],
            "MEMORY": lambda t: f"{t['MemoryMib']} MiB",
            "NICS": lambda t: t["EniQuantity"],
            "INSTANCES": lambda t: t["Instances"],
        },
        output,
    )


@types.command("create")
def create_type(
    name: Annotated[str, typer.Argument(metavar="TYPE", help="ecs.FAMILY.SIZE")],
    cpu: Annotated[int, typer.Option(help="vCPUs", min=1)],
    memory: Annotated[int, typer.Option(help="memory in MiB", min=1)],
    nics: Annotated[int, typer.Option(help="network cards at most", min=1)] = 4,
    output: Output = Format.table,
) -> None:
    """Enter a type; the same one again is fine."""
    answer = Api().operator("CreateInstanceType", InstanceTypeId=name, Cpu=cpu, MemoryMib=memory, EniQuantity=nics)
    made(answer, f"{name}: {cpu} vCPUs, {memory} MiB", output)


@types.command("delete")
def delete_type(name: Annotated[str, typer.Argument(metavar="TYPE")]) -> None:
    """Take a type from the table; instances that have it keep it."""
    Api().operator("DeleteInstanceType", InstanceTypeId=name)
    out.print(f"{name}: deleted")


Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="the account's number")]


@quota.command("list")
def list_quotas(
    account: Annotated[str, typer.Argument(metavar="[ACCOUNT]", help="one account; all without it")] = "",
    output: Output = Format.table,
) -> None:
    """List quotas with their use; * = the account's own limit."""
    rows(
        Api().operator("DescribeQuotas", Account=account)["Quotas"]["Quota"],
        {
            "ACCOUNT": lambda q: q["Account"],
            "QUOTA": lambda q: q["Name"],
            "USED": lambda q: q["Used"],
            "LIMIT": lambda q: f"{q['Limit']}{' *' if q['Own'] else ''}",
        },
        output,
    )


@quota.command("set")
def set_quota(
    account: Account,
    name: Annotated[str, typer.Argument(metavar="QUOTA", help="instances, vcpus, disk_gib …")],
    limit: Annotated[str, typer.Argument(metavar="LIMIT", help="a number, or 'default'")],
) -> None:
    """Set a limit of an account."""
    wanted: dict[str, Any] = {"Default": True} if limit == "default" else {"Limit": limit}
    Api().operator("ModifyQuota", Account=account, Name=name, **wanted)
    out.print(f"{account}: {name} = {limit}")


@scheduler.command("show")
def show_scheduler(output: Output = Format.table) -> None:
    """Show the settings."""
    answer = Api().operator("DescribeSchedulerSettings")
    answer.pop("RequestId", None)
    one(answer, output)


@scheduler.command("set")
def set_scheduler(
    reserve_for_one_host: Annotated[
        bool | None,
        typer.Option("--reserve-for-one-host/--no-reserve", help="new instances leave room for any one host"),
    ] = None,
    await_hosts: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="after all hosts were off: so long one that is not back is awaited"),
    ] = None,
) -> None:
    """Change the settings."""
    wanted: dict[str, Any] = {"ReserveForOneHost": reserve_for_one_host, "AwaitHostsS": await_hosts}
    Api().operator("ModifySchedulerSettings", **{name: value for name, value in wanted.items() if value is not None})
    if reserve_for_one_host is not None:
        out.print(f"reserve for one host: {'yes' if reserve_for_one_host else 'no'}")
    if await_hosts is not None:
        out.print(f"hosts are awaited for {await_hosts} s after all were off")


@sets.command("list")
def list_sets(output: Output = Format.table) -> None:
    """List deployment sets."""
    rows(
        Api().every(ECS, "DescribeDeploymentSets", "DeploymentSets", "DeploymentSet"),
        {
            "ID": lambda s: s["DeploymentSetId"],
            "NAME": lambda s: s["DeploymentSetName"],
            "STRATEGY": lambda s: s["Strategy"],
            "INSTANCES": lambda s: s["InstanceAmount"],
        },
        output,
    )


@sets.command("create")
def create_set(
    name: Annotated[str, typer.Option(help="its name")] = "",
    strategy: Annotated[str, typer.Option(help="Availability, AvailabilityGroup or LowLatency")] = "Availability",
    groups: Annotated[int | None, typer.Option(help="of AvailabilityGroup: how many")] = None,
    keep_stopped: Annotated[
        bool, typer.Option(help="after a host's failure wait for room apart, rather than leave the set and start")
    ] = False,
    output: Output = Format.table,
) -> None:
    """Create a deployment set; `instance create --deployment-set` puts instances into it."""
    answer = Api().ecs(
        "CreateDeploymentSet",
        DeploymentSetName=name,
        Strategy=strategy,
        GroupCount=groups,
        OnUnableToRedeployFailedInstance="KeepStopped" if keep_stopped else "CancelMembershipAndStart",
    )
    made(answer, answer["DeploymentSetId"], output)


@sets.command("delete")
def delete_set(identifier: Annotated[str, typer.Argument(metavar="SET")]) -> None:
    """Delete a deployment set that has no instance."""
    Api().ecs("DeleteDeploymentSet", DeploymentSetId=identifier)
    out.print(f"{identifier}: deleted")


@dedicated.command("list")
def list_dedicated(output: Output = Format.table) -> None:
    """List dedicated hosts."""
    rows(
        Api().every(ECS, "DescribeDedicatedHosts", "DedicatedHosts", "DedicatedHost"),
        {
            "ID": lambda d: d["DedicatedHostId"],
            "NAME": lambda d: d["DedicatedHostName"],
            "STATUS": lambda d: d["Status"],
            "HOST": lambda d: d["MachineId"],
            "INSTANCES": lambda d: len(d["Instances"]["Instance"]),
            "WHY": lambda d: "; ".join(lock["LockReason"] for lock in d["OperationLocks"]["OperationLock"]),
        },
        output,
    )


@dedicated.command("allocate")
def allocate(
    quantity: Annotated[int, typer.Option(help="how many", min=1)] = 1,
    name: Annotated[str, typer.Option(help="their name")] = "",
    wait: Annotated[bool, typer.Option(help="when the machine fails, wait for it rather than take another")] = False,
    output: Output = Format.table,
) -> None:
    """Have machines looked for on which nothing is."""
    answer = Api().ecs(
        "AllocateDedicatedHosts",
        DedicatedHostType=DEDICATED_TYPE,
        Quantity=quantity,
        DedicatedHostName=name,
        ActionOnMaintenance="Stop" if wait else "Migrate",
    )
    made(answer, "\n".join(answer["DedicatedHostIdSets"]["DedicatedHostId"]), output)


@dedicated.command("release")
def release(identifier: Annotated[str, typer.Argument(metavar="DEDICATED_HOST")]) -> None:
    """Give a machine back on which nothing is."""
    Api().ecs("ReleaseDedicatedHost", DedicatedHostId=identifier)
    out.print(f"{identifier}: released")


@dedicated.command("redeploy")
def redeploy(identifier: Annotated[str, typer.Argument(metavar="DEDICATED_HOST")]) -> None:
    """Have another machine looked for instead of one that has failed."""
    Api().ecs("RedeployDedicatedHost", DedicatedHostId=identifier)
    out.print(f"{identifier}: another machine is being looked for")
