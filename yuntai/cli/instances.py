"""``yuntai instance …``."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from yuntai.cli import ssh
from yuntai.cli.client import ECS, Api, CliError
from yuntai.cli.output import Format, Output, Timeout, Wait, made, one, out, rows, wait_for

app = typer.Typer(no_args_is_help=True, help="virtual machines")

Id = Annotated[str, typer.Argument(metavar="INSTANCE", help="the instance's id, i-…, or its name")]
Force = Annotated[bool, typer.Option("--force", help="take the power away instead of asking the guest")]


def find(api: Api, identifier: str) -> dict[str, Any]:
    """Return the instance of that id, or of that name if only one has it."""
    if identifier.startswith("i-"):
        found = list(api.every(ECS, "DescribeInstances", "Instances", "Instance", InstanceIds=f'["{identifier}"]'))
    else:
        found = list(api.every(ECS, "DescribeInstances", "Instances", "Instance", InstanceName=identifier))
    if len(found) == 1:
        return found[0]
    if not found:
        raise CliError(f"there is no instance {identifier!r}; `yuntai instance list` shows all")
    raise CliError(f"{len(found)} instances are named {identifier!r}: give the id instead")


def private_ip(instance: dict[str, Any]) -> str:
    """Return an instance's own address, "" while it has none."""
    addresses = instance["VpcAttributes"]["PrivateIpAddress"]["IpAddress"]
    return addresses[0] if addresses else ""


def status_of(api: Api, instance_id: str) -> str:
    """Return an instance's status, "" when it is gone."""
    found = list(api.every(ECS, "DescribeInstances", "Instances", "Instance", InstanceIds=f'["{instance_id}"]'))
    return found[0]["Status"] if found else ""


def settle(api: Api, instance_id: str, wanted: str, timeout_s: float) -> None:
    """Wait until an instance has a status ("" = it is gone)."""
    wait_for(instance_id, lambda: status_of(api, instance_id), wanted, timeout_s)


@app.command("list")
def list_(output: Output = Format.table) -> None:
    """List instances."""
    rows(
        Api().every(ECS, "DescribeInstances", "Instances", "Instance"),
        {
            "ID": lambda i: i["InstanceId"],
            "NAME": lambda i: i["InstanceName"],
            "STATUS": lambda i: i["Status"],
            "TYPE": lambda i: i["InstanceType"],
            "IP": private_ip,
            "IMAGE": lambda i: i["ImageId"],
            "CREATED": lambda i: i["CreationTime"],
        },
        output,
    )


@app.command()
def show(instance: Id, output: Output = Format.table) -> None:
    """Show one instance, and why it is as it is."""
    api = Api()
    found = find(api, instance)
    state = api.operator("DescribeInstanceState", InstanceId=found["InstanceId"])
    state.pop("RequestId", None)
    one(found | {"State": state}, output)


@app.command()
def create(
    image: Annotated[str, typer.Option(help="image id or name")],
    name: Annotated[str, typer.Option(help="name")] = "",
    type_: Annotated[str, typer.Option("--type", help="instance type")] = "ecs.yt1.nano",
    vswitch: Annotated[str, typer.Option(help="vSwitch id (default: the account's default network)")] = "",
    group: Annotated[list[str] | None, typer.Option(help="security group id; may be given again")] = None,
    key: Annotated[str, typer.Option(help="key pair's name")] = "",
    password: Annotated[str, typer.Option(help="root's password", prompt=False)] = "",
    user_data: Annotated[Path | None, typer.Option(help="file with user data", exists=True, dir_okay=False)] = None,
    system_gib: Annotated[int | None, typer.Option(help="size of the system disk in GiB", min=1)] = None,
    data_gib: Annotated[list[int] | None, typer.Option(help="a data disk of so many GiB; may be given again")] = None,
    deployment_set: Annotated[str, typer.Option(help="deployment set that it comes into")] = "",
    dedicated_host: Annotated[str, typer.Option(help="dedicated host that it is placed on")] = "",
    amount: Annotated[int, typer.Option(help="how many", min=1, max=100)] = 1,
    client_token: Annotated[str, typer.Option(help="makes a repeated call create nothing more")] = "",
    wait: Wait = False,
    timeout: Timeout = 300,
    output: Output = Format.table,
) -> None:
    """Create instances and start them."""
    api = Api()
    answer = api.ecs(
        "RunInstances",
        ImageId=image_id(api, image),
        InstanceType=type_,
        InstanceName=name,
        VSwitchId=vswitch,
        SecurityGroupIds=group or [],
        KeyPairName=key,
        Password=password,
        UserData=base64.b64encode(user_data.read_bytes()).decode() if user_data else "",
        SystemDisk={"Size": system_gib},
        DataDisk=[{"Size": size} for size in data_gib or []],
        DeploymentSetId=deployment_set,
        DedicatedHostId=dedicated_host,
        Amount=amount,
        ClientToken=client_token,
    )
    ids: list[str] = answer["InstanceIdSets"]["InstanceIdSet"]
    if wait:
        for instance_id in ids:
            settle(api, instance_id, "Running", timeout)
    made({"InstanceIds": ids}, "\n".join(ids), output)


def image_id(api: Api, identifier: str) -> str:
    """Return the id of the image of that id or name."""
    found = [
        i for i in api.every(ECS, "DescribeImages", "Images", "Image") if identifier in (i["ImageId"], i["ImageName"])
    ]
    if not found:
        raise CliError(f"there is no image {identifier!r}; `yuntai image list` shows all")
    return str(found[-1]["ImageId"])


def _power(action: str, instance: str, wanted: str, wait: bool, timeout_s: float, **params: Any) -> None:
    api = Api()
    instance_id = find(api, instance)["InstanceId"]
    api.ecs(action, InstanceId=instance_id, **params)
    if wait:
        settle(api, instance_id, wanted, timeout_s)
    out.print(f"{instance_id}: {wanted or 'gone'}" if wait else f"{instance_id}: asked to")


@app.command()
def start(instance: Id, wait: Wait = False, timeout: Timeout = 120) -> None:
    """Start an instance."""
    _power("StartInstance", instance, "Running", wait, timeout)


@app.command()
def stop(instance: Id, force: Force = False, wait: Wait = False, timeout: Timeout = 120) -> None:
    """Stop an instance."""
    _power("StopInstance", instance, "Stopped", wait, timeout, ForceStop=force)


@app.command()
def reboot(instance: Id, force: Force = False, wait: Wait = False, timeout: Timeout = 120) -> None:
    """Restart an instance."""
    _power("RebootInstance", instance, "Running", wait, timeout, ForceStop=force)


@app.command()
def delete(
    instance: Id,
    force: Annotated[bool, typer.Option("--force", help="also while it runs")] = False,
    wait: Wait = False,
    timeout: Timeout = 120,
) -> None:
    """Release an instance and the disks that go with it."""
    _power("DeleteInstance", instance, "", wait, timeout, Force=force)


@app.command()
def console(instance: Id) -> None:
    """Print the end of what the guest wrote on its serial console."""
    api = Api()
    answer = api.ecs("GetInstanceConsoleOutput", InstanceId=find(api, instance)["InstanceId"])
    typer.echo(base64.b64decode(answer["ConsoleOutput"]).decode("utf-8", "replace"))


@app.command("ssh", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ssh_(context: typer.Context, instance: Id, user: Annotated[str, typer.Option(help="who to be")] = "root") -> None:
    """Log in to an instance over its own network; what follows the id goes to ssh."""
    found = find(Api(), instance)
    raise typer.Exit(ssh.run(ssh.Guest.of(found), user, context.args))
