"""Tokens and the transaction by which a machine becomes a host, on a store in memory."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from yuntai import config as configuration
from yuntai.config import Config, Tls
from yuntai.control.errors import ApiError
from yuntai.control.requests import joining
from yuntai.control.requests.types import Caller
from yuntai.model.cluster import ChunkServer, Host, HostPool
from yuntai.model.joining import HostToken, RemovedHost
from yuntai.model.joinwire import ChunkDisk, Joining
from yuntai.state import MemoryStore

CALLER = Caller(account="1", request_id="req-1")
FEATURES = ("avx", "avx2")
H1 = Host(
    id="h1", address="10.0.0.1", cpus=2, memory_mib=4096, accelerator="kvm", cpu_vendor="AMD", cpu_features=FEATURES,
    mce_banks=9, seen="2026-01-01T00:00:00Z", vcpus_max=16, memory_mib_max=3000,
    versions={"qemu": "10.0.13", "libvirt": "11.3.0"},
)  # fmt: skip
POOL = HostPool(id="default", cpu_model="EPYC", cpu_vendor="AMD", cpu_features=FEATURES, mce_banks=9, accelerator="kvm")


def asked(**changes: Any) -> Joining:
    made = Joining(
        machine="machine-2", host="h2", address="10.0.0.2", rack="rack-2", cpus=4, memory_mib=8192, accelerator="kvm",
        disks=(ChunkDisk(path="/disk/a", port=7101),), cpu_model="EPYC", cpu_vendor="AMD", cpu_features=FEATURES,
        mce_banks=9,
    )  # fmt: skip
    return replace(made, **changes)


class World:
    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        for name, digit in (("cluster", "a"), ("token", "b")):
            (folder / name).write_text(digit * 64)
            (folder / name).chmod(0o600)
        self.config = Config(
            cluster="c", host="h1", address="10.0.0.1", etcd=["10.0.0.1:2379"], secrets_dir=str(folder),
            ovn_nb="tcp:10.0.0.1:6641", ovn_sb="tcp:10.0.0.1:6642",
        )  # fmt: skip

    async def begin(self) -> World:
        for record in (H1, POOL, ChunkServer(id="cs-3", number=3, rack="rack-1", host="h1", address="10.0.0.1:7101")):
            await self.store.put(record)
        return self

    async def token(self, **options: Any) -> tuple[str, bytes]:
        token, secret = await joining.create_token(self.store, CALLER, **options)
        return token.id, secret

    async def join(self, token: tuple[str, bytes], **changes: Any) -> Config:
        joined = await joining.join(self.store, self.config, *token, asked(**changes))
        assert joined.secrets == {"cluster": "a" * 64, "token": "b" * 64}
        return msgspec.json.decode(joined.config, type=Config)

    async def refused(self, token: tuple[str, bytes], why: str, **changes: Any) -> None:
        with pytest.raises(ApiError, match=why):
            await joining.join(self.store, self.config, *token, asked(**changes))


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await World(tmp_path).begin()


async def test_a_machine_becomes_a_host_once(world: World, tmp_path: Path) -> None:
    await world.store.put(RemovedHost(id="h2", removed="2026-01-01T00:00:00Z"))
    token = await world.token(rack="rack-7")
    made = await world.join(token)
    assert [(one.id, one.rack, one.port, one.path) for one in made.chunkservers] == [(4, "rack-7", 7101, "/disk/a")]
    assert (made.host, made.address, made.etcd, made.ovn_sb) == (
        "h2",
        "10.0.0.2",
        ["10.0.0.1:2379"],
        "tcp:10.0.0.1:6642",
    )
    (tmp_path / "yuntai.json").write_bytes(configuration.encode(made))
    assert configuration.load(tmp_path / "yuntai.json") == made
    host = (await world.store.need(Host, "h2")).value
    assert (host.rack, host.pool, host.vcpus_max, host.memory_mib_max) == ("rack-7", "default", 0, 0)
    assert (await world.store.need(ChunkServer, "cs-4")).value.host == "h2"
    assert await world.store.get(RemovedHost, "h2") is None

    assert await world.join(token) == made, "asking again changes nothing"
    assert [one.value.number for one in await world.store.list(ChunkServer)] == [3, 4]
    await world.refused(token, "used already, for the host h2", host="h3", address="10.0.0.3")
    await world.refused(token, "used already", machine="machine-3")


async def test_two_machines_with_one_token_are_one_host(world: World) -> None:
    token = await world.token()
    both = await asyncio.gather(
        world.join(token, host="h2", machine="machine-2"),
        world.join(token, host="h3", machine="machine-3", address="10.0.0.3"),
        return_exceptions=True,
    )
    assert sorted(isinstance(one, ApiError) for one in both) == [False, True]
    assert len(await world.store.list(Host)) == 2


async def test_what_is_wrong_with_a_token(world: World) -> None:
    token_id, secret = await world.token()
    stored = (await world.store.need(HostToken, token_id)).value
    assert secret.hex() not in msgspec.json.encode(stored).decode()
    for wrong in ((token_id, b"x" * 32), (token_id, b""), ("ht-0", secret), ("", secret)):
        await world.refused(wrong, "does not know the token")
        with pytest.raises(ApiError, match="does not know the token"):
            await joining.hello(world.store, world.config, *wrong)
    past = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    await world.store.put(replace(stored, expires=past))
    await world.refused((token_id, secret), "expired")
    await world.token()
    assert len(await world.store.list(HostToken)) == 1, "an expired token is swept when another is made"
    for options in ({"minutes": 100_000}, {"minutes": -1}, {"pool": "A B"}, {"rack": "ä"}):
        with pytest.raises(ApiError, match="InvalidParameter"):
            await world.token(**options)


async def test_a_lesser_cpu_is_refused_by_name_unless_it_is_allowed(world: World) -> None:
    lesser = {"cpu_features": ("avx",), "mce_banks": 6}
    token = await world.token()
    await world.refused(token, r"its CPU lacks avx2; it has 6 machine-check banks, 9 are needed", **lesser)
    assert (await world.store.need(HostPool, "default")).value == POOL
    await world.join(await world.token(lower_baseline=True), **lesser)
    pool = (await world.store.need(HostPool, "default")).value
    assert (pool.cpu_features, pool.mce_banks) == (("avx",), 6)


async def test_what_no_permission_can_mix(world: World) -> None:
    token = await world.token(lower_baseline=True)
    await world.refused(token, "its CPU is of Intel, not of AMD", cpu_vendor="Intel")
    await world.refused(token, "runs guests by tcg, not by kvm", accelerator="tcg")
    await world.refused(token, "what its CPU can do is not known", cpu_features=())
    made = await world.join(await world.token(pool="intel"), cpu_vendor="Intel")
    assert (await world.store.need(Host, made.host)).value.pool == "intel"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"host": "h1"}, "there is a host h1"),
        ({"address": "10.0.0.1"}, "is the address of the host h1"),
        ({"address": "somewhere"}, "own IP address"),
        ({"host": "../etc"}, '"host" is not valid'),
        ({"rack": ""}, '"rack" is not valid'),
        ({"machine": ""}, '"machine" is not valid'),
        ({"disks": (ChunkDisk(path="/a", port=1), ChunkDisk(path="/b", port=1))}, "port of its own"),
        ({"tls": {"cert": "a", "key": "b", "ca": "c"}}, "have no certificates"),
    ],
)
async def test_what_a_host_may_not_ask(world: World, changes: dict[str, Any], why: str) -> None:
    await world.refused(await world.token(), why, **changes)
    assert await world.store.get(Host, "h2") is None


async def test_a_cluster_with_certificates_wants_one(world: World) -> None:
    world.config = msgspec.structs.replace(world.config, tls=Tls(cert="/a", key="/b", ca="/c"))
    await world.refused(await world.token(), "hosts of this cluster have certificates")
    made = await world.join(await world.token(), tls={"cert": "/x", "key": "/y", "ca": "/z"})
    assert made.tls == Tls(cert="/x", key="/y", ca="/z")


async def test_hello_says_what_is_wanted_and_nothing_secret(world: World) -> None:
    said = await joining.hello(world.store, world.config, *await world.token(lower_baseline=True))
    assert said.pool.cpu_features == FEATURES
    assert [(peer.id, peer.chunk_ports) for peer in said.peers] == [("h1", (7101,))]
    assert said.versions == {"qemu": "10.0.13", "libvirt": "11.3.0"}
    assert said.lower_baseline
    text = msgspec.json.encode(said).decode()
    assert "a" * 64 not in text
    assert "b" * 64 not in text
    nobody = await joining.hello(world.store, world.config, *await world.token(pool="new"))
    assert not nobody.pool.known


def test_the_oldest_version_of_each() -> None:
    assert joining.oldest([{"qemu": "10.0.13"}, {"qemu": "9.2.1", "libvirt": "11.3.0"}, {"qemu": "10.0.2"}]) == {
        "qemu": "9.2.1",
        "libvirt": "11.3.0",
    }
