"""``yuntai vpc|vswitch|security-group|keypair …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yuntai.cli.client import ECS, VPC, Api
from yuntai.cli.output import Format, Output, made, one, rows

vpc = typer.Typer(no_args_is_help=True, help="private networks")
vswitch = typer.Typer(no_args_is_help=True, help="subnets of private networks")
security_group = typer.Typer(no_args_is_help=True, help="the distributed firewall")
keypair = typer.Typer(no_args_is_help=True, help="SSH keys for new instances")

Name = Annotated[str, typer.Option(help="name")]


@vpc.command("list")
def vpc_list(output: Output = Format.table) -> None:
    """List private networks."""
    rows(
        Api().every(VPC, "DescribeVpcs", "Vpcs", "Vpc"),
        {
            "ID": lambda v: v["VpcId"],
            "NAME": lambda v: v["VpcName"],
            "CIDR": lambda v: v["CidrBlock"],
            "STATUS": lambda v: v["Status"],
            "DEFAULT": lambda v: v["IsDefault"],
        },
        output,
    )


@vpc.command("show")
def vpc_show(vpc_id: str, output: Output = Format.table) -> None:
    """Show one private network."""
    one(Api().vpc("DescribeVpcAttribute", VpcId=vpc_id), output)


@vpc.command("create")
def vpc_create(cidr: str = "172.16.0.0/12", name: Name = "", output: Output = Format.table) -> None:
    """Create a private network."""
    answer = Api().vpc("CreateVpc", CidrBlock=cidr, VpcName=name)
    made(answer, answer["VpcId"], output)


@vpc.command("delete")
def vpc_delete(vpc_id: str) -> None:
    """Delete a private network that is empty."""
    Api().vpc("DeleteVpc", VpcId=vpc_id)


@vswitch.command("list")
def vswitch_list(
    of: Annotated[str, typer.Option("--vpc", help="only those of this network")] = "", output: Output = Format.table
) -> None:
    """List subnets."""
    rows(
        Api().every(VPC, "DescribeVSwitches", "VSwitches", "VSwitch", VpcId=of),
        {
            "ID": lambda v: v["VSwitchId"],
            "NAME": lambda v: v["VSwitchName"],
            "VPC": lambda v: v["VpcId"],
            "CIDR": lambda v: v["CidrBlock"],
            "FREE": lambda v: v["AvailableIpAddressCount"],
            "STATUS": lambda v: v["Status"],
        },
        output,
    )


@vswitch.command("show")
def vswitch_show(vswitch_id: str, output: Output = Format.table) -> None:
    """Show one subnet."""
    one(Api().vpc("DescribeVSwitchAttributes", VSwitchId=vswitch_id), output)


@vswitch.command("create")
def vswitch_create(vpc_id: str, cidr: str, name: Name = "", output: Output = Format.table) -> None:
    """Create a subnet of a private network."""
    api = Api()
    zone = api.ecs("DescribeZones")["Zones"]["Zone"][0]["ZoneId"]
    answer = api.vpc("CreateVSwitch", VpcId=vpc_id, CidrBlock=cidr, ZoneId=zone, VSwitchName=name)
    made({"VSwitchId": answer["VSwitchId"]}, answer["VSwitchId"], output)


@vswitch.command("delete")
def vswitch_delete(vswitch_id: str) -> None:
    """Delete a subnet that no instance uses."""
    Api().vpc("DeleteVSwitch", VSwitchId=vswitch_id)


@security_group.command("list")
def group_list(output: Output = Format.table) -> None:
    """List security groups."""
    rows(
        Api().every(ECS, "DescribeSecurityGroups", "SecurityGroups", "SecurityGroup"),
        {
            "ID": lambda g: g["SecurityGroupId"],
            "NAME": lambda g: g["SecurityGroupName"],
            "VPC": lambda g: g["VpcId"],
            "DESCRIPTION": lambda g: g["Description"],
        },
        output,
    )


@security_group.command("show")
def group_show(group_id: str, output: Output = Format.table) -> None:
    """Show a group's rules."""
    answer = Api().ecs("DescribeSecurityGroupAttribute", SecurityGroupId=group_id)
    if output is Format.json:
        one(answer, output)
        return
    rows(
        answer["Permissions"]["Permission"],
        {
            "ID": lambda p: p["SecurityGroupRuleId"],
            "DIRECTION": lambda p: p["Direction"],
            "PROTOCOL": lambda p: p["IpProtocol"],
            "PORTS": lambda p: p["PortRange"],
            "PEER": lambda p: p["SourceCidrIp"] or p["SourceGroupId"] or p["DestCidrIp"] or p["DestGroupId"],
            "POLICY": lambda p: p["Policy"],
            "PRIORITY": lambda p: p["Priority"],
        },
        output,
    )


@security_group.command("create")
def group_create(vpc_id: str, name: Name = "", output: Output = Format.table) -> None:
    """Create a group; nothing gets in until a rule allows it."""
    answer = Api().ecs("CreateSecurityGroup", VpcId=vpc_id, SecurityGroupName=name)
    made({"SecurityGroupId": answer["SecurityGroupId"]}, answer["SecurityGroupId"], output)


@security_group.command("delete")
def group_delete(group_id: str) -> None:
    """Delete a group without members."""
    Api().ecs("DeleteSecurityGroup", SecurityGroupId=group_id)


Protocol = Annotated[str, typer.Option(help="tcp, udp, icmp, gre or all")]
Ports = Annotated[str, typer.Option(help='"22/22", "8000/8099", "-1/-1" for any')]
Cidr = Annotated[str, typer.Option(help="who may come in")]


@security_group.command("allow")
def group_allow(group_id: str, protocol: Protocol = "tcp", ports: Ports = "-1/-1", cidr: Cidr = "0.0.0.0/0") -> None:
    """Let something in."""
    Api().ecs(
        "AuthorizeSecurityGroup", SecurityGroupId=group_id, IpProtocol=protocol, PortRange=ports, SourceCidrIp=cidr
    )


@security_group.command("revoke")
def group_revoke(group_id: str, protocol: Protocol = "tcp", ports: Ports = "-1/-1", cidr: Cidr = "0.0.0.0/0") -> None:
    """Take a rule away; what it had let in is cut."""
    Api().ecs("RevokeSecurityGroup", SecurityGroupId=group_id, IpProtocol=protocol, PortRange=ports, SourceCidrIp=cidr)


@keypair.command("list")
def keypair_list(output: Output = Format.table) -> None:
    """List key pairs."""
    rows(
        Api().every(ECS, "DescribeKeyPairs", "KeyPairs", "KeyPair"),
        {
            "NAME": lambda k: k["KeyPairName"],
            "FINGERPRINT": lambda k: k["KeyPairFingerPrint"],
            "CREATED": lambda k: k["CreationTime"],
        },
        output,
    )


@keypair.command("create")
def keypair_create(
    name: str,
    public_key: Annotated[Path | None, typer.Option(help="import this public key", exists=True, dir_okay=False)] = None,
    output: Output = Format.table,
) -> None:
    """Make a key pair and print its private key, which is kept nowhere; or import a public key."""
    api = Api()
    if public_key is not None:
        answer = api.ecs("ImportKeyPair", KeyPairName=name, PublicKeyBody=public_key.read_text().strip())
        made(answer, answer["KeyPairName"], output)
        return
    answer = api.ecs("CreateKeyPair", KeyPairName=name)
    made(answer, answer["PrivateKeyBody"].rstrip(), output)


@keypair.command("delete")
def keypair_delete(name: str) -> None:
    """Delete a key pair; guests that have it keep it."""
    Api().ecs("DeleteKeyPairs", KeyPairNames=f'["{name}"]')
