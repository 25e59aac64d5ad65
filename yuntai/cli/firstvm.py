"""The last part of ``make up``: images, a key, a first VM, a login to it, and what to try next.

Everything here goes through the public API, as a user would, and everything is looked up before it is made, so that
``make up`` can be run again after anything.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from yuntai.cli import images, instances, ssh
from yuntai.cli.client import (
    ECS,
    YUNTAI,
    Api,
    ApiRefusedError,
    CliError,
    UnreachableError,
    credentials_path,
    load_credentials,
)
from yuntai.cli.output import fail, out
from yuntai.lab.layout import Home, default_home

NAME = "first-vm"
KEY_PAIR = "this-machine"
IMAGES = ("tiny", "debian")
CREDENTIALS_S = 60.0
API_S = 90.0
RUNNING_S = 120.0
LOGIN_S = 180.0
POLL_S = 0.5

T = TypeVar("T")


class Manifest(msgspec.Struct, frozen=True):
    """What the recipe of a guest image says of its result; other fields are not needed here."""

    os_name: str = ""


def main() -> int:
    """Do every step, with a line and its time for each; return the exit code."""
    try:
        api = _step("API", _wait_for_api)
        _step("SSH key", lambda: _key_pair(api))
        for name in IMAGES:
            _step(f"image {name}", partial(_image, api, name))
        instance_id = _step("first VM", lambda: _instance(api))
        _step("VM is Running", lambda: instances.settle(api, instance_id, "Running", RUNNING_S))
        found = instances.find(api, instance_id)
        said = _step("login", lambda: _log_in(ssh.Guest.of(found)))
        guests = [
            ssh.Guest.of(one)
            for one in api.every(ECS, "DescribeInstances", "Instances", "Instance")
            if instances.private_ip(one)
        ]
        _say_what_next(ssh.write_config(guests), instance_id, said)
    except CliError as error:
        return fail(error)
    return 0


def _step(what: str, do: Callable[[], T]) -> T:
    began = time.monotonic()
    result = do()
    out.print(f"  {what:<40} {time.monotonic() - began:6.1f} s")
    return result


def _wait_for_api() -> Api:
    """Wait until the credentials are there and the API takes them."""
    deadline = time.monotonic() + CREDENTIALS_S
    while not credentials_path().exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    api = Api(load_credentials())
    deadline = time.monotonic() + API_S
    while True:
        try:
            api.ecs("DescribeRegions")
            if list(api.every(YUNTAI, "DescribeHosts", "Hosts", "Host")):
                return api
            error: CliError = CliError("no host has reported yet; `yuntai status` and the agent's log say why")
        except (UnreachableError, ApiRefusedError) as refused:
            error = refused
        if time.monotonic() > deadline:
            raise error
        time.sleep(POLL_S)


def _key_pair(api: Api) -> None:
    """Make this machine's own SSH key once, and have the cloud know its public half."""
    key = ssh.key_path()
    if not key.exists():
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "yuntai", "-f", str(key)]
        subprocess.run(words, check=True, timeout=30)
    known = [pair["KeyPairName"] for pair in api.every(ECS, "DescribeKeyPairs", "KeyPairs", "KeyPair")]
    if KEY_PAIR not in known:
        public = Path(f"{key}.pub").read_text().strip()
        api.ecs("ImportKeyPair", KeyPairName=KEY_PAIR, PublicKeyBody=public)


def _image(api: Api, name: str) -> None:
    """Import a guest image unless one of its name is there."""
    if any(one["ImageName"] == name for one in api.every(ECS, "DescribeImages", "Images", "Image")):
        return
    folder = Home(default_home()).guest
    manifest = folder / f"{name}.json"
    os_name = msgspec.json.decode(manifest.read_bytes(), type=Manifest).os_name if manifest.exists() else ""
    images.import_file(api, folder / f"{name}.qcow2", name, os_name, "h1")


def _instance(api: Api) -> str:
    """Return the id of the first VM, made now if there is none."""
    for one in api.every(ECS, "DescribeInstances", "Instances", "Instance", InstanceName=NAME):
        if one["Status"] == "Stopped":
            api.ecs("StartInstance", InstanceId=one["InstanceId"])
        return str(one["InstanceId"])
    answer = api.ecs(
        "RunInstances",
        ImageId=instances.image_id(api, IMAGES[0]),
        InstanceType="ecs.yt1.nano",
        InstanceName=NAME,
        HostName=NAME,
        KeyPairName=KEY_PAIR,
    )
    return str(answer["InstanceIdSets"]["InstanceIdSet"][0])


def _log_in(guest: ssh.Guest) -> str:
    """Run a command in the guest over ssh, as soon as it lets us; return what it said."""
    deadline = time.monotonic() + LOGIN_S
    while True:
        try:
            done = subprocess.run(
                ssh.command(guest, "root", ["uname -sr; uptime"]),
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout.strip()
            why = done.stderr.strip() or f"ssh ended with {done.returncode}"
        except subprocess.TimeoutExpired:
            why = "ssh did not answer within 30 s"
        except CliError as error:
            why = str(error)
        if time.monotonic() > deadline:
            raise CliError(
                f"no login to {guest.instance_id} within {LOGIN_S:g} s: {why}; "
                f"`bin/yuntai instance console {guest.instance_id}` shows how far its boot came"
            )
        time.sleep(POLL_S)


def _say_what_next(config: Path, instance_id: str, said: str) -> None:
    credentials = load_credentials()
    out.print(f"\n{instance_id} ({NAME}) is Running and answers:")
    for line in said.splitlines():
        out.print(f"    {line}", style="dim")
    out.print(f"""
API endpoint     {credentials.endpoint}   (region {credentials.region})
AccessKey        {credentials_path()}
log in           ssh -F {config} {NAME}        (or: bin/yuntai instance ssh {NAME})

Try next
    bin/yuntai status                                  every process, and what is wrong
    bin/yuntai instance create --image debian --key {KEY_PAIR} --type ecs.yt1.small --name web --wait
    bin/yuntai disk list ; bin/yuntai snapshot create DISK --wait
    bin/yuntai chunkserver list ; make down""")


if __name__ == "__main__":
    sys.exit(main())
