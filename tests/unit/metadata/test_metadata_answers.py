"""What the service answers: crawled as cloud-init crawls, in both dialects, and what it refuses."""

from __future__ import annotations

import base64
import json

import pytest
from msgspec.structs import replace

from yuntai.metadata.answers import VERSIONS, Answer, Answers, Asked
from yuntai.metadata.tokens import TTL_MAX_S, Tokens
from yuntai.metadata.tree import Subject
from yuntai.model.compute import Disk, Instance, KeyPair
from yuntai.model.network import Port, Vpc, VSwitch

NOW_S = 1_800_000_000.0
CREATED = {"account": "1000000000000001", "created": "2026-01-01T00:00:00Z"}
MAC = "00:16:3e:00:01:05"
INSTANCE = Instance(
    id="i-1", name="web", hostname="web1", zone="cn-local-a", instance_type="ecs.yt1.nano", cpu=1, memory_mib=256,
    image="m-1", host="h1", vpc="vpc-1", vswitch="vsw-1", port="p-1", security_groups=("sg-1",), system_disk="d-1",
    disks=("d-1",), key_pair="lab", user_data=base64.b64encode(b"#!/bin/sh\n\xff").decode(), **CREATED,
)  # fmt: skip
SUBJECT = Subject(
    instance=INSTANCE,
    port=Port(
        id="p-1", eni="eni-1", vpc="vpc-1", vswitch="vsw-1", mac=MAC, ip="10.0.1.5", security_groups=("sg-1", "sg-2"),
        instance="i-1", **CREATED,
    ),
    vswitch=VSwitch(id="vsw-1", vpc="vpc-1", zone="cn-local-a", cidr="10.0.1.0/24", **CREATED),
    vpc=Vpc(id="vpc-1", cidr="10.0.0.0/16", route_table="rtb-1", router="vrt-1", **CREATED),
    key_pair=KeyPair(id="1:lab", name="lab", public_key="ssh-ed25519 AAAA lab\n", fingerprint="", **CREATED),
    disks=(Disk(id="d-1", zone="z", kind="system", size_gib=1, volume="vol-1", **CREATED),),
    region="cn-local",
)  # fmt: skip
BARE = Subject(
    instance=replace(INSTANCE, user_data="", key_pair="", hostname=""),
    port=SUBJECT.port,
    vswitch=SUBJECT.vswitch,
    vpc=None,
    key_pair=None,
    disks=(),
    region="cn-local",
)


def ask(
    path: str, method: str = "GET", *, dialect: str = "aliyun", subject: Subject = SUBJECT, **headers: str
) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answers(Tokens(b"s" * 32)).answer(Asked(method, path, named, dialect), subject, NOW_S)  # type: ignore[arg-type]


def crawl(path: str, dialect: str, subject: Subject) -> dict[str, str]:
    """Read a folder as cloud-init's MetadataMaterializer does: a slash is a folder, ``0=name`` a key's folder."""
    found: dict[str, str] = {}
    listed = ask(path, dialect=dialect, subject=subject)
    assert listed.status == 200, path
    for line in listed.body.decode().splitlines():
        name = f"{line.split('=')[0]}/" if "=" in line else line
        if path.endswith("/public-keys/0/"):
            assert name == "openssh-key"
        if name.endswith("/"):
            found |= crawl(path + name, dialect, subject)
        else:
            leaf = ask(path + name, dialect=dialect, subject=subject)
            assert leaf.status == 200, path + name
            found[path + name] = leaf.body.decode()
    return found


@pytest.mark.parametrize("dialect", ["aliyun", "ec2"])
@pytest.mark.parametrize("subject", [SUBJECT, BARE], ids=["full", "bare"])
@pytest.mark.parametrize("version", ["2016-01-01", "2021-03-23", "latest"])
def test_everything_that_is_listed_is_there_and_says_something(dialect: str, subject: Subject, version: str) -> None:
    found = crawl(f"/{version}/meta-data/", dialect, subject)
    assert len(found) > 25
    assert all(found.values()), [path for path, text in found.items() if not text]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("instance-id", "i-1"),
        ("hostname", "web1"),
        ("local-hostname", "web1"),
        ("region-id", "cn-local"),
        ("zone-id", "cn-local-a"),
        ("placement/availability-zone", "cn-local-a"),
        ("private-ipv4", "10.0.1.5"),
        ("mac", MAC),
        ("image-id", "m-1"),
        ("instance/instance-type", "ecs.yt1.nano"),
        ("vpc-id", "vpc-1"),
        ("vpc-cidr-block", "10.0.0.0/16"),
        ("vswitch-id", "vsw-1"),
        ("vswitch-cidr-block", "10.0.1.0/24"),
        ("network-type", "vpc"),
        ("owner-account-id", "1000000000000001"),
        ("serial-number", "i-1"),
        ("public-keys/0/openssh-key", "ssh-ed25519 AAAA lab"),
        (f"network/interfaces/macs/{MAC}/network-interface-id", "eni-1"),
        (f"network/interfaces/macs/{MAC}/netmask", "255.255.255.0"),
        (f"network/interfaces/macs/{MAC}/gateway", "10.0.1.1"),
        (f"network/interfaces/macs/{MAC}/device-number", "0"),
        (f"network/interfaces/macs/{MAC}/local-ipv4s", "10.0.1.5"),
        ("security-groups", "sg-1\nsg-2"),
    ],
)
def test_keys(path: str, text: str) -> None:
    for version in ("2016-01-01", "latest"):
        assert ask(f"/{version}/meta-data/{path}").body.decode() == text


def test_all_is_the_tree_as_json() -> None:
    everything = json.loads(ask("/2016-01-01/meta-data/all").body)
    assert everything["instance-id"] == "i-1"
    assert everything["public-keys"]["0"]["openssh-key"] == "ssh-ed25519 AAAA lab"
    assert everything["network"]["interfaces"]["macs"][MAC]["primary-ip-address"] == "10.0.1.5"


def test_listings_of_keys_differ_by_dialect() -> None:
    assert ask("/latest/meta-data/public-keys/").body == b"0/"
    assert ask("/latest/meta-data/public-keys/", dialect="ec2").body == b"0=lab"


def test_top_listings() -> None:
    assert ask("/").body.decode().splitlines() == list(VERSIONS)
    assert ask("/latest/").body == b"dynamic/\nmeta-data/\nuser-data"
    assert ask("/latest/", subject=BARE).body == b"dynamic/\nmeta-data/"


def test_user_data_is_given_byte_for_byte_or_not_at_all() -> None:
    assert ask("/2016-01-01/user-data").body == b"#!/bin/sh\n\xff"
    assert ask("/2016-01-01/user-data", subject=BARE).status == 404


def test_vendor_data_holds_the_password_where_there_is_one() -> None:
    assert ask("/2016-01-01/vendor-data").status == 404
    secret = Subject(
        instance=replace(INSTANCE, password_hash="$6$salt$hash/."), port=SUBJECT.port, vswitch=SUBJECT.vswitch,
        vpc=None, key_pair=None, disks=(), region="cn-local",
    )  # fmt: skip
    text = ask("/2016-01-01/vendor-data", subject=secret).body.decode()
    assert text.startswith("#cloud-config\n")
    assert '\n      password: "$6$salt$hash/."\n' in text


def test_the_identity_document_is_there_for_ec2() -> None:
    assert ask("/latest/dynamic/instance-identity", dialect="ec2").body == b"document"
    document = json.loads(ask("/2021-03-23/dynamic/instance-identity/document", dialect="ec2").body)
    assert document["instanceId"] == document["instance-id"] == "i-1"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/latest/meta-data/none", "GET", 404),
        ("/latest/meta-data/instance-id/below", "GET", 404),
        ("/newest/meta-data/", "GET", 404),
        ("/latest/none", "GET", 404),
        ("/latest/meta-data/", "POST", 405),
        ("/latest/meta-data/", "DELETE", 405),
        ("/latest/meta-data/", "PUT", 405),
        ("/latest/api/token", "PUT", 400),
    ],
)
def test_refusals(path: str, method: str, status: int) -> None:
    assert ask(path, method).status == status


@pytest.mark.parametrize("ttl", ["0", "-1", "21601", "x", "", "9" * 30, "\uff11"])
def test_a_wrong_time_to_live_is_refused(ttl: str) -> None:
    assert ask("/latest/api/token", "PUT", x_aliyun_ecs_metadata_token_ttl_seconds=ttl).status == 400


@pytest.mark.parametrize("vendor", ["aliyun_ecs", "aws_ec2"])
def test_a_token_opens_and_a_wrong_one_does_not(vendor: str) -> None:
    made = ask("/latest/api/token", "PUT", **{f"x_{vendor}_metadata_token_ttl_seconds": str(TTL_MAX_S)})
    assert made.status == 200
    header = f"x_{vendor}_metadata_token"
    assert ask("/latest/meta-data/instance-id", **{header: made.body.decode()}).body == b"i-1"
    for wrong in ("", "x", made.body.decode()[:-2] + "zz", "é"):
        assert ask("/latest/meta-data/instance-id", **{header: wrong}).status == 401
    assert ask("/latest/meta-data/instance-id").status == 200  # the token is optional


def test_a_token_ends_and_is_for_one_port_only() -> None:
    tokens = Tokens(b"k" * 32)
    token = tokens.make("p-1", 60, NOW_S)
    assert tokens.valid(token, "p-1", NOW_S + 59)
    assert not tokens.valid(token, "p-1", NOW_S + 61)
    assert not tokens.valid(token, "p-2", NOW_S)
    assert not Tokens(b"z" * 32).valid(token, "p-1", NOW_S)


def test_a_token_is_not_given_through_a_proxy() -> None:
    asked = {"x_aws_ec2_metadata_token_ttl_seconds": "60", "x_forwarded_for": "10.0.0.1"}
    assert ask("/latest/api/token", "PUT", **asked).status == 403
